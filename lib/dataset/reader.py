"""Annotations and pictures of COCO and CrowdPose, in a folder or an archive."""

from __future__ import annotations

import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as rle_tools
from yacs.config import CfgNode

from lib.dataset.annotations import complete
from lib.keypoints import KeypointSpec, keypoints_of


class ImageRecord(NamedTuple):
    """One picture's annotations, in its own pixels."""

    id: int
    file_name: str
    width: int
    height: int
    joints: np.ndarray  # (P, K, 3) float32: x, y, visibility (0: not labelled)
    boxes: np.ndarray  # (P, 4) float32: x, y, width, height
    ignore: tuple[dict[str, Any], ...]  # compressed RLEs of regions that are not judged


class ReadError(ValueError):
    """A picture that cannot be read; the message names its id and file."""


class Layout(NamedTuple):
    """Where one split of a data set keeps its files."""

    annotations: Path
    images: Path  # a folder or, when it ends in .zip, an archive

    @classmethod
    def of(cls, spec: KeypointSpec, root: Path, split: str, data_format: str) -> Layout:
        """The files of one split of a data set whose folder is `root`."""
        layout = LAYOUTS[spec.layout](root, split)
        if data_format == "zip":
            return layout._replace(images=layout.images.with_name(layout.images.name + ".zip"))
        return layout


def _coco_layout(root: Path, split: str) -> Layout:
    kind = "image_info" if "test" in split else "person_keypoints"
    images = root / "images" / split.replace("-dev", "")
    return Layout(root / "annotations" / f"{kind}_{split}.json", images)


def _crowd_pose_layout(root: Path, split: str) -> Layout:
    return Layout(root / "json" / f"crowdpose_{split}.json", root / "images")


def _custom_layout(root: Path, split: str) -> Layout:
    return Layout(root / "annotations" / f"{split}.json", root / "images" / split)


# A spec's `layout` -> its files: HigherHRNet's layouts (README, "Data"), or that of custom
# keypoints (docs/custom_data.md).
LAYOUTS: dict[str, Callable[[Path, str], Layout]] = {
    "coco": _coco_layout,
    "crowd_pose": _crowd_pose_layout,
    "custom": _custom_layout,
}


class ImageFiles:
    """The pictures of one split: `read(picture)` gives (H, W, 3) uint8 RGB."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            kind = "archive" if path.suffix == ".zip" else "folder"
            raise ValueError(f"the picture {kind} {path} does not exist")
        self.path = path
        self._archive: zipfile.ZipFile | None = None

    def where(self, picture: ImageRecord) -> str:
        """The name a message gives to a picture's file."""
        separator = "@" if self.path.suffix == ".zip" else "/"
        return f"{self.path}{separator}{picture.file_name}"

    def read(self, picture: ImageRecord) -> np.ndarray:
        """ReadError when the file is missing or no picture."""
        data = self._bytes(picture)
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
        except cv2.error:  # a broken header that claims a huge picture
            image = None
        if image is None:
            raise ReadError(f"image {picture.id}: cannot read {self.where(picture)}")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def read_checked(self, picture: ImageRecord) -> np.ndarray:
        """The same; ReadError, too, when it is not as large as annotated: joints would be off."""
        image = self.read(picture)
        height, width = image.shape[:2]
        if (width, height) != (picture.width, picture.height):
            raise ReadError(
                f"image {picture.id}: {self.where(picture)} is {width} x {height}, "
                f"annotated as {picture.width} x {picture.height}"
            )
        return image

    def _bytes(self, picture: ImageRecord) -> bytes | None:
        try:
            if self.path.suffix != ".zip":
                return (self.path / picture.file_name).read_bytes()
            return self._read_member(picture.file_name)
        except (OSError, KeyError, zipfile.BadZipFile):
            return None

    def _read_member(self, name: str) -> bytes:
        """Archives hold their pictures at the top or in a folder of the archive's name."""
        if self._archive is None:  # opened in the process that reads
            self._archive = zipfile.ZipFile(self.path)
        try:
            return self._archive.read(name)
        except KeyError:
            return self._archive.read(f"{self.path.stem}/{name}")

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_archive": None}


def layout_of(cfg: CfgNode, is_train: bool) -> Layout:
    """Where `cfg` keeps the training or the test split."""
    data = cfg.DATASET
    spec = keypoints_of(cfg, is_train)
    root = Path(cfg.DATA_DIR) / data.ROOT
    if not root.is_dir():
        raise ValueError(f"DATASET.ROOT {root} does not exist")
    return Layout.of(spec, root, data.TRAIN if is_train else data.TEST, data.DATA_FORMAT)


def read_json(path: Path) -> dict[str, Any]:
    """An annotation file; ValueError says what is wrong with it."""
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read the annotations {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("images"), list):
        raise ValueError(f"{path} has no list of images")
    return tree


def read_annotations(path: Path, spec: KeypointSpec) -> dict[str, Any]:
    """An annotation file; an own data set's is made whole."""
    tree = read_json(path)
    return complete(tree, spec, path) if spec.is_custom else tree


def category_in(tree: Mapping[str, Any], spec: KeypointSpec) -> int:
    """The category id of people in an annotation tree, and so in results on it."""
    return tree["categories"][0]["id"] if spec.is_custom else 1


def read_records(path: Path, spec: KeypointSpec) -> list[ImageRecord]:
    """All images of an annotation file, in its order, those without people included."""
    return records_of(read_annotations(path, spec), spec, path)


def records_of(tree: Mapping[str, Any], spec: KeypointSpec, path: Path) -> list[ImageRecord]:
    """All images of an annotation tree, in its order; errors name `path`, where it is from."""
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    try:
        for annotation in tree.get("annotations") or []:
            by_image[annotation["image_id"]].append(annotation)
        return [_picture(image, by_image[image["id"]], spec) for image in tree["images"]]
    except KeyError as error:
        raise ValueError(f"{path}: an entry lacks {error}") from None
    except (TypeError, AttributeError):
        raise ValueError(f"{path}: an entry of images or annotations is malformed") from None


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
            for annotation in tree.get("annotations") or []
            if annotation["image_id"] in ids
        ],
    }


def select_records(
    pictures: Sequence[ImageRecord], min_labelled_joints: int = 0, max_images: int = 0
) -> list[ImageRecord]:
    """The first `max_images` (0: all) in which one person has at least so many joints."""
    chosen = [
        picture
        for picture in pictures
        if (picture.joints[..., 2] > 0).sum(axis=1).max(initial=0) >= min_labelled_joints
    ]
    return chosen[:max_images] if max_images else chosen


def ignore_mask(picture: ImageRecord) -> np.ndarray:
    """(H, W) uint8: 255 where the picture is judged, 0 in crowds and on people without joints."""
    mask = np.full((picture.height, picture.width), 255, np.uint8)
    for rle in picture.ignore:
        mask[rle_tools.decode(rle) > 0] = 0
    return mask


def _picture(image: dict[str, Any], annotations: list[dict], spec: KeypointSpec) -> ImageRecord:
    width, height = image["width"], image["height"]
    people = [a for a in annotations if _is_labelled(a)]
    # CrowdPose has no segmentations and judges every pixel.
    ignored = [a for a in annotations if a.get("segmentation") and not _is_labelled(a)]
    for a in people:
        if len(a["keypoints"]) != 3 * spec.num_joints:
            raise ValueError(
                f"image {image['id']}, annotation {a['id']}: {len(a['keypoints'])} numbers in "
                f"keypoints, {spec.name} has 3 for each of {spec.num_joints} joints"
            )
    return ImageRecord(
        id=image["id"],
        file_name=image["file_name"],
        width=width,
        height=height,
        joints=np.array([a["keypoints"] for a in people], np.float32).reshape(
            -1, spec.num_joints, 3
        ),
        boxes=np.array([a["bbox"] for a in people], np.float32).reshape(-1, 4),
        ignore=tuple(_region(a, height, width) for a in ignored),
    )


def _is_labelled(annotation: dict[str, Any]) -> bool:
    """Whether a joint is labelled (CrowdPose's num_keypoints leaves out head and neck)."""
    return any(visibility > 0 for visibility in annotation.get("keypoints", ())[2::3])


def to_rle(segmentation: list | dict, height: int, width: int) -> dict[str, Any]:
    """Polygons, or an RLE dict with a list or a string of counts -> a compressed RLE.

    ValueError when it is none of these, or of a picture of another size.
    """
    try:
        if not isinstance(segmentation, dict):
            return rle_tools.merge(rle_tools.frPyObjects(segmentation, height, width))
        size = list(segmentation["size"])
        if isinstance(segmentation["counts"], list):
            segmentation = rle_tools.frPyObjects(segmentation, *size)
    except Exception as error:  # pycocotools raises this very class
        raise ValueError(f"the segmentation cannot be read: {error!r}") from None
    if size != [height, width]:
        raise ValueError(f"the segmentation's size is {size}, the picture's {[height, width]}")
    return segmentation


def _region(annotation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """What an annotation covers, as a compressed RLE."""
    try:
        return to_rle(annotation["segmentation"], height, width)
    except ValueError as error:
        where = f"image {annotation['image_id']}, annotation {annotation['id']}"
        raise ValueError(f"{where}: {error}") from None
