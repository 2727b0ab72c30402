"""The path from real annotations to figures (real images are not part of this repository)."""

from __future__ import annotations

import json

import pytest

from lib.analysis.oracle import Oracle
from lib.config import load_config
from lib.core.evaluate import evaluate_predictions
from lib.core.inference import settings_of
from lib.core.predictions import predict_set
from lib.dataset.build import build_dataset, build_evaluation_set
from lib.dataset.reader import read_annotations
from lib.keypoints import COCO, CROWD_POSE
from tests.helpers import YAMLS


def oracle_table(data_set: str, root, out, *opts: str):
    cfg = load_config(YAMLS[data_set], ["DATASET.ROOT", str(root), "VERBOSE", "False", *opts])
    data = build_evaluation_set(cfg)
    predictions, problems = predict_set(settings_of(cfg), Oracle.from_config(cfg), data)
    assert problems == []
    return evaluate_predictions(data, predictions, out)


@pytest.mark.data
def test_perfect_maps_of_real_coco_images_score_almost_one(data_root, tmp_path):
    people = ("DATASET.MIN_LABELLED_JOINTS", "6")
    table = oracle_table("coco", data_root / "coco", tmp_path, *people)
    assert 0.9 < table["AP"] < 1  # truncated joints and quarter pixels cost the rest
    blind = ("TEST.DETECTION_THRESHOLD", "2.0")  # nothing is that certain
    assert oracle_table("coco", data_root / "coco", tmp_path, *people, *blind)["AP"] == 0


@pytest.mark.data
def test_perfect_maps_of_real_crowd_pose_images_score_almost_one(data_root, tmp_path):
    table = oracle_table("crowd_pose", data_root / "crowd_pose", tmp_path)
    assert table["AP"] > 0.8


@pytest.mark.data
@pytest.mark.parametrize(("data_set", "people"), [("coco", 57), ("crowd_pose", 4)])
def test_every_real_training_image_becomes_a_sample(data_root, data_set, people):
    cfg = load_config(YAMLS[data_set], ["DATASET.ROOT", str(data_root / data_set)])
    dataset = build_dataset(cfg)
    samples = [dataset[0, index] for index in range(len(dataset))]
    assert all(sample.image.shape == (256, 256, 3) for sample in samples)
    assert sum(len(sample.joints) for sample in samples) == people
    assert [mask.shape for mask in samples[0].masks] == [(64, 64), (128, 128)]


@pytest.mark.data
@pytest.mark.parametrize(
    ("spec", "file"),
    [
        (COCO, "coco/annotations/person_keypoints_train2017.json"),
        (COCO, "coco/annotations/person_keypoints_val2017.json"),
        (COCO, "coco_more/annotations/person_keypoints_val2017.json"),
        (CROWD_POSE, "crowd_pose/json/crowdpose_val.json"),
        (CROWD_POSE, "mpii/json/crowdpose_train.json"),
        (CROWD_POSE, "lspet/json/crowdpose_train.json"),
    ],
)
def test_complete_annotations_are_read_as_they_are(data_root, spec, file):
    """Nothing is derived, and so no figure differs from that of the official tools."""
    if not (data_root / file).exists():
        pytest.skip(f"{file} is not in LITEPOSE_DATA")
    raw = json.loads((data_root / file).read_text())
    read = read_annotations(data_root / file, spec)
    for key in ("images", "annotations"):
        assert read[key] == raw[key]
