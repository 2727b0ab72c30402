"""Data that several tests read."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest
import torch

import dist_train
import valid
import weight_transfer
from lib.dataset.keypoints import COCO, CROWD_POSE
from lib.dataset.synthetic import SceneParams
from lib.dataset.synthetic_layout import make_dataset
from lib.utils import cli
from tests.helpers import Result

torch.set_num_threads(1)  # networks are tiny; threads that wait for one another are slower

SCRIPTS = {"dist_train": dist_train, "valid": valid, "weight_transfer": weight_transfer}
FEW = {"train": 6, "val": 4, "test": 4}
SMALL = SceneParams(width=128, height=96, min_people=1, max_people=3, min_labelled=16)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real pictures and annotations."""
    if "LITEPOSE_DATA" not in os.environ:
        pytest.skip("LITEPOSE_DATA does not name the folder of the real pictures")
    return Path(os.environ["LITEPOSE_DATA"])


@pytest.fixture(scope="session")
def coco_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few drawn pictures in COCO's layout; read only."""
    root = tmp_path_factory.mktemp("data") / "coco"
    make_dataset(root, COCO, FEW, SMALL, seed=1)
    return root


@pytest.fixture(scope="session")
def crowd_pose_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few drawn pictures in CrowdPose's layout; read only."""
    root = tmp_path_factory.mktemp("data") / "crowd_pose"
    make_dataset(root, CROWD_POSE, FEW, SMALL, seed=1)
    return root


@pytest.fixture
def call(capsys, monkeypatch):
    """The same script without the three seconds that a new process takes to import."""

    def run(script: str, *args: str) -> Result:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *args])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.run(SCRIPTS[script].main)
        return Result(stopped.value.code or 0, *capsys.readouterr())

    root, lib = logging.getLogger(), logging.getLogger("lib")
    before = root.handlers[:], root.level, lib.level
    yield run
    for handler in set(root.handlers) - set(before[0]):
        handler.close()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    lib.setLevel(before[2])
