"""torch.hub loads a predictor from the repository, wherever it is called."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import hubconf
from lib.keypoints import COCO, CROWD_POSE
from lib.models.load import read_network
from lib.predictor import Predictor
from lib.utils import shipped
from lib.utils.checkpoint import save_checkpoint
from tests.helpers import ROOT, TINY, network, tiny_config

CODE = """
import sys, torch
predictor = torch.hub.load(sys.argv[1], "litepose", weights=sys.argv[2], source="local")
print(predictor.keypoints.name, predictor.input_size)
"""


@pytest.fixture
def trained(tmp_path) -> Path:
    cfg = tiny_config(tmp_path, tmp_path)
    path = tmp_path / "checkpoint.pth.tar"
    state = network(cfg).state_dict()
    save_checkpoint(path, state_dict=state, arch=TINY.to_dict(), config=cfg.dump())
    return path


def test_everything_it_depends_on_is_installed():
    assert all(find_spec(name) for name in hubconf.dependencies)


def test_hub_loads_a_predictor_from_the_repository(trained, monkeypatch):
    monkeypatch.chdir(ROOT)
    predictor = torch.hub.load(".", "litepose", weights=trained, source="local", device="cpu")
    assert isinstance(predictor, Predictor)
    assert predictor.keypoints is COCO


def test_without_a_file_hub_loads_weights_of_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)
    predictor = torch.hub.load(".", "litepose", source="local", device="cpu")
    assert predictor.keypoints is CROWD_POSE
    assert predictor.arch == read_network(shipped.DEFAULT).arch


def test_hub_loads_a_predictor_from_elsewhere(trained, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(ROOT), str(trained)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "coco 64\n"), done.stderr
