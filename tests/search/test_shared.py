"""A search of several processes is that of one, and ends when a process is lost."""

from __future__ import annotations

import os
import time

import pytest

from lib.search.evolution import Candidate, Evolution, Search
from lib.search.shared import SharedScores
from lib.utils.dist import ALONE, Process
from lib.utils.journal import Journal
from tests.conftest import FORK
from tests.search.spaces import Line, separable, total

SHORT = Evolution(generations=4, population=5, parents=3, mutation=0.2)


class Slow:
    """An expensive score that remembers what it was asked for; even numbers take longer."""

    def __init__(self) -> None:
        self.asked = []

    def __call__(self, arch) -> float:
        self.asked.append(arch)
        time.sleep(0.02 if sum(arch) % 2 else 0.05)
        return separable(arch) / 3


def search_in(path, scores) -> list[Candidate]:
    journal = Journal(path, {})
    return Search(Line(), total, scores, {"gmacs": 14}, journal).evolve(SHORT)


@pytest.mark.parametrize("count", [2, 3])
def test_the_journal_is_that_of_one_process(together, tmp_path, count):
    def work(process: Process):
        score = Slow()
        scores = SharedScores(process, score)
        if not process.is_main:
            scores.serve()
            return score.asked
        candidates = search_in(tmp_path / "together", scores)
        scores.close()
        return candidates, score.asked

    alone = search_in(tmp_path / "alone", SharedScores(ALONE, Slow()))
    (candidates, asked), *others = together(work, count)
    assert candidates == alone
    assert (tmp_path / "together").read_bytes() == (tmp_path / "alone").read_bytes()
    parts = [asked, *others]
    assert sorted(sum(parts, [])) == sorted(one.arch for one in alone)  # each once
    assert all(parts)


def test_known_scores_are_asked_of_nobody(together, tmp_path):
    alone = search_in(tmp_path / "j", SharedScores(ALONE, Slow()))

    def work(process: Process):
        score = Slow()
        scores = SharedScores(process, score)
        candidates = []
        if process.is_main:
            candidates = search_in(tmp_path / "j", scores)
            scores.close()
        else:
            scores.serve()
        return candidates, score.asked

    assert together(work, 2) == [(alone, []), ([], [])]


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_the_others_end_with_one_line_when_a_process_is_lost(tmp_path, lost):
    ended = FORK.Queue()

    def work(rank: int) -> None:
        import torch.distributed as dist

        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=rank, world_size=3)
        score = Slow()

        def mortal(arch) -> float:
            if rank == lost and len(score.asked) == 2:
                os._exit(9)
            return score(arch)

        scores = SharedScores(Process(rank, 3, ALONE.device), mortal)
        try:
            search_in(tmp_path / "j", scores) if rank == 0 else scores.serve()
        except ValueError as error:
            ended.put((rank, str(error)))

    processes = [FORK.Process(target=work, args=(rank,)) for rank in range(3)]
    for process in processes:
        process.start()
    lines = dict(ended.get(timeout=60) for _ in range(2))
    for process in processes:
        process.join()
    assert set(lines) == {0, 1, 2} - {lost}
    assert set(lines.values()) == {"another process has ended; the same command resumes the search"}
    search_in(tmp_path / "j", SharedScores(ALONE, Slow()))
    search_in(tmp_path / "alone", SharedScores(ALONE, Slow()))
    assert (tmp_path / "j").read_bytes() == (tmp_path / "alone").read_bytes()
