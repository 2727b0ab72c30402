"""Generators that run ahead give what they would give, end as they would, and leave no thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator

import pytest

from lib.utils.ahead import ahead, spread


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    assert not [t for t in threading.enumerate() if t.name.startswith(("ahead", "spread"))]


def count(to: int, closed: list | None = None):
    try:
        yield from range(to)
    finally:
        if closed is not None:
            closed.append(True)


def each(work: Callable, items: Generator):
    with contextlib.closing(items):
        yield from map(work, items)


def fails_at(number: int):
    yield from range(number)
    raise ValueError(f"no {number}")


@pytest.mark.parametrize("most", [1, 2, 100])
def test_the_same_items_come_in_the_same_order(most):
    assert list(ahead(count(50), most)) == list(range(50))


def test_nothing_comes_of_nothing():
    assert list(ahead(count(0))) == []


def test_items_are_made_in_another_thread_ahead_of_their_reader():
    made, third = [], threading.Event()

    def make():
        for i in range(5):
            made.append(threading.get_ident())
            if i == 2:
                third.set()
            yield i

    with contextlib.closing(ahead(make(), limit=2)) as items:
        assert next(items) == 0
        assert third.wait(10)
    assert threading.get_ident() not in made


def test_never_more_than_asked_for_is_made_ahead():
    made = []

    def make():
        for i in range(50):
            made.append(i)
            yield i

    for item in ahead(make(), limit=2):
        assert len(made) <= item + 1 + 2 + 2  # read, waiting, and one in each thread's hands


def test_an_exception_comes_after_the_items_before_it():
    items = ahead(ahead(fails_at(3)))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="no 3"):
        next(items)


def test_an_exception_in_the_middle_ends_the_threads_on_both_sides():
    closed = []

    def work(item):
        if item == 2:
            raise ValueError("no 2")
        return item

    chain = ahead(each(str, ahead(each(work, count(99, closed)))))
    with pytest.raises(ValueError, match="no 2"):
        list(chain)
    assert closed == [True]


@pytest.mark.parametrize("read", [1, 2, 10])
def test_a_reader_that_stops_ends_all_threads_and_closes_the_source(read):
    closed = []
    chain = ahead(each(str, ahead(count(10**6, closed))))
    with contextlib.closing(chain):
        assert [next(chain) for _ in range(read)] == [str(i) for i in range(read)]
    assert closed == [True]


def numbers(count: int):
    yield from range(count)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_their_items(workers):
    def slow_if_even(number: int) -> int:
        time.sleep(0.01 * (number % 2 == 0))
        return 10 * number

    assert list(spread(slow_if_even, numbers(9), workers)) == [10 * i for i in range(9)]
    assert list(spread(slow_if_even, numbers(0), workers)) == []


def test_two_workers_compute_at_the_same_time():
    meeting = threading.Barrier(2, timeout=10)  # one alone would wait here

    def meet(number: int) -> int:
        meeting.wait()
        return number

    assert list(spread(meet, numbers(6), 2)) == list(range(6))


def test_a_result_does_not_wait_for_the_next_item():
    is_read = threading.Event()

    def camera():
        yield "first"
        assert is_read.wait(timeout=10)
        yield "second"

    results = spread(str, camera(), 2)
    assert next(results) == "first"
    is_read.set()
    assert list(results) == ["second"]


def test_an_error_of_a_worker_is_raised_in_its_place():
    items = numbers(9)
    results = spread(lambda number: 1 // (3 - number), items, 2)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert next(items, None) is None  # closed


def test_an_error_of_the_items_is_raised_after_the_results_before_it():
    def three():
        yield from range(3)
        raise OSError("full")

    results = spread(str, three(), 2)
    assert [next(results) for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(OSError, match="full"):
        next(results)


def test_closing_the_results_closes_the_items():
    items = numbers(9)
    results = spread(str, items, 2)
    assert next(results) == "0"
    results.close()
    assert next(items, None) is None
