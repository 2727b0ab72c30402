"""A study that is stopped stops its trainings, which save and go on with the same command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from lib.utils.lock import LOCK
from tests.faults.jobs import wait_until
from tests.helpers import ROOT, TINY

SMALL = ["TRAIN.IMAGES_PER_GPU", "2", "TRAIN.SAVE_STEPS", "1", "WORKERS", "0"]
SECONDS = 120  # on a machine with other work


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "jobs", "number"),
    [("ablation", 1, signal.SIGINT), ("modern", 2, signal.SIGTERM)],
)
def test_a_stopped_study_stops_its_trainings(
    study, jobs, number, coco_root, crowd_pose_root, tmp_path
):
    """The signal comes to the study alone, unlike Ctrl-C in a terminal."""
    TINY.to_json(tmp_path / "tiny.json")
    mix = ["DATASET.MIX", "[]", "DATASET.ROOT", str(crowd_pose_root), "DATASET.INPUT_SIZE", "64"]
    flags = {
        "ablation": ["--arch", str(tmp_path / "tiny.json"), "--data", str(coco_root)],
        "modern": ["--people", "real", "--parts", "wahr", "--jobs", str(jobs), *mix],
    }[study]
    command = [sys.executable, "-m", "tools.study", study, "--epochs", "500", "--seeds", "0"]
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*command, "--out", str(out), *flags, *SMALL],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: process.poll() or len([*out.rglob("checkpoint.pth.tar")]) == jobs)
    finally:
        process.send_signal(number)
        errors = process.communicate(timeout=SECONDS)[1]
    assert process.returncode == 130, errors
    assert errors.endswith("interrupted\n")
    assert not list(out.rglob(LOCK))
    logs = [path.read_text(encoding="utf-8") for path in out.rglob("*_train.log")]
    assert [log.count("the same command resumes") for log in logs] == [1] * jobs
