"""What processes tell one another."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lib.utils.dist import ALONE, Process, agree, broadcast_json, gather_json, leave, share_buffers

FORK = multiprocessing.get_context("fork")


def _one(work: Callable, rank: int, world_size: int, meeting: Path, queue) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size
    )
    process = Process(rank, world_size, torch.device("cpu"))
    queue.put((rank, work(process)))
    leave(process)


@pytest.fixture
def together(tmp_path):
    """What `work(process)` returns in each of three processes."""

    def run(work: Callable[[Process], Any]) -> list[Any]:
        queue = FORK.Queue()
        arguments = (3, tmp_path / "meeting", queue)
        processes = [FORK.Process(target=_one, args=(work, rank, *arguments)) for rank in range(3)]
        for process in processes:
            process.start()
        answers = dict(queue.get(timeout=60) for _ in processes)
        for process in processes:
            process.join()
        return [answers[rank] for rank in range(3)]

    return run


def told(process: Process) -> Any:
    """Of another length in each process."""
    return {"rank": process.rank, "list": list(range(1000 * process.rank)), "text": "è"}


def test_the_first_process_gets_what_each_gave(together):
    expected = [told(Process(rank, 3, torch.device("cpu"))) for rank in range(3)]
    assert together(lambda process: gather_json(process, told(process))) == [expected, [], []]


def test_all_get_what_the_first_process_gave(together):
    first = told(Process(0, 3, torch.device("cpu")))
    assert together(lambda process: broadcast_json(process, told(process))) == [first] * 3


def test_nobody_else_is_asked_where_nobody_is():
    assert gather_json(ALONE, told(ALONE)) == [told(ALONE)]
    assert broadcast_json(ALONE, told(ALONE)) == told(ALONE)
    assert agree(ALONE, lambda: 1) == 1


def test_exit_codes_agree(together):
    assert together(lambda process: agree(process, lambda: 1 + process.rank)) == [1, 1, 1]


def test_a_mistake_is_told_by_one_and_known_to_all(together, capfd):
    def fail() -> int:
        raise ValueError("no picture")

    assert together(lambda process: agree(process, fail)) == [2, 2, 2]
    assert capfd.readouterr().err == "error: no picture\n"


def test_statistics_become_the_first_processs(together):
    def means(process: Process) -> list[float]:
        model = nn.BatchNorm1d(2)
        model.running_mean.fill_(process.rank + 5)
        model.num_batches_tracked.fill_(process.rank + 7)
        share_buffers(model, process)
        return [*model.running_mean.tolist(), int(model.num_batches_tracked)]

    assert together(means) == [[5.0, 5.0, 7]] * 3
