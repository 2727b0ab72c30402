"""Two trainings into one folder, and the processes of a launcher that was killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from lib.utils.cli import MISTAKE
from lib.utils.lock import LOCK
from tests.faults.jobs import end, wait_until
from tests.helpers import ROOT

SECONDS = 300  # on a machine with other work


def test_a_second_training_is_refused_until_the_first_one_is_gone(job, tmp_path):
    """Killed, too; the loader processes of the first one may live a little longer."""
    part = job(tmp_path)
    first = part.start("TRAIN.END_EPOCH", "500", "WORKERS", "1")
    try:
        wait_until(part.checkpoint.exists)
        length = part.output.stat().st_size
        assert part.run() == MISTAKE
        lines = part.output.read_text()[length:].splitlines()
        [line] = [line for line in lines if "error" in line]
        assert line.startswith(f"error: {part.folder} is in use by host ")
        assert f", process {first.pid}, since 20" in line
        assert first.is_alive()
    finally:
        end([first])
    assert (part.folder / LOCK).exists()
    assert part.run() == 0, part.last_output()
    assert not (part.folder / LOCK).exists()


@pytest.mark.slow
def test_the_processes_of_a_killed_launcher_save_and_end(job, tmp_path):
    part = job(tmp_path)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    process = subprocess.Popen(
        [*launcher, str(ROOT / "dist_train.py"), *part.args, "TRAIN.END_EPOCH", "500"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    try:
        wait_until(part.checkpoint.exists)
        process.kill()
        output, _ = process.communicate(timeout=SECONDS)  # until nobody can write to the pipe
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert "the same command resumes" in output
    assert not (part.folder / LOCK).exists()
