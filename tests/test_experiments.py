"""Every file below experiments/ trains and is evaluated; ablations cost what the paper says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lib.config import load_config
from lib.models import build_model
from lib.models.arch import ArchSpec
from lib.training import run
from lib.utils.complexity import count_macs
from tests.helpers import JOINTS, ROOT, tiny_opts
from tests.runs import train

EXPERIMENTS = sorted(set((ROOT / "experiments").rglob("*.yaml")) - {JOINTS})
ABLATION = ROOT / "experiments/crowd_pose/ablation"
HALF = ROOT / "mobile_configs/prune-S.json"  # "0.5 LitePose"
SMALL = {  # one step on four images, and as many to evaluate
    "DATASET.INPUT_SIZE": 64,
    "DATASET.MIX": [],
    "DATASET.MAX_IMAGES": 4,
    "DATASET.MAX_NUM_PEOPLE": 3,  # random weights see many more
    "SUPERNET.RESOLUTIONS": [64],
    "TEST.IMAGES_PER_GPU": 4,
    "TRAIN.VALIDATE_EVERY": 1,
}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_experiment_trains_and_is_evaluated(path, request, tmp_path, monkeypatch, caplog):
    """All that `dist_train.py` does but write the weights, of which W48 has 64 million."""
    monkeypatch.setattr(run, "save_training", lambda *args: None)
    monkeypatch.setattr(run, "save_weights", lambda *args: None)
    data_set = path.relative_to(ROOT).parts[1]
    known = data_set in ("animal", "crowd_pose")  # synthetic data are in COCO's layout
    data = request.getfixturevalue(f"{data_set if known else 'coco'}_root")
    small = [str(part) for pair in SMALL.items() for part in pair]
    cfg = load_config(path, [*tiny_opts(data, tmp_path), *small])
    caplog.set_level("INFO")
    assert train(cfg, tmp_path / "out", arch=None) is None
    assert "4 images, 1 steps an epoch" in caplog.text
    assert "evaluation after step 1" in caplog.text
    [results] = (tmp_path / "out/results").iterdir()
    assert results.name.startswith("keypoints_")


@pytest.mark.parametrize("kernel", [3, 5, 9])
def test_the_kernels_of_the_ablation_are_the_only_difference(kernel):
    whole = ArchSpec.from_json(HALF)
    stages = tuple(
        replace(stage, blocks=tuple((expansion, kernel) for expansion, _ in stage.blocks))
        for stage in whole.stages
    )
    assert ArchSpec.from_json(ABLATION / f"kernel_{kernel}.json") == replace(whole, stages=stages)


@pytest.mark.parametrize(
    ("experiment", "arch", "gmacs"),
    [
        ("scratch", ABLATION / "kernel_3.json", 3.77),
        ("scratch", ABLATION / "kernel_5.json", 4.14),
        ("scratch", HALF, 4.69),
        ("no_fusion", HALF, 4.06),
    ],
)
def test_an_ablation_costs_what_the_paper_says(experiment: str, arch: Path, gmacs: float):
    spec = ArchSpec.from_json(arch)
    cfg = load_config(ABLATION / f"{experiment}.yaml", img_size=spec.img_size)
    with torch.device("meta"):
        macs = count_macs(build_model(cfg, spec), spec.img_size)
    assert macs["paper"] / 1e9 == pytest.approx(gmacs, abs=0.02)


def test_only_the_head_differs_without_fusion():
    with_it = load_config(ABLATION / "scratch.yaml", ["MODEL.FUSION_HEAD", "False"])
    assert load_config(ABLATION / "no_fusion.yaml").dump() == with_it.dump()


@pytest.mark.parametrize("faithful", ["coco/mobilenet/finetune", "crowd_pose/mobilenet/mobile"])
def test_the_modern_recipe_changes_training_alone(faithful):
    """Network, data, evaluation and epochs are those of the faithful one; the codec is not."""
    path = ROOT / f"experiments/{faithful}.yaml"
    one, other = (load_config(p, img_size=256) for p in (path, path.with_name("modern.yaml")))
    assert {key for key in one.MODEL if other.MODEL[key] != one.MODEL[key]} == {"CODEC"}
    assert other.TEST == one.TEST
    for key in ("ROOT", "DATASET", "TRAIN", "TEST", "SIGMA", "FLIP", "MAX_NUM_PEOPLE"):
        assert other.DATASET[key] == one.DATASET[key]
    for key in ("END_EPOCH", "IMAGES_PER_GPU", "OPTIMIZER", "LR", "LR_BATCH"):
        assert other.TRAIN[key] == one.TRAIN[key]
