"""A mistake of all processes of torchrun is one line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from lib.utils import cli
from tests.faults.jobs import free_port
from tests.helpers import ROOT


@pytest.fixture
def store(monkeypatch) -> dist.TCPStore:
    """The store of a launcher, as torchrun's environment names it."""
    port = free_port()
    for name, value in {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "3",
        "RANK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return dist.TCPStore("localhost", port, is_master=True, wait_for_workers=False)


def said_by_three(texts: list[str]) -> list[str]:
    """What three processes say; each has to return when its text is out, and not before."""
    said = []

    def say(text: str) -> None:
        time.sleep(0.2)
        said.append(text)

    def one(text: str) -> None:
        cli.once(text, lambda: say(text))
        assert text in said

    with ThreadPoolExecutor(3) as processes:
        assert list(processes.map(one, texts)) == [None] * 3
    return sorted(said)


def test_one_process_says_what_all_have_to_say(store):
    assert said_by_three(["no data"] * 3) == ["no data"]


def test_what_one_process_alone_has_to_say_is_said(store):
    assert said_by_three(["no data", "no GPU 2", "no data"]) == ["no GPU 2", "no data"]


def test_processes_that_were_started_again_say_it_again(store, monkeypatch):
    assert said_by_three(["no data"] * 3) == ["no data"]
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert said_by_three(["no data"] * 3) == ["no data"]


def test_without_an_answer_each_process_says_it(store, monkeypatch):
    monkeypatch.setattr(cli, "ANSWER", timedelta(seconds=0.2))
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    assert said_by_three(["no data"] * 3) == ["no data"] * 3


def test_without_torchrun_each_process_says_it(store, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
    assert said_by_three(["no data"] * 3) == ["no data"] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["dist_train.py", "--cfg", "nowhere.yaml"], "error: cannot read the config nowhere.yaml"),
        (["valid.py", "--nothing"], "error: the following arguments are required: --cfg"),
        (["-m", "tools.search", "--supernet=x", "--out=y"], "error: give --max-gmacs"),
    ],
)
def test_a_mistake_is_one_line_below_torchrun(arguments, line):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3"]
    done = subprocess.run(
        [*launcher, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.count(line) == 1, done.stderr
    assert "exitcode  : 2" in done.stderr
