"""Truth and what was found, side by side."""

from __future__ import annotations

import numpy as np
import pytest

from lib.analysis.diagnose import Truth
from lib.analysis.sheet import SIDE, contact_sheet, truth_and_found
from lib.core.pipeline import Prediction
from lib.dataset.build import build_evaluation_set
from lib.keypoints import COCO
from lib.utils.vis import person_color
from tests.analysis.test_diagnose import person
from tests.helpers import tiny_config


def truth_of(*people: np.ndarray) -> Truth:
    joints = np.array(people).reshape(-1, 17, 3)
    judged, boxes = np.ones(len(joints), bool), np.tile([0.0, 0, 240, 240], (len(joints), 1))
    return Truth(joints, boxes, np.full(len(joints), 1e4), judged, ~judged)


def colors_in(picture: np.ndarray) -> set[int]:
    """Which of the first people's colors are there."""
    seen = {tuple(color) for color in picture.reshape(-1, 3).tolist()}
    return {number for number in range(6) if person_color(number) in seen}


@pytest.fixture
def both():
    """Truth and found of a gray picture, 640 wide, of two people and what was found of them."""

    def draw(*found: np.ndarray, scores: tuple[float, ...], size: tuple[int, int] = (300, 640)):
        people = np.array(found).reshape(-1, 17, 3)
        truth = truth_of(person(40), person(360))
        image = np.full((*size, 3), 128, np.uint8)
        return truth_and_found(image, COCO, truth, Prediction(7, people, scores))

    return draw


def test_who_is_matched_has_one_color_in_both(both):
    """In whatever order they are found."""
    truth, found = both(person(360), person(40), scores=(0.9, 0.8))
    assert colors_in(truth) == colors_in(found) == {0, 1}
    swapped = found[:, 320:], found[:, :320]
    assert colors_in(swapped[0]) == {1}
    assert colors_in(swapped[1]) == {0}


def test_who_is_missed_is_in_the_truth_alone_and_who_is_false_among_the_found(both):
    false = person(0) + (0, 9000, 0)
    false[:, :2] %= 250
    truth, found = both(person(40), false[::-1], scores=(0.9, 0.8))
    assert colors_in(truth) == {0, 1}
    assert colors_in(found) == {0, 3}  # the numbers of false people begin behind the labelled ones


def test_people_of_a_low_score_are_matched_and_not_drawn(both):
    truth, found = both(person(40), scores=(0.1,))
    assert colors_in(found) == set()
    assert not np.array_equal(truth, both(scores=())[0])  # there, "missed" is written


@pytest.mark.parametrize("size", [(300, 640), (75, 160), (640, 300), (1200, 2560)])
def test_pictures_have_one_size_and_people_keep_their_place(both, size):
    truth, found = both(scores=(), size=size)
    assert truth.shape == found.shape
    assert max(found.shape) == SIDE
    assert (found == 128).all()


def test_a_contact_sheet_shows_ground_truth_and_detections(coco_root, tmp_path):
    data = build_evaluation_set(tiny_config(coco_root, tmp_path))
    perfect = [Prediction(r.id, r.joints, [0.9] * len(r.joints)) for r in data.records]
    nobody = [Prediction(p.image_id, p.people[:0], []) for p in perfect]
    sheet, empty = contact_sheet(data, perfect, 2), contact_sheet(data, nobody, 2)
    assert sheet.dtype == np.uint8
    assert sheet.shape == empty.shape
    assert not np.array_equal(sheet, empty)
    assert contact_sheet(data, perfect, 4).size > sheet.size
