"""A search of several processes is that of one, and ends when a process is lost."""

from __future__ import annotations

import os
import pickle
import signal
import time

import pytest
import torch.distributed as dist

from lib.search import shared
from lib.search.evolution import Candidate, Evolution, Search
from lib.search.shared import SharedScores
from lib.utils.dist import ALONE, Process
from lib.utils.journal import Journal
from tests.conftest import FORK
from tests.search.spaces import Line, separable, total

ENDED = "another process has ended; the same command resumes the search"
SHORT = Evolution(generations=4, population=5, parents=3, mutation=0.2)


class Slow:
    """An expensive score that remembers what it was asked for; even numbers take longer."""

    def __init__(self) -> None:
        self.asked = []

    def __call__(self, arch) -> float:
        self.asked.append(arch)
        time.sleep(0.02 if sum(arch) % 2 else 0.05)
        return separable(arch) / 3


def search_in(path, scores, see=lambda candidate: None) -> list[Candidate]:
    journal = Journal(path, {})
    search = Search(Line(), total, scores, {"gmacs": 14}, journal, on_candidate=see)
    return search.evolve(SHORT)


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


def errors_of(tmp_path, work) -> dict[int, str]:
    """{rank: message} of the ValueErrors of `work(process)` in three processes."""
    ended = FORK.Queue()

    def run(rank: int) -> None:
        store = f"file://{tmp_path}/store"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=3)
        try:
            work(Process(rank, 3, ALONE.device))
        except ValueError as error:
            ended.put((rank, str(error)))

    processes = [FORK.Process(target=run, args=(rank,)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode is not None, "it does not end"
    return dict(ended.get(timeout=1) for _ in range(ended.qsize()))


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_the_others_end_with_one_line_when_a_process_is_lost(tmp_path, lost):
    def work(process: Process) -> None:
        score = Slow()

        def mortal(arch) -> float:
            if process.rank == lost and len(score.asked) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return score(arch)

        scores = SharedScores(process, mortal)
        search_in(tmp_path / "j", scores) if process.is_main else scores.serve()

    assert errors_of(tmp_path, work) == dict.fromkeys({0, 1, 2} - {lost}, ENDED)
    search_in(tmp_path / "j", SharedScores(ALONE, Slow()))
    search_in(tmp_path / "alone", SharedScores(ALONE, Slow()))
    assert (tmp_path / "j").read_bytes() == (tmp_path / "alone").read_bytes()


def test_an_error_of_the_first_process_in_a_generation_ends_the_others(tmp_path):
    """Such as a full disk; the others still score, and then wait for it."""

    def fail(candidate: Candidate) -> None:
        if candidate.generation == 1:
            raise ValueError("no space left")

    def work(process: Process) -> None:
        scores = SharedScores(process, Slow())
        if not process.is_main:
            return scores.serve()
        try:
            search_in(tmp_path / "j", scores, fail)
        finally:
            scores.close()

    assert errors_of(tmp_path, work) == {0: "no space left", 1: ENDED, 2: ENDED}


def test_half_an_object_of_a_lost_process_is_the_same_line(monkeypatch):
    """gloo returned one, once, when a process was killed while another one waited."""

    def broadcast(process: Process, value: object) -> object:
        return pickle.loads(b"\x05\x95")

    monkeypatch.setattr(shared, "broadcast", broadcast)
    with pytest.raises(ValueError, match=ENDED):
        SharedScores(Process(1, 3, ALONE.device), Slow()).serve()
