"""Scores of architectures, computed by all processes.

    scores = SharedScores(process, score)
    scores.serve()  # on the other ranks, until rank 0 closes
    scores(archs)   # on rank 0: the scores in the order of `archs`

Each process takes the next architecture that is left, so that a slow one delays nobody. The next
number and the scores are in the store of the process group. An example with two processes:

    rank 0: takes 0, which is large                  has 0, yields 0 and 1    takes 3   yields 2, 3
    rank 1: takes 1                has 1   takes 2                   has 2

Only rank 0 reads and writes the files of a search. When a process is lost, the others end with a
ValueError: at once if they wait, otherwise at the end of the generation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pickle import UnpicklingError
from typing import Any

from torch.distributed.distributed_c10d import PrefixStore

from lib.utils.dist import Process, barrier, broadcast, store_of_group

Arch = Any  # an ArchSpec


class SharedScores:
    """archs -> their scores, in order, as soon as those before are there."""

    def __init__(self, process: Process, score: Callable[[Arch], float]) -> None:
        self.process = process
        self.score = score
        self._rounds = 0
        self._waiting = True  # whether the other ranks wait for architectures

    def __call__(self, archs: Sequence[Arch]) -> Iterator[float]:
        """On rank 0, to be read to the end."""
        if self.process.world_size == 1:
            yield from map(self.score, archs)
        elif archs:
            with _answered():
                broadcast(self.process, archs)
            yield from self._share(archs)

    def serve(self) -> None:
        """On the other ranks: take part until rank 0 closes."""
        while archs := self._next_archs():
            for _ in self._share(archs):
                pass

    def close(self) -> None:
        """On rank 0: let the others return from `serve`, if they wait there.

        If they do not, after an error in a generation, they end as this process does.
        """
        with contextlib.suppress(RuntimeError):
            if self._waiting:
                broadcast(self.process, [])

    def _next_archs(self) -> Sequence[Arch]:
        with _answered():
            return broadcast(self.process, None)

    def _share(self, archs: Sequence[Arch]) -> Iterator[float]:
        """The scores of all, of which this process computes those that nobody else has taken."""
        self._rounds += 1
        self._waiting = False
        store = PrefixStore(f"scores {self._rounds}", store_of_group())
        done = 0
        while (index := _take(store)) < len(archs):
            score = self.score(archs[index])
            with _answered():
                store.set(str(index), repr(score))
            while done + 1 < len(archs) and _has(store, done):  # the last one is read below
                yield float(store.get(str(done)))
                done += 1
        with _answered():
            barrier(self.process)  # all scores are there, or a process is lost
        self._waiting = True
        for index in range(done, len(archs)):
            yield float(store.get(str(index)))


def _take(store: PrefixStore) -> int:
    """The number of the next architecture, for this process alone."""
    with _answered():
        return store.add("taken", 1) - 1


def _has(store: PrefixStore, index: int) -> bool:
    with _answered():
        return store.check([str(index)])


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """ValueError in place of the error of a process that does not answer, or not to its end."""
    try:
        yield
    except (RuntimeError, UnpicklingError):
        raise ValueError("another process has ended; the same command resumes the search") from None
