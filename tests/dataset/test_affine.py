"""One similarity for image, mask and joints."""

from __future__ import annotations

import numpy as np
import pytest

from lib.dataset.transforms import Affine, RandomAffine
from tests.helpers import GOLDEN


@pytest.mark.parametrize("case", [0, 1, 2])
def test_matrices_equal_the_original(case):
    golden = np.load(GOLDEN / "affine.npz")
    recorded = {key: golden[f"{key}_{case}"] for key in ("center", "scale", "rot", "res", "joints")}
    affine = Affine(tuple(recorded["center"]), recorded["scale"] * 200, float(recorded["rot"]))
    size = int(recorded["res"])
    np.testing.assert_allclose(affine.matrix(size), golden[f"mat_{case}"][:2], atol=1e-10)
    joints = np.concatenate([recorded["joints"], np.ones((*recorded["joints"].shape[:2], 1))], -1)
    moved = affine.move(joints, size)[..., :2]
    np.testing.assert_allclose(moved, golden[f"joints_out_{case}"], atol=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_a_keypoint_follows_its_pixel(seed):
    rng = np.random.default_rng(seed)
    affine = RandomAffine(128, []).sample(rng, 200, 160)
    x, y = rng.integers(60, 140), rng.integers(50, 110)
    rows, columns = np.mgrid[:160, :200]  # a spot wide enough to survive the scaling
    image = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.0**2))
    crop = affine.warp(image, 128)
    joint = affine.move(np.array([x, y, 2.0]), 128)
    if not (20 < joint[0] < 108 and 20 < joint[1] < 108):
        return  # the spot is cut off by the border of the crop
    rows, columns = np.mgrid[:128, :128]
    center = (crop * columns).sum() / crop.sum(), (crop * rows).sum() / crop.sum()
    # cv2 interpolates in steps of 1/32 pixel.
    np.testing.assert_allclose(joint[:2], center, atol=0.05)
    assert joint[2] == 2


def test_a_drawn_crop_stays_in_its_range():
    ranges = RandomAffine(
        crop_size=64, map_sizes=[], scale_type="long", min_scale=0.5, max_scale=2, max_rotation=10
    )
    for seed in range(200):
        affine = ranges.sample(np.random.default_rng(seed), 300, 200)
        assert 150 <= affine.side <= 600
        assert abs(affine.degrees) <= 10
        reach = 40 * affine.side / 200
        assert abs(affine.center[0] - 150) <= reach
        assert abs(affine.center[1] - 100) <= reach


def test_no_augmentation_shows_the_whole_image():
    still = RandomAffine(64, [], "long", 1, 1, 0, 0).sample(np.random.default_rng(0), 320, 200)
    assert still == Affine((160, 100), 320, 0.0)
