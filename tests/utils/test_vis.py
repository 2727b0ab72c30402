"""What is rendered is where it belongs, and inputs stay as they were."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lib.keypoints import COCO
from lib.utils.vis import draw_heatmaps, draw_people, save_image, tile


def test_drawing_people_leaves_the_image_untouched():
    image = np.zeros((60, 80, 3), np.uint8)
    people = np.zeros((1, 17, 3))
    people[0, :2] = [[20, 20, 1], [40, 30, 1]]  # nose and left eye, joined by a limb
    rendered = draw_people(image, people, COCO)
    assert not image.any()
    assert rendered[20, 20].any()
    assert rendered[25, 30].any()
    assert not rendered[50, 70].any()


def test_missing_joints_are_not_shown():
    image = np.zeros((60, 80, 3), np.uint8)
    assert not draw_people(image, np.full((1, 17, 3), [30, 30, 0.0]), COCO).any()
    assert not draw_people(image, np.zeros((0, 17, 3)), COCO).any()


def test_people_outside_the_image_are_no_error():
    image = np.zeros((60, 80, 3), np.uint8)
    assert draw_people(image, np.full((2, 17, 3), [-500, 4000, 1.0]), COCO).shape == image.shape


def test_a_heatmap_is_reddest_at_its_peak():
    heatmaps = np.zeros((2, 15, 20))
    heatmaps[1, 5, 10] = 1
    rendered = draw_heatmaps(np.zeros((60, 80, 3), np.uint8), heatmaps).astype(int)
    y, x = np.unravel_index((rendered[..., 0] - rendered[..., 2]).argmax(), rendered.shape[:2])
    assert abs(y - 21.5) <= 2
    assert abs(x - 41.5) <= 2


def test_tiles_keep_every_image():
    images = [np.full((10 + i, 12, 3), i, np.uint8) for i in range(5)]
    sheet = tile(images, columns=3)
    assert sheet.shape == (2 * 18, 3 * 16, 3)
    assert all((sheet == i).all(axis=2).sum() == (10 + i) * 12 for i in range(5))


RED = (255, 35, 35)  # the color of the first person


def somebody(x: float, y: float, size: float) -> np.ndarray:
    """(17, 3): a person in a square whose upper left corner is (x, y)."""
    joints = np.random.default_rng(0).uniform(0, size, (17, 2)) + (x, y)
    return np.column_stack([joints, np.ones(17)])


def with_names(image: np.ndarray, *people: np.ndarray, **options) -> np.ndarray:
    count = len(people)
    people = np.array(people).reshape(-1, 17, 3)
    return draw_people(image, people, COCO, names=["0.87"] * count, **options)


def test_a_named_person_is_where_it_belongs_below_its_name():
    image = np.zeros((240, 320, 3), np.uint8)
    rendered = with_names(image, somebody(100, 100, 80))
    rows, columns = np.nonzero(rendered.any(axis=2))
    assert not image.any()
    assert rows.min() < 90
    assert rows.max() < 190
    assert columns.min() > 80
    assert columns.max() < 200


def test_the_foremost_person_covers_the_others():
    image = np.zeros((240, 320, 3), np.uint8)
    one, other = somebody(100, 100, 80), somebody(100, 100, 80)
    limbs = (with_names(image, one) == RED).all(axis=2)
    assert limbs.sum() > 100
    assert (with_names(image, one, other)[limbs] == RED).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (20, 20)])
def test_a_person_fits_into_an_image_of_any_size(size):
    image = np.zeros((*size, 3), np.uint8)
    assert with_names(image, somebody(0, 0, 1), somebody(-50, 900, 30)).shape == image.shape


def test_names_of_people_at_the_border_stay_in_the_image():
    image = np.zeros((240, 320, 3), np.uint8)

    def tag(x: float, y: float) -> int:
        """Red pixels on the longest red row, which is one of the name's."""
        rendered = with_names(image, somebody(x, y, 30))
        return int((rendered == RED).all(axis=2).sum(axis=1).max())

    for x, y in ((-10, 100), (305, 100), (100, -10)):
        assert tag(x, y) >= 0.9 * tag(100, 150)


def test_a_person_without_joints_above_the_threshold_has_neither_limbs_nor_name():
    image = np.zeros((60, 80, 3), np.uint8)
    assert not with_names(image, somebody(10, 30, 20), threshold=1.0).any()
    assert not with_names(image).any()


@pytest.mark.parametrize("name", ["a.png", "b.jpg", "not utf-8 \udcff.png"])
def test_an_image_is_written_under_any_name(tmp_path, name):
    image = np.full((6, 9, 3), (250, 130, 10), np.uint8)
    save_image(tmp_path / name, image)
    written = cv2.imdecode(np.frombuffer((tmp_path / name).read_bytes(), np.uint8), -1)
    assert np.abs(written[..., ::-1].astype(int) - image).max() <= 3


@pytest.mark.parametrize("name", ["no/a.png", "a.txt", "a", "a.\udcff"])
def test_an_image_that_cannot_be_written_is_one_line(tmp_path, name):
    with pytest.raises(ValueError, match="cannot write"):
        save_image(tmp_path / name, np.zeros((2, 2, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
