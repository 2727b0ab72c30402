"""The published LitePose-Auto-M finds the people that the original finds with it.

`python -m tests.test_published` prints the comparison on all recorded images (docs/published.md).
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from lib.config import load_config
from lib.core.evaluate import score_rows
from lib.core.inference import predict
from lib.dataset.build import build_evaluation_set
from lib.dataset.shared import reduced_to, shared_joints
from lib.keypoints import COCO, CROWD_POSE
from lib.models.arch import ArchSpec
from lib.models.load import read_network
from lib.predictor import Predictor
from lib.utils.images import read_image
from lib.utils.reading import hash_of
from tests.helpers import GOLDEN, ROOT, YAMLS

WEIGHTS = "weights/LitePose-Auto-M-CrowdPose.pth.tar"  # next to LITEPOSE_DATA
SHA256 = "08fc89fe65e4a9e139fa07d4f0a1f524d2aa21cc27bbe7cdd36630e45daba3c2"
SHARED = shared_joints(COCO, CROWD_POSE)  # 12, the first of CrowdPose
TOLERANCE = 0.01  # pixels; recorded numbers are rounded to 0.001


class Found(NamedTuple):
    """The people in one image, as the original and as we find them."""

    recorded: np.ndarray  # (N, 14, 3)
    recorded_scores: np.ndarray  # (N,)
    ours: np.ndarray
    our_scores: np.ndarray

    @property
    def equal(self) -> int:
        """The number of people that agree in every joint and in the score."""
        n = min(len(self.recorded), len(self.ours))
        joints = np.abs(self.recorded[:n] - self.ours[:n]).max(axis=(1, 2), initial=0)
        scores = np.abs(self.recorded_scores[:n] - self.our_scores[:n])
        return int(((joints < TOLERANCE) & (scores < 1e-4)).sum())


def recorded_people() -> dict[str, list[dict[str, Any]]]:
    return json.loads(gzip.decompress((GOLDEN / "real_people.json.gz").read_bytes()))


def find(predictor: Predictor, images: Path, files: Sequence[str]) -> dict[str, Found]:
    """The people in each file, recorded and found by `predictor`."""
    recorded, found = recorded_people(), {}
    for file in files:
        keypoints = np.array([person["keypoints"] for person in recorded[file]])
        scores = np.array([person["score"] for person in recorded[file]])
        people = predictor(images / file)
        found[file] = Found(keypoints.reshape(-1, 14, 3), scores, people.keypoints, people.scores)
    return found


def precision(root: Path, found: dict[str, Found]) -> tuple[float, float]:
    """AP of the recorded people and of ours over the joints of both COCO and CrowdPose."""
    truth: dict[str, Any] = {"images": [], "annotations": []}
    for split in ("train2017", "val2017"):
        cfg = load_config(YAMLS["coco"], ["DATASET.ROOT", str(root), "DATASET.TEST", split])
        tree = reduced_to(build_evaluation_set(cfg), SHARED).ground_truth
        images = [one for one in tree["images"] if f"{split}/{one['file_name']}" in found]
        ids = {one["id"] for one in images}
        truth["images"] += images
        truth["annotations"] += [one for one in tree["annotations"] if one["image_id"] in ids]
        truth["categories"] = tree["categories"]
    recorded, ours = [], []
    for file, people in found.items():
        recorded += rows_of(file, people.recorded, people.recorded_scores)
        ours += rows_of(file, people.ours, people.our_scores)
    spec = COCO.limited_to(SHARED)
    return score_rows(spec, truth, recorded)["AP"], score_rows(spec, truth, ours)["AP"]


def rows_of(file: str, people: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    keypoints = people[:, : len(SHARED)].reshape(-1, 3 * len(SHARED)).tolist()
    image = {"image_id": int(Path(file).stem), "category_id": 1}
    return [
        {**image, "keypoints": row, "score": float(score)}
        for row, score in zip(keypoints, scores, strict=True)
    ]


def published(data_root: Path) -> Path:
    return data_root.parent / WEIGHTS


# --- tests ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(published_weights) -> Path:
    assert hash_of(published_weights) == SHA256
    return published_weights


@pytest.fixture(scope="module")
def predictor(weights) -> Predictor:
    return Predictor.load(weights, device="cpu")


@pytest.fixture(scope="module")
def found(predictor, data_root) -> dict[str, Found]:
    """The people in the seven images with the most of them, and in one without any."""
    recorded = recorded_people()
    files = sorted(recorded, key=lambda file: len(recorded[file]), reverse=True)
    return find(predictor, data_root / "coco/images", [*files[:7], files[-1]])


@pytest.mark.data
def test_the_file_alone_finds_the_people_of_the_full_settings(weights, predictor, data_root):
    search_m = ROOT / "mobile_configs/search-M.json"
    assert predictor.arch == ArchSpec.from_json(search_m)
    assert (predictor.keypoints, predictor.input_size) == (CROWD_POSE, 448)
    path = min((data_root / "mpii/images").iterdir())
    cfg = load_config(YAMLS["crowd_pose"], img_size=448)
    model = read_network(weights, cfg=YAMLS["crowd_pose"], superconfig=search_m)
    people, scores = predict(cfg, model.build(torch.device("cpu")), read_image(path))
    result = predictor(path)
    assert len(result.scores) > 0
    np.testing.assert_array_equal(result.keypoints, people[..., :3])
    np.testing.assert_array_equal(result.scores, scores)


@pytest.mark.data
def test_people_are_those_of_the_original_except_for_ties(found):
    """docs/differences.md, 17: in 2 of the images, the original assigns tied joints otherwise."""
    assert [len(f.ours) for f in found.values()] == [15, 11, 10, 9, 7, 5, 5, 0]
    assert [len(f.ours) for f in found.values()] == [len(f.recorded) for f in found.values()]
    assert sum(found[file].equal for file in found) >= 0.9 * 62
    assert sum(f.equal == len(f.recorded) for f in found.values()) >= 6


@pytest.mark.data
def test_ties_cost_no_precision(found, data_root):
    recorded, ours = precision(data_root / "coco", found)
    assert 0.4 < recorded < ours + 0.005


def main() -> None:
    data = Path(os.environ["LITEPOSE_DATA"])
    found = find(Predictor.load(published(data)), data / "coco/images", list(recorded_people()))
    people = sum(len(f.recorded) for f in found.values())
    images = sum(f.equal == len(f.recorded) == len(f.ours) for f in found.values())
    print(f"{sum(f.equal for f in found.values())} of {people} people agree")
    print(f"all agree in {images} of {len(found)} images")
    recorded, ours = precision(data / "coco", found)
    print(f"AP, {len(SHARED)} joints: {recorded:.3f} recorded, {ours:.3f} ours")


if __name__ == "__main__":
    main()
