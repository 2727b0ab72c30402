"""Heatmaps are masked where an image was padded with black."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.core.images import without_black_borders
from lib.core.inference import InferenceSettings, network_maps, prepare
from tests.helpers import network, tiny_config


@pytest.mark.parametrize("step", [1, 2, 4])
def test_rows_and_columns_that_are_black_hold_nothing(step):
    images = torch.zeros(2, 32, 64, 3, dtype=torch.uint8)
    images[0, 4:20, 8:40, 1] = 1
    images[1, :, :, 2] = 255
    heatmaps = torch.ones(2, 3, 32 // step, 64 // step)
    masked = without_black_borders(heatmaps, images)
    expected = torch.zeros_like(heatmaps)
    expected[0, :, 4 // step : 20 // step, 8 // step : 40 // step] = 1
    expected[1] = 1
    assert torch.equal(masked, expected)
    assert torch.equal(masked != 0, without_black_borders(-heatmaps, images) != 0)


def test_dark_pixels_within_an_image_and_a_whole_black_image():
    images = torch.full((1, 8, 8, 3), 9, dtype=torch.uint8)
    images[0, 2:6, 2:6] = 0  # a black square that reaches no border
    heatmaps = torch.ones(1, 1, 8, 8)
    assert torch.equal(without_black_borders(heatmaps, images), heatmaps)
    assert not without_black_borders(heatmaps, torch.zeros_like(images)).any()


def test_maps_of_another_size_than_the_image_s_multiples():
    """As with several test scales: maps of 8 x 8 for images of 4 x 4 and of 12 x 12."""
    for side in (4, 12):
        images = torch.zeros(1, side, side, 3, dtype=torch.uint8)
        images[0, : side // 2] = 200
        masked = without_black_borders(torch.ones(1, 1, 8, 8), images)
        assert torch.equal(masked[0, 0, :, 0], torch.tensor([1.0] * 4 + [0.0] * 4))


@pytest.mark.parametrize("scales", ["[1]", "[0.5, 1, 2]"])
@pytest.mark.parametrize("project", ["True", "False"])
def test_an_evaluation_masks_if_asked_to(tmp_path, scales, project):
    image = np.random.default_rng(0).integers(1, 256, (96, 96, 3), np.uint8)
    image[:36] = 0
    maps, model = {}, network(tiny_config(tmp_path, tmp_path)).eval()
    for mask in ("True", "False"):
        opts = ("TEST.MASK_BORDERS", mask, "TEST.SCALE_FACTOR", scales)
        cfg = tiny_config(tmp_path, tmp_path, *opts, "TEST.PROJECT2IMAGE", project)
        settings = InferenceSettings.from_config(cfg)
        maps[mask] = network_maps(settings, model, [prepare(settings, image)])
    heatmaps, whole = maps["True"][0], maps["False"][0]
    quarter = heatmaps.shape[2] // 4
    assert not heatmaps[:, :, :quarter].any()
    assert whole[:, :, :quarter].any()
    half = heatmaps.shape[2] // 2
    torch.testing.assert_close(heatmaps[:, :, half:], whole[:, :, half:])
    assert torch.equal(maps["True"][1], maps["False"][1])  # tags
