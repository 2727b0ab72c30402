"""Trainings to interrupt and to damage."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.jobs import Job
from tests.helpers import TINY, YAMLS, as_opts, tiny_opts

RUN = {  # two epochs of six steps and an evaluation, with a checkpoint after every other step
    "TRAIN.IMAGES_PER_GPU": 1,
    "TRAIN.END_EPOCH": 2,
    "TRAIN.SAVE_STEPS": 2,
    "TRAIN.VALIDATE_EVERY": 1,
    "TRAIN.EMA": 0.9,
}


@pytest.fixture(scope="session")
def job(coco_root, tmp_path_factory) -> Callable[[Path], Job]:
    """Make a training, not started yet, that writes below a folder."""
    arch = tmp_path_factory.mktemp("arch") / "tiny.json"
    TINY.to_json(arch)

    def make(out: Path) -> Job:
        files = ["--cfg", str(YAMLS["coco"]), "--superconfig", str(arch)]
        folder = out / "output/coco_kpt/pose_mobilenet/mobile"
        return Job([*files, *tiny_opts(coco_root, out), *as_opts(RUN)], folder, out / "output.txt")

    return make


class Whole(NamedTuple):
    """An uninterrupted training."""

    job: Job
    seconds: float


@pytest.fixture(scope="session")
def whole(job, tmp_path_factory) -> Whole:
    whole = job(tmp_path_factory.mktemp("whole"))
    began = time.monotonic()
    assert whole.run() == 0, whole.last_output()
    return Whole(whole, time.monotonic() - began)
