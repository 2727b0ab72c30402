"""Ground truth and detections side by side."""

from __future__ import annotations

import numpy as np
import pytest

from lib.analysis.diagnose import Labels
from lib.analysis.sheet import SIDE, contact_sheet, draw_pair
from lib.core.results import Prediction
from lib.dataset.build import build_evaluation_set
from lib.keypoints import COCO
from lib.utils.vis import person_color
from tests.analysis.test_diagnose import person
from tests.helpers import tiny_config


def labels_of(*people: np.ndarray) -> Labels:
    joints = np.array(people).reshape(-1, 17, 3)
    judged, boxes = np.ones(len(joints), bool), np.tile([0.0, 0, 240, 240], (len(joints), 1))
    return Labels(joints, boxes, np.full(len(joints), 1e4), judged, ~judged)


def colors_in(image: np.ndarray) -> set[int]:
    """Which of the first people's colors are there."""
    seen = {tuple(color) for color in image.reshape(-1, 3).tolist()}
    return {number for number in range(6) if person_color(number) in seen}


@pytest.fixture
def both():
    """Ground truth of two people and these detections, rendered on a gray image."""

    def draw(*detected: np.ndarray, scores: tuple[float, ...], size: tuple[int, int] = (300, 640)):
        people = np.array(detected).reshape(-1, 17, 3)
        labels = labels_of(person(40), person(360))
        image = np.full((*size, 3), 128, np.uint8)
        return tuple(draw_pair(image, COCO, labels, Prediction(7, people, scores)).values())

    return draw


def test_who_is_matched_has_one_color_in_both(both):
    """In whatever order they are detected."""
    ground_truth, detected = both(person(360), person(40), scores=(0.9, 0.8))
    assert colors_in(ground_truth) == colors_in(detected) == {0, 1}
    swapped = detected[:, 320:], detected[:, :320]
    assert colors_in(swapped[0]) == {1}
    assert colors_in(swapped[1]) == {0}


def test_missed_people_are_in_the_ground_truth_alone_and_false_ones_among_the_detections(both):
    false = person(0) + (0, 9000, 0)
    false[:, :2] %= 250
    ground_truth, detected = both(person(40), false[::-1], scores=(0.9, 0.8))
    assert colors_in(ground_truth) == {0, 1}
    assert colors_in(detected) == {
        0,
        3,
    }  # colors of false people follow those of the labelled


def test_people_of_a_low_score_are_matched_and_not_shown(both):
    ground_truth, detected = both(person(40), scores=(0.1,))
    assert colors_in(detected) == set()
    assert not np.array_equal(ground_truth, both(scores=())[0])  # there, "missed" is written


@pytest.mark.parametrize("size", [(300, 640), (75, 160), (640, 300), (1200, 2560)])
def test_images_have_one_size_and_people_keep_their_place(both, size):
    ground_truth, detected = both(scores=(), size=size)
    assert ground_truth.shape == detected.shape
    assert max(detected.shape) == SIDE
    assert (detected == 128).all()


def test_a_contact_sheet_shows_ground_truth_and_detections(coco_root, tmp_path):
    data = build_evaluation_set(tiny_config(coco_root, tmp_path))
    perfect = [Prediction(r.id, r.joints, [0.9] * len(r.joints)) for r in data.records]
    nobody = [Prediction(p.image_id, p.people[:0], []) for p in perfect]
    sheet, empty = contact_sheet(data, perfect, 2), contact_sheet(data, nobody, 2)
    assert sheet.dtype == np.uint8
    assert sheet.shape == empty.shape
    assert not np.array_equal(sheet, empty)
    assert contact_sheet(data, perfect, 4).size > sheet.size
