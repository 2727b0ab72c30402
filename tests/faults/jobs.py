"""Trainings started as by users, in forks (which need not import), and their files and output."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import dist_train
from lib.utils import cli
from lib.utils.checkpoint import load_checkpoint, newest_whole
from tests.conftest import FORK
from tests.runs import FILES, assert_equal_files

STEPS = 6  # an epoch's


class Job(NamedTuple):
    """A command line, and where its results go."""

    args: list[str]
    folder: Path  # checkpoints and results
    output: Path  # stdout and stderr of its processes, one run after another

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pth.tar"

    def start(self, *more: str, first: Callable[[], object] = lambda: None) -> BaseProcess:
        """Start `dist_train.py` in a forked process group, which calls `first` before it."""

        def run() -> None:
            os.setpgid(0, 0)
            sys.stdout = sys.stderr = self.output.open("a", buffering=1)
            for number in (1, 2):
                os.dup2(sys.stdout.fileno(), number)
            sys.argv = ["dist_train.py", *self.args, *more]
            first()
            cli.run(dist_train.main)

        self.output.parent.mkdir(parents=True, exist_ok=True)
        process = FORK.Process(target=run)
        process.start()
        return process

    def run(self, *more: str, first: Callable[[], object] = lambda: None) -> int:
        """Run to the end; the exit code, negative for a signal."""
        process = self.start(*more, first=first)
        process.join()
        return process.exitcode

    def steps(self) -> int:
        """Steps done in the newest whole checkpoint; 0 if there is none."""
        try:
            saved = load_checkpoint(newest_whole(self.checkpoint))
        except ValueError:
            return 0
        return STEPS * saved["epoch"] + saved["step"]

    def last_output(self) -> str:
        return self.output.read_text()[-3000:]


def assert_same_jobs(one: Job, other: Job) -> None:
    """Equal weights and results, bit for bit; the configs differ in their folders."""
    for name in (*FILES, "model_best.pth.tar"):
        assert_equal_files(one.folder / name, other.folder / name, leave_out=("/config",))
    results = "results/keypoints_val2017_results.json"
    assert (one.folder / results).read_bytes() == (other.folder / results).read_bytes()


def random_faults() -> random.Random:
    """A generator with a new, printed seed; FAULT_SEED in the environment repeats a seed."""
    seed = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(10**6)))
    print(f"FAULT_SEED={seed}")
    return random.Random(seed)


def wait_until(true: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def all_exited(reader: int, seconds: float) -> bool:
    """Whether all processes that inherited the other end of a pipe exit in time, loaders too."""
    ready, _, _ = select.select([reader], [], [], seconds)
    return bool(ready)


def end(processes: Sequence[BaseProcess]) -> None:
    """Kill what is left of the processes and their children."""
    for process in processes:
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]
