"""How images fit into a fixed size."""

from __future__ import annotations

import numpy as np
import pytest

from tools.device_runner import prepare
from tools.export.__main__ import free_scale
from tools.export.fit import best_size, describe_fit, fit, without_borders

LANDSCAPE = (640, 480)
PORTRAIT = (480, 640)


def test_the_scale_is_that_of_the_side_that_fits_last():
    result = fit(np.array([LANDSCAPE, PORTRAIT], float), (320, 320))
    np.testing.assert_allclose(result.scale, [0.5, 0.5])
    assert result.filled == pytest.approx(0.75)
    assert fit(np.array([LANDSCAPE], float), (512, 384)).filled == pytest.approx(1)


@pytest.mark.parametrize(
    ("images", "pixels", "size"),
    [
        ([LANDSCAPE], 512 * 384, (512, 384)),
        ([PORTRAIT], 512 * 384, (384, 512)),
        ([LANDSCAPE, PORTRAIT], 448 * 448, (448, 448)),
        ([LANDSCAPE] * 9 + [PORTRAIT], 512 * 384, (512, 384)),
        ([(6400, 100)], 64 * 640, (640, 64)),
        ([(1, 1)], 64 * 64, (64, 64)),
    ],
)
def test_the_best_size_has_the_aspect_ratio_of_most_images(images, pixels, size):
    assert best_size(np.array(images, float), pixels) == size


def test_no_other_size_of_as_many_pixels_shows_people_larger():
    rng = np.random.default_rng(0)
    images = rng.integers(50, 900, (40, 2)).astype(float)
    best = best_size(images, 448 * 320)
    others = [
        (w, h) for w in range(64, 2241, 64) for h in range(64, 2241, 64) if w * h <= 448 * 320
    ]
    mean = {size: np.log(fit(images, size).scale).mean() for size in others}
    assert mean[best] == max(mean.values())


def test_the_cost_and_a_better_size_are_described():
    images = np.array([LANDSCAPE, LANDSCAPE, (960, 480)], float)
    first, second = describe_fit(images, (448, 448), 448 / images.min(axis=1)).splitlines()
    assert first.startswith(
        "3 images in 448x448, aspect ratios kept: scale 0.75 (0.50 to 0.75) of "
    )
    assert first.endswith("33% of the input is black")
    assert second == "--size 512x384, of no more pixels, has scale 0.86 (0.57 to 0.86)"
    alone = np.array([LANDSCAPE], float)
    assert "\n" not in describe_fit(alone, (512, 384), 384 / alone.min(axis=1))


def test_the_scale_of_a_free_size_is_that_of_the_card():
    images = np.array([LANDSCAPE, PORTRAIT], float)
    for kind, side in (("short", 480), ("long", 640)):
        scale = free_scale({"side": 448, "scale_type": kind}, images)
        np.testing.assert_allclose(scale, [448 / side] * 2)


@pytest.mark.parametrize("image", [(480, 640), (640, 480), (384, 683), (100, 1000), (70, 70)])
@pytest.mark.parametrize("size", [None, (640, 448), (128, 256)])
def test_an_image_without_borders_fills_the_input(image, size):
    rules = {"size": size, "side": 448, "scale_type": "short", "multiple_of": 64}
    white = np.full((*image, 3), 255, np.uint8)
    filled, _, _ = prepare({"input": rules, "pixel_center": 0}, without_borders(white, rules))
    assert filled.shape[1] % 64 == filled.shape[2] % 64 == 0
    assert not size or filled.shape[2:0:-1] == size
    black = filled[0].max(axis=2) == 0
    assert black.all(axis=0).sum() <= 8  # less than a pixel of the image
    assert black.all(axis=1).sum() <= 8
