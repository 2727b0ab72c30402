"""What processes tell one another."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lib.utils.dist import ALONE, Process, agree, broadcast_json, gather_json, share_buffers


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
