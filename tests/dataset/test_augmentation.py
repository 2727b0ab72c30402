"""Augmentation that is off by default: it changes pixels, and does not depend on who reads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.dataset.build import build_dataset, make_dataloader
from lib.dataset.samples import Sample
from lib.dataset.transforms import RandomAffine, RandomFlip, build_transforms
from lib.dataset.transforms.photometric import (
    LUMA,
    RandomBlur,
    RandomColor,
    RandomJpeg,
    rotate,
    saturate,
)
from lib.keypoints import COCO
from tests.helpers import as_opts, tiny_config

STRONG = RandomColor(brightness=0.4, contrast=0.4, saturation=0.5, hue=30, gray=0.2)
KEYS = {
    "DATASET.BRIGHTNESS": 0.4,
    "DATASET.CONTRAST": 0.4,
    "DATASET.SATURATION": 0.5,
    "DATASET.HUE": 30,
    "DATASET.GRAY": 0.2,
    "DATASET.BLUR": 0.5,
    "DATASET.JPEG": 0.5,
}


def sample(size: int = 64, people: int = 2) -> Sample:
    """A smooth image with a black border on the left, as where a crop leaves its image."""
    rows, columns = np.mgrid[:size, :size]
    image = np.stack([rows, columns, rows + columns], axis=-1) * 2 % 200 + 20
    image[:, :8] = 0
    rng = np.random.default_rng(people)
    joints = np.concatenate(
        [rng.uniform(8, size, (people, 17, 2)), np.ones((people, 17, 1))], axis=-1
    )
    return Sample(
        image=image.astype(np.uint8),
        joints=joints.astype(np.float32),
        sigmas=np.full(people, 2, np.float32),
        masks=[np.full((16, 16), 255, np.uint8)],
        image_id=1,
        size=(size, size),
    )


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- colors, blur, JPEG -------------------------------------------------------------------


@pytest.mark.parametrize("transform", [RandomColor(), RandomBlur(0), RandomJpeg(0)])
def test_a_neutral_strength_changes_no_pixel(transform):
    plain = sample()
    for seed in range(5):
        np.testing.assert_array_equal(transform(plain, generator(seed)).image, plain.image)


@pytest.mark.parametrize("transform", [STRONG, RandomBlur(1), RandomJpeg(1)])
def test_pixels_change_and_all_else_stays(transform):
    plain = sample()
    before = plain.image.copy()
    changed, again = (transform(plain, generator(3)) for _ in range(2))
    np.testing.assert_array_equal(plain.image, before)
    np.testing.assert_array_equal(changed.image, again.image)
    assert changed.image.dtype == np.uint8
    assert not np.array_equal(changed.image, plain.image)
    assert len(changed.steps) == 1
    for field in ("joints", "sigmas", "masks", "size", "flipped"):
        assert getattr(changed, field) is getattr(plain, field)


def test_black_stays_black_in_other_colors():
    for seed in range(10):
        assert not STRONG(sample(), generator(seed)).image[:, :8].any()


@pytest.mark.parametrize(
    ("color", "expected"),
    [
        (RandomColor(brightness=0.5), "factor"),
        (RandomColor(contrast=0.5), "about 128"),
        (RandomColor(gray=1), "gray"),
    ],
)
def test_each_strength_is_what_it_says(color, expected):
    matrix = color.matrix(generator(1))
    pixel = np.array([100.0, 150.0, 200.0])
    changed = matrix @ [*pixel, 1]
    if expected == "factor":
        np.testing.assert_allclose(changed / pixel, np.full(3, matrix[0, 0]))
        assert 0.5 <= matrix[0, 0] <= 1.5
    elif expected == "about 128":
        np.testing.assert_allclose((changed - 128) / (pixel - 128), np.full(3, matrix[0, 0]))
    else:
        np.testing.assert_allclose(changed, np.full(3, LUMA @ pixel))


def test_a_turn_of_hue_keeps_grays_and_comes_back():
    np.testing.assert_allclose(rotate(0.7) @ np.ones(3), np.ones(3))
    np.testing.assert_allclose(rotate(0.7) @ rotate(-0.7), np.eye(3), atol=1e-12)
    red = rotate(np.deg2rad(120)) @ [1, 0, 0]
    assert red.max() == pytest.approx(1) == red.sum()  # another pure color
    np.testing.assert_allclose(saturate(1), np.eye(3))


# --- as a whole ---------------------------------------------------------------------------


def test_nothing_is_added_by_default(coco_root, tmp_path):
    kinds = [type(one) for one in build_transforms(tiny_config(coco_root, tmp_path), COCO)]
    assert kinds == [RandomAffine, RandomFlip]


def test_a_sample_depends_on_neither_loader_processes_nor_where_an_epoch_is_entered(
    coco_root, tmp_path
):
    def batches(workers: int, skip: int = 0) -> list[torch.Tensor]:
        keys = as_opts({**KEYS, "WORKERS": workers, "TRAIN.IMAGES_PER_GPU": 2})
        cfg = tiny_config(coco_root, tmp_path, *keys)
        loader = make_dataloader(cfg, build_dataset(cfg))
        loader.sampler.set_epoch(1, skip=skip)
        return [torch.cat([batch.images.flatten(), batch.joints.flatten()]) for batch in loader]

    alone = batches(0)
    assert len(alone) == 3
    for others in (batches(2), [alone[0], *batches(0, skip=2)]):
        assert all(map(torch.equal, alone, others))
