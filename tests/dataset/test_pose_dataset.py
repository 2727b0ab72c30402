"""A sample shows one crop of an image, its joints and its masks, all of the same people."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as rle_tools

from lib.core.loss import MultiLossFactory
from lib.core.trainer import StepSettings, train_step
from lib.dataset.build import build_dataset, make_dataloader
from lib.dataset.image_files import ImageFiles, ImageRecord, ReadError
from lib.dataset.pose_dataset import PoseDataset, SampleSettings, SigmaRule, keep_largest
from lib.dataset.samples import collate
from lib.dataset.transforms import Affine, RandomAffine, RandomFlip
from lib.keypoints import COCO
from lib.models import build_model
from tests.helpers import TINY, tiny_config
from tests.runs import step_state

SIZES = (16, 32)  # of the maps
WHOLE = RandomAffine(64, SIZES, "long", 1, 1, 0, 0)
CROP = RandomAffine(64, SIZES)


def record(index: int = 1, people: int = 1, **fields) -> ImageRecord:
    """80 x 60 pixels; people whose joints stand on a diagonal, every one labelled."""
    joints = np.ones((people, 17, 3), np.float32)
    joints[..., 0] = joints[..., 1] = np.arange(17) * 2 + 10
    joints[..., :2] += np.arange(people)[:, None, None]
    boxes = np.tile(np.float32([10, 10, 32, 20]), (people, 1))
    result = ImageRecord(index, f"{index}.png", 80, 60, joints, boxes, ())
    return result._replace(**fields)


def dataset(
    folder: Path, *records: ImageRecord, affine=WHOLE, flip: float = 0, **settings
) -> PoseDataset:
    """The images exist; a crop shows the whole of them, 64 pixels wide."""
    for one in records:
        noise = np.random.default_rng(one.id).integers(0, 256, (one.height, one.width, 3))
        cv2.imwrite(str(folder / one.file_name), noise.astype(np.uint8))
    sample = SampleSettings(**settings)
    spec = COCO.with_center() if sample.with_center else COCO
    transforms = [affine, RandomFlip(flip, spec.flip_index)]
    return PoseDataset(COCO, records, ImageFiles(folder), transforms, sample)


def rectangle(x: slice, y: slice) -> dict:
    mask = np.zeros((60, 80), np.uint8, order="F")
    mask[y, x] = 1
    return rle_tools.encode(mask)


def test_a_sample_is_a_function_of_seed_epoch_and_index(tmp_path):
    records = [record(i) for i in (1, 2)]
    samples = {
        key: dataset(tmp_path, *records, affine=CROP, seed=key[0])[key[1:]]
        for key in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1))
    }
    again = dataset(tmp_path, *records, affine=CROP)[0, 0]
    first = samples.pop((0, 0, 0))
    np.testing.assert_array_equal(again.image, first.image)
    np.testing.assert_array_equal(again.joints, first.joints)
    for other in samples.values():
        assert not np.array_equal(other.joints, first.joints)
        assert not np.array_equal(other.image, first.image)


def test_an_appended_transform_leaves_the_crops_as_they_are(tmp_path):
    """It samples from the same generator, after the others."""

    def darken(sample, rng):
        return sample._replace(image=np.uint8(sample.image * rng.uniform(0.2, 0.8)))

    plain = dataset(tmp_path, record(), affine=CROP, flip=0.5)
    more = dataset(tmp_path, record(), affine=CROP, flip=0.5)
    more.transforms = [*more.transforms, darken]
    flips = set()
    for epoch in range(8):
        one, other = plain[epoch, 0], more[epoch, 0]
        np.testing.assert_array_equal(one.joints, other.joints)
        assert one.steps == other.steps
        assert other.image.sum() < 0.85 * one.image.sum()
        flips.add(one.flipped)
    assert flips == {True, False}


def test_a_flip_swaps_left_and_right(tmp_path):
    plain, flipped = (dataset(tmp_path, record(), flip=flip)[0, 0] for flip in (0, 1))
    assert (plain.flipped, flipped.flipped) == (False, True)
    np.testing.assert_array_equal(flipped.image, plain.image[:, ::-1])
    left, right = COCO.joints.index("left_wrist"), COCO.joints.index("right_wrist")
    nose = COCO.joints.index("nose")
    for joint, source in ((left, right), (right, left), (nose, nose)):
        x, y, visible = plain.joints[0, source]
        assert flipped.joints[0, joint].tolist() == [64 - x - 1, y, visible]
    for mask, same in zip(flipped.masks, plain.masks, strict=True):
        np.testing.assert_array_equal(mask, same[:, ::-1])


def test_masks_are_0_in_crowds_and_outside_the_image(tmp_path):
    region = rectangle(slice(40, 60), slice(20, 40))
    sample = dataset(tmp_path, record(ignore=(region,)))[0, 0]
    coarse, fine = sample.masks
    assert (coarse.shape, fine.shape) == ((16, 16), (32, 32))
    # The crop shows 80 x 80 pixels of which 10 rows above and below are no image.
    expected = np.zeros((80, 80), bool)
    expected[10:70] = True
    expected[30:50, 40:60] = False
    sampled = cv2.resize(expected.astype(np.uint8), (32, 32), interpolation=cv2.INTER_AREA)
    border = cv2.morphologyEx(sampled, cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
    np.testing.assert_array_equal(fine[~border], sampled[~border] > 0)
    assert (~fine).sum() > 0.25 * fine.size
    assert not fine[:3].any()
    assert not fine[-3:].any()
    assert not fine[14:18, 18:22].any()
    assert fine[14:18, 4:12].all()


def test_images_of_different_sizes_make_one_batch(tmp_path):
    wide, tall = record(1), record(2, people=3, width=50, height=90)
    data = dataset(tmp_path, wide, tall)
    batch = collate([data[0, 0], data[0, 1]])
    assert batch.images.shape == (2, 64, 64, 3)
    assert batch.joints.shape == (2, 3, 17, 3)
    assert (batch.joints[0, 1:] == 0).all()
    assert batch.image_ids.tolist() == [1, 2]


def test_an_image_of_another_size_than_annotated_is_named(tmp_path):
    data = dataset(tmp_path, record())
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((30, 40, 3), np.uint8))
    with pytest.raises(ReadError, match=r"1: .*1\.png: the image is 40 x 30, annotated as 80 x"):
        data[0, 0]


def test_the_largest_people_are_kept_in_their_order():
    crowded = record(people=4)
    crowded.boxes[:, 2] = [5, 30, 20, 40]
    largest = keep_largest(crowded, 2)
    np.testing.assert_array_equal(largest.joints, crowded.joints[[1, 3]])
    np.testing.assert_array_equal(largest.boxes, crowded.boxes[[1, 3]])
    assert keep_largest(crowded, 4) is crowded


def test_an_unreadable_image_stops_or_is_skipped_as_the_key_says(tmp_path, caplog):
    records = [record(i) for i in (1, 2, 3)]
    data = dataset(tmp_path, *records)
    (tmp_path / "2.png").write_bytes(b"broken")
    with pytest.raises(ReadError, match=r"image 2: cannot read .*2\.png"):
        data[0, 1]
    data = dataset(tmp_path, *records, skip_unreadable=True)
    (tmp_path / "2.png").write_bytes(b"broken")
    with caplog.at_level(logging.WARNING):
        assert data[0, 1].image_id == 3
    assert "image 2: cannot read" in caplog.text
    for name in ("1.png", "3.png"):
        (tmp_path / name).unlink()
    with pytest.raises(ReadError, match="none of the 3 images"):
        data[0, 1]


def test_the_center_is_the_mean_of_the_labelled_joints(tmp_path):
    two = record(people=2)
    two.joints[0, 3:] = 0
    two.joints[0, :3, :2] = [[10, 20], [20, 30], [30, 10]]
    plain = dataset(tmp_path, two)[0, 0].joints
    joints = dataset(tmp_path, two, with_center=True)[0, 0].joints
    assert joints.shape == (2, 18, 3)
    np.testing.assert_array_equal(joints[:, :17], plain)
    still = Affine((40, 30), 80, 0)
    # The joints are float32 before they are moved and the mean is taken.
    np.testing.assert_allclose(
        joints[0, 17], still.move(np.array([20, 20, 1.0]), 64), rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(joints[1, 17, :2], plain[1, :, :2].mean(axis=0), rtol=0, atol=1e-5)


def test_the_center_of_a_flipped_image_is_the_flipped_center(tmp_path):
    plain, sample = (
        dataset(tmp_path, record(), flip=flip, with_center=True)[0, 0] for flip in (0, 1)
    )
    x, y, _ = plain.joints[0, 17]
    assert sample.joints[0, 17].tolist() == [63 - x, y, 1]


def test_a_sigma_follows_the_longer_side_of_the_box():
    boxes = np.float32([[0, 0, 64, 128], [0, 0, 256, 30], [0, 0, 300, 20]])
    assert SigmaRule(3.0).of(boxes).tolist() == [3, 3, 3]
    aware = SigmaRule(3.0, scale_aware=True, base_sigma=2.0, base_size=256.0)
    assert aware.of(boxes).tolist() == [1, 2, 2.34375]
    assert aware.of(boxes[:0]).tolist() == []
    assert (aware._replace(int_sigma=True).of(boxes[2:]) == 3).all()


# --- training on what was read ----------------------------------------------------------


def batch_without_people(cfg):
    [batch] = make_dataloader(cfg, build_dataset(cfg))
    empty = batch.joints[:, :0]
    return batch._replace(joints=empty, sigmas=batch.sigmas[:, :0])


@pytest.mark.parametrize("slots", ["none", "empty"])
def test_a_batch_without_people_trains(coco_root, tmp_path, slots):
    cfg = tiny_config(coco_root, tmp_path, "DATASET.MAX_IMAGES", "2")
    batch = batch_without_people(cfg)
    if slots == "empty":
        batch = batch._replace(joints=torch.zeros(2, 4, 17, 3), sigmas=torch.ones(2, 4))
    model = build_model(cfg, TINY)
    before = [p.detach().clone() for p in model.parameters()]
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    losses = train_step(step_state(cfg, model), criterion, settings, [batch]).losses
    assert losses["push/0"] == losses["pull/0"] == 0
    assert all(torch.isfinite(term) for term in losses.values())
    assert losses["heatmap/0"] > 0
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_an_unreadable_image_is_named_by_a_worker_too(coco_root, tmp_path):
    (tmp_path / "annotations").symlink_to(coco_root / "annotations")
    folder = tmp_path / "images/train2017"
    folder.mkdir(parents=True)
    for path in (coco_root / "images/train2017").iterdir():
        (folder / path.name).write_bytes(path.read_bytes()[:50])
    cfg = tiny_config(tmp_path, tmp_path, "WORKERS", "1")
    with pytest.raises(ReadError, match=r"image \d+: cannot read .*\.jpg"):
        list(make_dataloader(cfg, build_dataset(cfg)))
