"""Signals to stop, at inconvenient moments and more than once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

import dist_train
from lib.core import predictions
from lib.training import run
from lib.utils.cli import MISTAKE, STOPPED
from tests.faults.jobs import Job, assert_same_jobs, end, random_faults, wait_until
from tests.runs import signal_me

TERM, INT = signal.SIGTERM, signal.SIGINT


def signals_in(module: object, name: str, *numbers: int) -> Callable[[], None]:
    """A function that makes this process get the signals when it calls `module.name`."""

    def change() -> None:
        function = getattr(module, name)

        def signalled(*args, **kwargs):
            for number in numbers:
                signal_me(number)()
            return function(*args, **kwargs)

        setattr(module, name, signalled)

    return change


def assert_goes_on(part: Job, whole: Job) -> None:
    assert part.run() == 0, part.last_output()
    assert_same_jobs(whole, part)


@pytest.mark.parametrize(
    ("module", "where"),
    [(dist_train, "start_model"), (run, "build_training_set"), (run, "checkpoint_to_resume")],
)
@pytest.mark.parametrize(("number", "code"), [(INT, 130), (TERM, -TERM)])
def test_a_run_that_starts_ends_at_once(job, tmp_path, module, where, number, code):
    """The checkpoint is unchanged."""
    part = job(tmp_path)
    assert part.run("TRAIN.END_EPOCH", "1") == 0
    before, length = part.checkpoint.read_bytes(), part.output.stat().st_size
    assert part.run(first=signals_in(module, where, number)) == code
    assert part.checkpoint.read_bytes() == before
    assert "Traceback" not in part.output.read_text()[length:]


@pytest.mark.parametrize("number", [INT, TERM])
def test_a_signal_during_an_evaluation_waits_for_the_next_step(job, whole, tmp_path, number):
    part = job(tmp_path)
    assert part.run(first=signals_in(predictions, "each_outcome", number)) == STOPPED
    assert part.steps() == 7
    assert_goes_on(part, whole.job)


def test_a_second_ctrl_c_during_an_evaluation_does_not_wait(job, whole, tmp_path):
    part = job(tmp_path)
    assert part.run("WORKERS", "1", first=signals_in(predictions, "each_outcome", INT, INT)) == 130
    assert part.output.read_text().splitlines()[-1] == "interrupted"
    assert part.steps() == 6
    assert_goes_on(part, whole.job)


def test_a_signal_while_a_checkpoint_is_written_lets_it_be_written(job, whole, tmp_path):
    part = job(tmp_path)
    assert part.run(first=signals_in(os, "fsync", TERM, TERM, TERM)) == STOPPED
    assert part.steps() == 3
    assert_goes_on(part, whole.job)


@pytest.mark.slow
def test_a_storm_of_sigterms_is_one_request(job, whole, tmp_path):
    """To the whole process group, from a random moment until the last process has exited.

    MISTAKE: a loader process gets the signal between its fork and its first line.
    """
    rng, codes = random_faults(), []
    for number in range(5):
        part = job(tmp_path / str(number))
        process = part.start("WORKERS", "1")
        try:
            process.join(timeout=rng.uniform(0.05, whole.seconds))
            while process.is_alive():
                os.killpg(process.pid, TERM)
                time.sleep(0.01)
        finally:
            end([process])
        codes.append(process.exitcode)
        assert_goes_on(part, whole.job)
    print(f"exit codes: {codes}")
    assert set(codes) <= {0, STOPPED, MISTAKE, -TERM}  # before the first step, and after the last


def test_a_signal_to_all_processes_ends_a_training_with_its_exit_code(job, tmp_path):
    """To the whole process group, loader processes included, as by Ctrl-C or a job's end."""
    part = job(tmp_path)
    process = part.start("TRAIN.END_EPOCH", "500", "WORKERS", "1")
    try:
        wait_until(part.checkpoint.exists)
        os.killpg(process.pid, TERM)
        process.join(timeout=300)
    finally:
        end([process])
    assert process.exitcode == STOPPED, part.last_output()
    assert "the same command resumes" in part.last_output()
    assert "Traceback" not in part.output.read_text()
