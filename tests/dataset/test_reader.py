"""Annotations and images are read as they are, or named when they cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle_tools

from lib.dataset.reader import (
    Layout,
    ignore_mask,
    select_records,
)
from lib.keypoints import COCO, CROWD_POSE
from tests.helpers import read_records

ELLIPSE = cv2.ellipse(np.zeros((40, 60), np.uint8), (25, 18), (12, 9), 20, 0, 360, 1, -1)


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's counts: down the columns, zeros first."""
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, len(flat)]).tolist()
    return [0, *counts] if flat[0] else counts


def annotation(**fields) -> dict:
    keypoints = [5.0, 6.0, 2] + [0, 0, 0] * 16
    return {"id": 1, "image_id": 7, "keypoints": keypoints, "bbox": [1, 2, 20, 30]} | fields


def crowd(segmentation) -> dict:
    return annotation(id=2, keypoints=[0] * 51, iscrowd=1, segmentation=segmentation)


def write(path: Path, *annotations: dict, image: dict | None = None) -> Path:
    image = image or {"id": 7, "file_name": "7.jpg", "width": 60, "height": 40}
    path.write_text(json.dumps({"images": [image], "annotations": annotations}))
    return path


@pytest.mark.parametrize("counts", ["list", "string"])
def test_an_rle_is_a_hole_in_the_mask(tmp_path, counts):
    rle = {"size": [40, 60], "counts": run_lengths(ELLIPSE)}
    if counts == "string":
        rle = rle_tools.encode(np.asfortranarray(ELLIPSE))
        rle["counts"] = rle["counts"].decode()
    [record] = read_records(write(tmp_path / "a.json", crowd(rle)), COCO)
    np.testing.assert_array_equal(ignore_mask(record), np.where(ELLIPSE, 0, 255))


def test_polygons_are_holes_in_the_mask(tmp_path):
    square, triangle = [5, 5, 15, 5, 15, 15, 5, 15], [30, 30, 50, 30, 40, 10]
    [record] = read_records(write(tmp_path / "a.json", crowd([square, triangle])), COCO)
    mask = ignore_mask(record)
    assert (mask[6:14, 6:14] == 0).all()
    assert mask[25, 40] == 0
    assert mask[2, 2] == mask[20, 20] == mask[12, 50] == 255


def test_a_labelled_person_is_no_hole(tmp_path):
    person = annotation(segmentation=[[0, 0, 60, 0, 60, 40, 0, 40]])
    [record] = read_records(write(tmp_path / "a.json", person), COCO)
    assert (ignore_mask(record) == 255).all()
    assert record.joints[0, 0].tolist() == [5, 6, 2]
    assert record.boxes.tolist() == [[1, 2, 20, 30]]


def test_an_empty_segmentation_is_no_hole(tmp_path):
    [record] = read_records(write(tmp_path / "a.json", crowd([])), COCO)
    assert (ignore_mask(record) == 255).all()


def test_an_image_without_annotations_has_no_people(tmp_path):
    [record] = read_records(write(tmp_path / "a.json"), COCO)
    assert record.joints.shape == (0, 17, 3)
    assert record.boxes.shape == (0, 4)


def test_head_and_neck_alone_are_a_person_of_crowd_pose(tmp_path):
    keypoints = [0, 0, 0] * 12 + [10, 5, 2, 10, 12, 2]
    person = annotation(keypoints=keypoints, num_keypoints=0)
    [record] = read_records(write(tmp_path / "a.json", person), CROWD_POSE)
    assert len(record.joints) == 1


def test_images_with_enough_labelled_joints_are_selected(tmp_path):
    records = read_records(write(tmp_path / "a.json", annotation()), COCO)
    assert select_records(records, min_labelled_joints=1) == records
    assert select_records(records, min_labelled_joints=2) == []


# --- annotations that are none ----------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [', "is not JSON"),
        (b"", "is not JSON"),
        (b"\x89PNG\xff\xfe", "is not JSON"),
        (b"[]", "has no list of images"),
        (b"{}", "has no list of images"),
    ],
)
def test_a_file_that_is_no_annotation_file_is_named(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json {message}"):
        read_records(tmp_path / "a.json", COCO)


def test_a_missing_annotation_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the annotations .*none\.json: No such file"):
        read_records(tmp_path / "none.json", COCO)


def test_an_annotation_of_an_unknown_image_is_named(tmp_path):
    broken = annotation()
    del broken["image_id"]
    with pytest.raises(ValueError, match=r"a\.json: annotations\[0\] lacks image_id"):
        read_records(write(tmp_path / "a.json", broken), COCO)


@pytest.mark.parametrize("key", ["id", "file_name", "width", "height"])
def test_an_image_that_lacks_a_key_is_told_which(tmp_path, key):
    image = {"id": 7, "file_name": "7.jpg", "width": 60, "height": 40}
    del image[key]
    with pytest.raises(ValueError, match=rf"a\.json: images\[0\] lacks {key}$"):
        read_records(write(tmp_path / "a.json", image=image), COCO)


def test_people_of_another_data_set_are_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"a\.json: annotations\[0\]: 51 numbers .* crowd_pose .* 14 joints"
    ):
        read_records(write(tmp_path / "a.json", annotation()), CROWD_POSE)


def test_a_region_that_is_no_segmentation_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"annotation 2: the segmentation is neither polygons nor an"
    ):
        read_records(write(tmp_path / "a.json", crowd("outline")), COCO)


# --- files -----------------------------------------------------------------------------


def test_files_are_where_higher_hrnet_has_them():
    root = Path("data")
    person = "annotations/person_keypoints"
    for spec, split, data_format, file, folder in (
        (COCO, "train2017", "jpg", f"{person}_train2017.json", "images/train2017"),
        (COCO, "val2017", "zip", f"{person}_val2017.json", "images/val2017.zip"),
        (
            COCO,
            "test-dev2017",
            "jpg",
            "annotations/image_info_test-dev2017.json",
            "images/test2017",
        ),
        (CROWD_POSE, "trainval", "jpg", "json/crowdpose_trainval.json", "images"),
        (CROWD_POSE, "test", "zip", "json/crowdpose_test.json", "images.zip"),
    ):
        expected = Layout(root / file, root / folder)
        assert Layout.of(spec, root, split, data_format) == expected
