"""Augmentation that is off by default: it changes pixels, and does not depend on who reads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.dataset.build import build_dataset, make_dataloader
from lib.dataset.samples import Sample
from lib.dataset.transforms import RandomAffine, RandomFlip, build_transforms
from lib.dataset.transforms.occlude import FILL, RADII, DropJoints
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
    "DATASET.DROP_JOINTS": 0.5,
    "DATASET.SMALL_PEOPLE": 0.5,
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


@pytest.mark.parametrize("transform", [RandomColor(), RandomBlur(0), RandomJpeg(0), DropJoints(0)])
def test_a_neutral_strength_changes_no_pixel(transform):
    plain = sample()
    for seed in range(5):
        np.testing.assert_array_equal(transform(plain, generator(seed)).image, plain.image)


@pytest.mark.parametrize("transform", [STRONG, RandomBlur(1), RandomJpeg(1), DropJoints(1)])
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


# --- hidden joints --------------------------------------------------------------------------


def filled(image: np.ndarray) -> np.ndarray:
    return (image == FILL).all(axis=-1)


def test_disks_hide_joints_in_proportion_to_the_person():
    large = sample()
    small = large._replace(joints=large.joints * np.float32([0.25, 0.25, 1]))
    areas = {}
    for name, one in (("large", large), ("small", small)):
        hidden = [filled(DropJoints(1)(one, generator(seed)).image) for seed in range(40)]
        areas[name] = np.mean([disks.sum() for disks in hidden])
        on_joints = [
            disks[tuple(one.joints[..., 1::-1].reshape(-1, 2).astype(int).T)].any()
            for disks in hidden
        ]
        assert np.mean(on_joints) > 0.8
    extent = np.ptp(large.joints[..., :2], axis=1).max()
    assert areas["large"] < 2 * np.pi * (RADII[1] * extent + 1) ** 2
    assert areas["small"] < areas["large"] / 6


def test_about_as_many_people_lose_a_joint_as_asked_for():
    crowd = sample(people=200)
    steps = DropJoints(0.3)(crowd, generator(0)).steps
    assert 40 < int(steps[0].split()[0]) < 80


@pytest.mark.parametrize("case", ["nobody", "one joint", "outside", "far outside"])
def test_nothing_is_hidden_where_there_is_nothing_to_hide(case):
    plain = sample(people=0 if case == "nobody" else 2)
    joints = plain.joints.copy()
    if case == "one joint":
        joints[:, 1:, 2] = 0
    elif case == "outside":
        joints[..., 0] += 64
    else:
        joints[..., :2] *= 1e6
    plain = plain._replace(joints=joints)
    changed = DropJoints(1)(plain, generator(0))
    np.testing.assert_array_equal(changed.image, plain.image)


def test_a_person_far_larger_than_the_crop_may_hide_all_of_it():
    plain = sample(people=1)
    plain.joints[0, 1:, :2] *= 1e6
    changed = DropJoints(1)(plain, generator(0))
    assert filled(changed.image).any()


# --- crops around people ----------------------------------------------------------------------


def two_people() -> Sample:
    """In 400 x 200 pixels, one of 100 pixels left of the middle, one of 20 pixels far right."""
    joints = np.ones((2, 17, 3), np.float32)
    for person, (x, y, extent) in zip(joints, [(100, 100, 100), (350, 60, 20)], strict=True):
        person[:, 0] = x
        person[:, 1] = y + np.linspace(-0.5, 0.5, 17) * extent
    return sample()._replace(
        image=np.zeros((200, 400, 3), np.uint8),
        joints=joints,
        masks=[np.full((200, 400), 255, np.uint8)],
        size=(400, 200),
    )


def test_a_crop_is_around_the_smaller_person_more_often():
    plain = RandomAffine(64, (16,), min_scale=0.5, max_scale=0.5, max_rotation=0, max_translate=0)
    around = RandomAffine(
        64, (16,), min_scale=0.5, max_scale=0.5, max_rotation=0, max_translate=0, small_people=0.9
    )
    middles = np.array(
        [around(two_people(), generator(seed)).joints.mean(axis=1) for seed in range(300)]
    )  # (300, 2, 3)
    at_middle = np.abs(middles[..., :2] - 32).max(axis=-1) < 0.01  # (300, 2)
    assert 0.05 < 1 - at_middle.any(axis=1).mean() < 0.15  # around the image's middle
    assert 3.5 < at_middle[:, 1].sum() / at_middle[:, 0].sum() < 7  # a fifth of the size
    assert not np.abs(plain(two_people(), generator(0)).joints[1, :, 0] - 32).min() < 32


def test_scale_and_angle_are_those_of_the_crop_without_it():
    plain, around = RandomAffine(64, (16,)), RandomAffine(64, (16,), small_people=1)
    for seed in range(5):
        steps = [crop(two_people(), generator(seed)).steps for crop in (plain, around)]
        assert steps[0] == steps[1]


@pytest.mark.parametrize("people", [0, 2])
def test_without_anybody_of_a_size_the_crop_is_that_without_it(people):
    one = two_people()._replace(joints=two_people().joints[:people])
    one.joints[:, 1:, 2] = 0
    plain, around = RandomAffine(64, (16,)), RandomAffine(64, (16,), small_people=1)
    np.testing.assert_array_equal(plain(one, generator(0)).joints, around(one, generator(0)).joints)


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
