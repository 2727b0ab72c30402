"""Work that overlaps: generators that run ahead of their readers, and what each of them takes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from queue import Queue
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


class End(NamedTuple):
    """What comes after the last item."""

    error: BaseException | None  # that ended them; None: there are no more


def ahead(items: Generator[Item], most: int = 2) -> Generator[Item]:
    """The same items in the same order, up to `most` of them made before they are asked for.

    They are made in a thread. An exception of theirs is raised here, after the items before it.
    Closing this generator ends the thread, which closes `items`.
    """
    ready: Queue[Item | End] = Queue(most)
    unwanted = threading.Event()

    def make() -> None:
        with contextlib.closing(items):
            try:
                for item in items:
                    ready.put(item)
                    if unwanted.is_set():
                        return
            except BaseException as error:  # whatever it is, the reader must know
                ready.put(End(error))
            else:
                ready.put(End(None))

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        unwanted.set()
        while not ready.empty():  # the thread may wait for room
            ready.get()
        thread.join()


@dataclass
class Part:
    """What a part of the work has taken so far."""

    items: int = 0
    first: float = 0.0  # seconds, of the first item, which is slow: memory, kernels, files
    others: float = 0.0

    @property
    def mean(self) -> float:
        """Seconds of an item but the first, or of that where there is no other."""
        return self.others / (self.items - 1) if self.items > 1 else self.first


class Clock:
    """How long each part of the work takes for an item."""

    def __init__(self) -> None:
        self.parts: dict[str, Part] = defaultdict(Part)

    def add(self, part: str, seconds: float) -> None:
        """One more item."""
        own = self.parts[part]
        own.items += 1
        if own.items == 1:
            own.first = seconds
        else:
            own.others += seconds

    def coming(self, part: str, items: Generator[Item]) -> Generator[Item]:
        """The same items; what each takes to come is its `part`."""
        with contextlib.closing(items):
            begin = time.perf_counter()
            for item in items:
                self.add(part, time.perf_counter() - begin)
                yield item
                begin = time.perf_counter()

    def each(
        self, part: str, work: Callable[[Item], Made], items: Generator[Item]
    ) -> Generator[Made]:
        """What `work` makes of each item."""
        with contextlib.closing(items):
            for item in items:
                begin = time.perf_counter()
                made = work(item)
                self.add(part, time.perf_counter() - begin)
                yield made
