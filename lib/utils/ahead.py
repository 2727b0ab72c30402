"""Overlapping work: results that threads compute before they are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
END: Any = object()  # follows the last item


def ahead(items: Generator[Item], limit: int = 2) -> Generator[Item]:
    """The same items in the same order, up to `limit` of them computed before they are read.

    One thread computes the items, one after the other. With two stages, `ahead(second(ahead(
    first())))`, the second works on item 1 while the first computes item 2. An exception of
    `items` is raised here, after the items before it. Closing this generator closes `items`.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    pending = deque(pool.submit(next, items, END) for _ in range(limit))
    try:
        while (item := pending.popleft().result()) is not END:
            pending.append(pool.submit(next, items, END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)  # waits for the item that is being computed
        items.close()


def spread(
    function: Callable[[Item], Result], items: Generator[Item], workers: int
) -> Generator[Result]:
    """`function` of all items in their order, computed for `workers` of them at the same time.

    One more item waits for the next worker that is free. A result is there as soon as it is
    computed, also while `items` waits for the next item. An exception of `items` or `function` is
    raised in the place of the result. Closing this generator closes `items`.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="spread")
    started = ahead((pool.submit(function, item) for item in items), limit=workers + 1)
    try:
        for future in started:
            yield future.result()
    finally:
        started.close()
        pool.shutdown(cancel_futures=True)
        items.close()
