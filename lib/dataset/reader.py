"""Annotations of a data set: where its files are, and what they say of each image."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle_tools
from yacs.config import CfgNode

from lib.dataset.annotations import Entry, labelled_points
from lib.dataset.complete import complete
from lib.dataset.image_files import ImageRecord
from lib.dataset.regions import region_of
from lib.keypoints import KeypointSpec, keypoints_of
from lib.utils.reading import read_json

logger = logging.getLogger(__name__)


# --- where files are ----------------------------------------------------------------------


class Layout(NamedTuple):
    """Where one split of a data set keeps its files."""

    annotations: Path
    images: Path  # a folder or, when it ends in .zip, an archive

    @classmethod
    def of(cls, spec: KeypointSpec, root: Path, split: str, data_format: str) -> Layout:
        """The files of one split of a data set whose folder is `root`.

        As in HigherHRNet (README, "Data"), or those of custom keypoints (docs/custom_data.md).
        """
        kind = "image_info" if "test" in split else "person_keypoints"
        annotations, images = {
            "coco": (f"annotations/{kind}_{split}.json", f"images/{split.replace('-dev', '')}"),
            "crowd_pose": (f"json/crowdpose_{split}.json", "images"),
            "custom": (f"annotations/{split}.json", f"images/{split}"),
        }[spec.layout]
        suffix = ".zip" if data_format == "zip" else ""
        return cls(root / annotations, root / f"{images}{suffix}")


def layout_of(cfg: CfgNode, is_train: bool) -> Layout:
    """Where `cfg` keeps the training or the test split."""
    data = cfg.DATASET
    split = data.TRAIN if is_train else data.TEST
    return layout_in(cfg, "DATASET.ROOT", data.ROOT, keypoints_of(cfg, is_train), split)


def layout_in(cfg: CfgNode, key: str, folder: str, spec: KeypointSpec, split: str) -> Layout:
    """The files of a split in a folder below DATA_DIR; ValueError names `key`."""
    root = Path(cfg.DATA_DIR) / folder
    if not root.is_dir():
        raise ValueError(f"{key} {root} does not exist")
    return Layout.of(spec, root, split, cfg.DATASET.DATA_FORMAT)


# --- annotations --------------------------------------------------------------------------


def read_tree(path: Path) -> dict[str, Any]:
    """An annotation file as it is; ValueError says what is wrong with it."""
    tree = read_json(path, "annotations")
    if not isinstance(tree, dict) or not isinstance(tree.get("images"), list):
        raise ValueError(f"{path} has no list of images")
    return tree


def read_annotations(path: Path, spec: KeypointSpec) -> dict[str, Any]:
    """An annotation file as a tree in which no key is missing (`complete`).

    What was derived is logged, and a warning says what is left out.
    """
    completed = complete(read_tree(path), spec, path)
    for line in completed.derived:
        logger.info("%s: %s", path, line)
    for line in completed.left_out:
        logger.warning("%s: %s", path, line)
    return completed.tree


def records_of(tree: Mapping[str, Any], spec: KeypointSpec, path: Path) -> list[ImageRecord]:
    """All images of a completed annotation tree, in its order; errors name `path`."""
    by_image: dict[int, list[Entry]] = defaultdict(list)
    for annotation in tree["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    return [_record(image, by_image[image["id"]], spec, path) for image in tree["images"]]


def ground_truth_of(tree: Mapping[str, Any], records: Sequence[ImageRecord]) -> dict[str, Any]:
    """The part of an annotation tree that evaluators need to score `records`.

    Images and annotations of `records` alone, in the order of the file, without the outlines: these
    are not scored, and are most of the memory.
    """
    ids = {record.id for record in records}
    return {
        **tree,
        "images": [image for image in tree["images"] if image["id"] in ids],
        "annotations": [
            {key: value for key, value in annotation.items() if key != "segmentation"}
            for annotation in tree["annotations"]
            if annotation["image_id"] in ids
        ],
    }


def select_records(
    records: Sequence[ImageRecord], min_labelled_joints: int = 0, max_images: int = 0
) -> list[ImageRecord]:
    """The first `max_images` (0: all) with a person of `min_labelled_joints` or more joints."""
    selected = [
        record
        for record in records
        if (record.joints[..., 2] > 0).sum(axis=1).max(initial=0) >= min_labelled_joints
    ]
    return selected[:max_images] if max_images else selected


def ignore_mask(record: ImageRecord) -> np.ndarray:
    """(H, W) uint8: 255 where losses count, 0 in crowds and on people without joints."""
    mask = np.full((record.height, record.width), 255, np.uint8)
    for rle in record.ignore:
        decoded: np.ndarray = rle_tools.decode(rle)  # pyright: ignore[reportArgumentType]
        mask[decoded > 0] = 0
    return mask


def _record(
    image: Entry, annotations: Sequence[Entry], spec: KeypointSpec, path: Path
) -> ImageRecord:
    width, height = image["width"], image["height"]
    people, ignored = [], []
    for one in annotations:
        # num_keypoints would not do: CrowdPose's leaves out head and neck.
        if labelled_points(one["keypoints"]):
            people.append(one)
        else:  # CrowdPose has no outlines and judges every pixel
            where = f"{path}: image {image['id']}, annotation {one['id']}"
            ignored.append(region_of(one, height, width, where))
    joints = np.array([one["keypoints"] for one in people], np.float32)
    return ImageRecord(
        id=image["id"],
        file_name=image["file_name"],
        width=width,
        height=height,
        joints=joints.reshape(-1, spec.num_joints, 3),
        boxes=np.array([one["bbox"] for one in people], np.float32).reshape(-1, 4),
        ignore=tuple(region for region in ignored if region),
    )
