"""What processes tell one another."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lib.utils import cli
from lib.utils.dist import ALONE, Process, agree, broadcast, gather, leave, meet, share_buffers
from tests.helpers import ROOT


def told(process: Process) -> Any:
    """Of another length in each process."""
    return {"rank": process.rank, "list": list(range(1000 * process.rank)), "text": "è"}


def test_the_first_process_gets_what_each_gave(together):
    expected = [told(Process(rank, 3, torch.device("cpu"))) for rank in range(3)]
    assert together(lambda process: gather(process, told(process))) == [expected, [], []]


def test_all_get_what_the_first_process_gave(together):
    first = told(Process(0, 3, torch.device("cpu")))
    assert together(lambda process: broadcast(process, told(process))) == [first] * 3


def test_nobody_else_is_asked_where_nobody_is():
    assert gather(ALONE, told(ALONE)) == [told(ALONE)]
    assert broadcast(ALONE, told(ALONE)) == told(ALONE)
    assert agree(ALONE, lambda: 1) == 1


def test_a_single_process_leaves_the_group_that_torchrun_makes():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    leave(ALONE)
    assert not dist.is_initialized()
    leave(ALONE)  # without a group


GROUP_AND_OPTIMIZER = """
from argparse import Namespace
from pathlib import Path

import torch

from lib.config import default_config
from lib.utils.dist import leave, start_process

args = Namespace(gpu="cpu", world_size=1, rank=0, dist_url="")
process = start_process(default_config(), args)
import torch.distributed.nn.functional  # as the first optimizer does
leave(process)
threads = Path("/proc/self/task").iterdir()
print([(thread / "comm").read_text() for thread in threads])
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed in /proc")
def test_a_group_that_was_left_has_no_threads(tmp_path):
    (tmp_path / "job.py").write_text(GROUP_AND_OPTIMIZER, encoding="utf-8")
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        str(tmp_path / "job.py"),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "gloo" not in done.stdout


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


def start(store: dist.Store, *ranks: int) -> list[dist.Store | Exception]:
    """What these ranks of three get when a job is started; patience only where all are there."""
    patience = timedelta(seconds=300 if len(ranks) == 3 else 0.3)
    store.set_timeout(patience)

    def one(rank: int) -> dist.Store | Exception:
        try:
            return meet(store, rank, 3, patience)
        except RuntimeError as error:
            return error

    with ThreadPoolExecutor() as threads:
        return list(threads.map(one, ranks))


def test_a_job_that_is_started_again_reads_nothing_of_the_starts_before():
    """Some of which ended before all processes had come."""
    store = dist.HashStore()
    for number, ranks in enumerate([(2, 1, 0), (2, 0), (2, 1), (1,), (2, 1, 0), (1, 2, 0)]):
        places = start(store, *ranks)
        if len(ranks) < 3:
            assert all(isinstance(place, Exception) for place in places)
            continue
        assert not any(place.check(["address"]) for place in places)
        places[0].set("address", str(number))
        assert [place.get("address") for place in places] == [str(number).encode()] * 3


@pytest.mark.parametrize(("rank", "lines"), [(None, 1), ("0", 1), ("1", 0)])
def test_before_there_is_a_log_the_first_process_alone_warns(monkeypatch, capsys, rank, lines):
    """As of a key on the command line that wins over the architecture's file."""
    for name in ("lastResort", "raiseExceptions"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    monkeypatch.delenv("RANK", raising=False)
    if rank:
        monkeypatch.setenv("RANK", rank)
    unconfigured = logging.Logger("lib.config")  # pytest's handlers are not its
    with pytest.raises(SystemExit):
        cli.run(lambda: unconfigured.warning("the command line wins"))
    assert capsys.readouterr().err.count("the command line wins") == lines
