"""Annotation files of a network's people: new ones, and human ones that lack people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lib.dataset.annotations import Entry, is_whole
from lib.keypoints import KeypointSpec
from tools.label_images.annotations import Known, Thresholds, annotate, known_people

Results = Mapping[str, Entry]  # file name -> size, people, scores


def new_tree(spec: KeypointSpec, results: Results, limits: Thresholds) -> Entry:
    """An annotation tree of all images in `results`."""
    images, annotations = [], []
    for number, (name, result) in enumerate(results.items(), start=1):
        width, height = result["size"]
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for entry in found(spec, result, limits):
            numbers = {"id": len(annotations) + 1, "image_id": number, "category_id": 1}
            annotations.append({**numbers, **entry})
    category = {
        "id": 1,
        "name": spec.category,
        "keypoints": list(spec.joints),
        "skeleton": [[a + 1, b + 1] for a, b in spec.limb_index],
    }
    return {"images": images, "annotations": annotations, "categories": [category]}


def merged_tree(
    spec: KeypointSpec, results: Results, limits: Thresholds, human: Entry, completed: Entry
) -> tuple[Entry, list[Entry], list[str]]:
    """The `human` tree with the people it lacks, these people, and a line for each wrong image.

    completed: the same annotations, as `lib.dataset.complete` returns them.
    """
    by_image = defaultdict(list)
    for one in completed["annotations"]:
        by_image[one["image_id"]].append(one)
    [category] = completed["categories"]
    entries = human.get("annotations") or []
    numbers = [one["id"] for one in entries if is_whole(one.get("id"))]
    first = int(max(numbers, default=0)) + 1
    added, problems = [], []
    for image in completed["images"]:
        result = results.get(image["file_name"])
        if result is None:
            continue
        size = [image["width"], image["height"]]
        if result["size"] != size:
            width, height = result["size"]
            problems.append(
                f"{image['file_name']}: the image is {width} x {height}, annotated as "
                f"{size[0]} x {size[1]}; nothing is added to it"
            )
            continue
        for entry in found(spec, result, limits, known_people(by_image[image["id"]])):
            keys = {"id": first + len(added), "image_id": image["id"]}
            added.append({**keys, "category_id": category["id"], **entry})
    return {**human, "annotations": [*entries, *added]}, added, problems


def found(
    spec: KeypointSpec, result: Mapping[str, Any], limits: Thresholds, known: Sequence[Known] = ()
) -> list[Entry]:
    """The annotations of an image in `results`."""
    people = np.array(result["people"], float).reshape(-1, spec.num_joints, 3)
    return annotate(spec, people, result["scores"], tuple(result["size"]), limits, known)
