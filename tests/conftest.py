"""Data that several tests read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lib.dataset.keypoints import COCO, CROWD_POSE
from lib.dataset.synthetic import SceneParams
from lib.dataset.synthetic_layout import make_dataset

torch.set_num_threads(1)  # networks are tiny; threads that wait for one another are slower

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
