"""Annotations of synthetic scenes in the layouts of COCO, CrowdPose and custom keypoints.

`LAYOUTS` holds one record per format of `tools/make_synthetic.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import cv2
import numpy as np

from lib.dataset.synthetic.animals import ANIMAL, ANIMALS
from lib.dataset.synthetic.scene import CROWD, PEOPLE, Kind, Scene, SceneParams
from lib.keypoints import COCO, CROWD_POSE, KeypointSpec

SPLITS = ("train", "val", "test")

Json = dict[str, Any]
Entry = tuple[Json, list[Json]]  # of an image: its record, its annotations


@dataclass(frozen=True)
class Layout:
    """Where images and annotations go, and what an annotation holds."""

    spec: KeypointSpec
    first_id: int
    image: str  # format strings: of `split` and `id`
    annotations: str  # of `split`
    describe: Callable[[Layout, Scene, int, str], Entry]  # of an image's id and file name
    joined: tuple[tuple[str, ...], ...] = ()  # splits that share one more annotation file
    far_people: bool = True  # whether annotations can describe people without joints
    kind: Kind = PEOPLE
    plural: str = "people"

    def files(self, counts: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
        """Annotation file -> the splits in it."""
        parts = [(split,) for split in SPLITS if counts[split]] + list(self.joined)
        return {self.annotations.format(split="".join(splits)): splits for splits in parts}

    def adapt(self, params: SceneParams) -> SceneParams:
        """`params` without people that this layout cannot describe."""
        return params if self.far_people else replace(params, tiny=0.0, crowd=0.0)

    def keypoints(self, scene: Scene) -> np.ndarray:
        """(P, K, 3): the joints of `spec`, in its order."""
        return scene.keypoints[:, [self.kind.joints.index(joint) for joint in self.spec.joints]]


def describe_coco(layout: Layout, scene: Scene, image_id: int, file_name: str) -> Entry:
    """Outlines and areas of the visible part of everybody; a far-away group is a crowd region."""
    rows = []
    for person, keypoints in enumerate(layout.keypoints(scene)):
        mask = scene.people == person + 1
        outline = {"area": int(mask.sum()), "segmentation": to_polygons(mask)}
        rows.append(common_fields(image_id, keypoints, scene.boxes[person]) | outline)
    crowd = scene.people == CROWD
    if crowd.any():
        nothing = np.zeros((layout.spec.num_joints, 3))
        outline = {"iscrowd": 1, "area": int(crowd.sum()), "segmentation": to_rle(crowd)}
        rows.append(common_fields(image_id, nothing, mask_box(crowd)) | outline)
    return image_entry(scene, image_id, file_name), rows


def describe_crowd_pose(layout: Layout, scene: Scene, image_id: int, file_name: str) -> Entry:
    """No areas, no outlines; head and neck do not count as keypoints."""
    people = layout.keypoints(scene)
    counted = [joint not in layout.spec.uncounted for joint in layout.spec.joints]
    rows = [
        common_fields(image_id, keypoints, box)
        | {"num_keypoints": int((keypoints[counted, 2] > 0).sum())}
        for keypoints, box in zip(people, scene.boxes, strict=True)
    ]
    index = {"crowdIndex": crowd_index(people, scene.boxes)}
    return image_entry(scene, image_id, file_name) | index, rows


LAYOUTS = {
    layout.spec.name: layout
    for layout in (
        Layout(
            spec=COCO,
            first_id=1,
            image="images/{split}2017/{id:012d}.jpg",
            annotations="annotations/person_keypoints_{split}2017.json",
            describe=describe_coco,
        ),
        Layout(
            spec=CROWD_POSE,
            first_id=100001,
            image="images/{id}.jpg",
            annotations="json/crowdpose_{split}.json",
            describe=describe_crowd_pose,
            joined=(("train", "val"),),
            far_people=False,
        ),
        Layout(
            spec=ANIMAL,
            first_id=1,
            image="images/{split}/{id:06d}.jpg",
            annotations="annotations/{split}.json",
            describe=describe_coco,
            far_people=False,
            kind=ANIMALS,
            plural="animals",
        ),
    )
}


def annotation_file(layout: Layout, entries: list[Entry], version: int) -> Json:
    """The content of an annotation file of these images."""
    spec = layout.spec
    category = {
        "supercategory": spec.category,
        "id": 1,
        "name": spec.category,
        "keypoints": list(spec.joints),
        "skeleton": [[a + 1, b + 1] for a, b in spec.limb_index],
    }
    description = f"Synthetic {layout.plural}, {spec.name} layout"
    return {
        "info": {"description": description, "version": str(version)},
        "images": [image for image, _ in entries],
        "annotations": [row for _, rows in entries for row in rows],
        "categories": [category],
    }


def image_entry(scene: Scene, image_id: int, file_name: str) -> Json:
    height, width = scene.people.shape
    return {"id": image_id, "file_name": file_name, "width": width, "height": height}


def common_fields(image_id: int, keypoints: np.ndarray, box: np.ndarray) -> Json:
    """The fields that all layouts have."""
    rows = [[round(float(x), 2), round(float(y), 2), int(v)] for x, y, v in keypoints]
    return {
        "image_id": image_id,
        "category_id": 1,
        "keypoints": [value for row in rows for value in row],
        "bbox": [round(float(value), 2) for value in box],
        "iscrowd": 0,
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
    }


def mask_box(mask: np.ndarray) -> np.ndarray:
    """(4,): x, y, w, h of the true pixels of (H, W)."""
    return np.array(cv2.boundingRect(mask.astype(np.uint8)))


def to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Outer outlines [x, y, x, y, ...] of (H, W); COCO puts the center of a pixel at +0.5."""
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    polygons = [(c[:, 0] + 0.5).ravel().tolist() for c in contours if len(c) >= 3]
    if polygons:
        return polygons
    x, y, w, h = (float(value) for value in mask_box(mask))
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def to_rle(mask: np.ndarray) -> Json:
    """Run lengths down the columns of (H, W), the first run counting zeros."""
    flat = mask.ravel(order="F").tolist()
    counts = [len(list(run)) for _, run in groupby(flat)]
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def crowd_index(keypoints: np.ndarray, boxes: np.ndarray) -> float:
    """Mean over people of (joints of others / of the person) inside the box; 0..1, as CrowdPose."""
    ratios = []
    for person, (x, y, w, h) in enumerate(boxes):
        at_x, at_y, labelled = keypoints[..., 0], keypoints[..., 1], keypoints[..., 2] > 0
        inside = labelled & (at_x >= x) & (at_x <= x + w) & (at_y >= y) & (at_y <= y + h)  # (P, K)
        of_person = inside[person].sum()
        if of_person:
            ratios.append((inside.sum() - of_person) / of_person)
    return round(min(1.0, float(np.mean(ratios))), 4) if ratios else 0.0
