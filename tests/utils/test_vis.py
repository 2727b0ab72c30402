"""Drawings show what they are given and leave it as it was."""

from __future__ import annotations

import numpy as np

from lib.dataset.keypoints import COCO
from lib.utils.vis import draw_heatmaps, draw_people, tile


def test_drawing_people_leaves_the_picture_untouched():
    image = np.zeros((60, 80, 3), np.uint8)
    people = np.zeros((1, 17, 3))
    people[0, :2] = [[20, 20, 1], [40, 30, 1]]  # nose and left eye, joined by a limb
    drawn = draw_people(image, people, COCO)
    assert not image.any()
    assert drawn[20, 20].any()
    assert drawn[25, 30].any()
    assert not drawn[50, 70].any()


def test_joints_that_were_not_found_are_not_drawn():
    image = np.zeros((60, 80, 3), np.uint8)
    assert not draw_people(image, np.full((1, 17, 3), [30, 30, 0.0]), COCO).any()
    assert not draw_people(image, np.zeros((0, 17, 3)), COCO).any()


def test_people_outside_the_picture_do_no_harm():
    image = np.zeros((60, 80, 3), np.uint8)
    assert draw_people(image, np.full((2, 17, 3), [-500, 4000, 1.0]), COCO).shape == image.shape


def test_a_heatmap_is_reddest_at_its_peak():
    heatmaps = np.zeros((2, 15, 20))
    heatmaps[1, 5, 10] = 1
    drawn = draw_heatmaps(np.zeros((60, 80, 3), np.uint8), heatmaps).astype(int)
    y, x = np.unravel_index((drawn[..., 0] - drawn[..., 2]).argmax(), drawn.shape[:2])
    assert abs(y - 21.5) <= 2
    assert abs(x - 41.5) <= 2


def test_tiles_keep_every_picture():
    pictures = [np.full((10 + i, 12, 3), i, np.uint8) for i in range(5)]
    sheet = tile(pictures, columns=3)
    assert sheet.shape == (2 * 18, 3 * 16, 3)
    assert all((sheet == i).all(axis=2).sum() == (10 + i) * 12 for i in range(5))
