"""Perfect maps, decoded, give the people back: training targets and decoding agree."""

from __future__ import annotations

import numpy as np
import pytest

from lib.config import load_config
from lib.core.inference import predict
from lib.core.oracle import Oracle
from lib.dataset.reader import Picture
from tests.helpers import ROOT


def picture_of(people: int, seed: int, width: int = 320, height: int = 240) -> Picture:
    """People whose joints are far enough apart to be told from one another."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation([(x, y) for x in range(16, 300, 16) for y in range(16, 220, 16)])
    joints = np.full((people, 17, 3), 2.0, np.float32)
    for k in range(17):
        at = cells[(np.arange(people) + k * people) % len(cells)]
        joints[:, k, :2] = at + rng.uniform(0, 4, (people, 2))
    return Picture(1, "", width, height, joints, np.zeros((people, 4), np.float32), ())


def decode(picture: Picture, *opts: str) -> tuple[np.ndarray, list[float]]:
    cfg = load_config(ROOT / "experiments/coco/mobilenet/mobile.yaml", opts)
    oracle = Oracle.from_config(cfg)
    oracle.look_at(picture)
    return predict(cfg, oracle, np.zeros((picture.height, picture.width, 3), np.uint8))


@pytest.mark.parametrize("flip", ["True", "False"])
@pytest.mark.parametrize("scale_type", ["short", "long"])
@pytest.mark.parametrize("people", [0, 1, 2, 8, 20])
def test_decoding_targets_returns_the_people(people, scale_type, flip):
    picture = picture_of(people, seed=people)
    found, scores = decode(
        picture,
        *("DATASET.INPUT_SIZE", "512", "DATASET.OUTPUT_SIZE", "[128, 256]"),
        *("TEST.SCALE_TYPE", scale_type, "TEST.FLIP_TEST", flip),
    )
    assert len(found) == len(scores) == people
    for truth in picture.joints:
        distance = np.linalg.norm(found[:, :, :2] - truth[:, :2], axis=-1)  # (N, K)
        # The coarse map's cells are 4 input pixels wide, 2.5 of the picture's at most.
        assert distance.max(axis=1).min() < 2.5
    assert all(score > 0.5 for score in scores)


def test_a_joint_is_found_at_most_as_often_as_there_are_slots():
    everyone = ("TEST.REFINE", "False")
    found, _ = decode(picture_of(12, seed=1), *everyone)
    assert ((found[..., 2] > 0).sum(axis=0) == 12).all()
    found, _ = decode(picture_of(12, seed=1), *everyone, "DATASET.MAX_NUM_PEOPLE", "10")
    assert ((found[..., 2] > 0).sum(axis=0) == 10).all()


def test_a_person_with_few_joints_is_found_with_few():
    picture = picture_of(1, seed=3)
    picture.joints[0, 5:, 2] = 0
    found, scores = decode(picture)
    assert len(found) == 1
    assert (found[0, :5, 2] > 0.5).all()
    assert (found[0, 5:, 2] == 0).all()
    assert scores[0] == pytest.approx(found[0, :, 2].mean())
