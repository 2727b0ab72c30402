"""CVAT for images 1.1: an XML file of skeletons, points and boxes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

from lib.utils.reading import read_bytes
from tools.convert.source import (
    Item,
    Labels,
    Mark,
    Object,
    Skeleton,
    add_point,
    as_number,
    assemble,
    below,
    corner_box,
    files_below,
    find_image,
)

MAX_BYTES = 2**30  # of an XML file; parsed, it takes about ten times as much memory

SPLITS = {"": "", "default": "", "validation": "val"}  # subset of a project -> split


class _NoDoctype(ET.TreeBuilder):
    """Refuses document types: they define entities, which can grow or name other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a DOCTYPE, which CVAT does not write")


def read(source: Path, images: Path | None, split: str) -> Labels:
    """The labels of an annotations.xml, or of the folder of an unpacked export."""
    splits: dict[str, list[Item]] = {}
    skeletons: dict[str, Skeleton] = {}
    for path in files_below(source, "annotations.xml", "CVAT annotations"):
        tree = _parse(path)
        folder = images or next(
            (one for one in (path.parent / "images",) if one.is_dir()), path.parent
        )
        skeletons |= _skeletons(tree)
        for shape in tree.iterfind("image/points"):
            count, label = shape.get("points", "").count(";") + 1, shape.get("label", "")
            if count > 1 and count > len(skeletons.get(label, Skeleton(())).joints):
                skeletons[label] = Skeleton(_numbered(count), named=False)
        for image in tree.iter("image"):
            subset = (image.get("subset") or "").lower()
            item = _item(image, f"{path}: image {image.get('name')}", folder)
            splits.setdefault(SPLITS.get(subset, subset) or split, []).append(item)
    return Labels(splits or {split: []}, skeletons)


def _parse(path: Path) -> ET.Element:
    data = read_bytes(path, "annotations", MAX_BYTES)
    try:
        tree = ET.fromstring(data, ET.XMLParser(target=_NoDoctype()))
    except ET.ParseError as error:
        raise ValueError(f"{path} is not XML: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if tree.find("track") is not None:
        raise ValueError(f"{path} has tracks of a video; export it as CVAT for images 1.1")
    return tree


def _skeletons(tree: ET.Element) -> dict[str, Skeleton]:
    """Joints and limbs of the skeleton labels of a task."""
    labels = [label for meta in tree.iter("labels") for label in meta.iter("label")]
    result = {}
    for label in labels:
        name = label.findtext("name", "")
        if label.findtext("type") == "skeleton":
            joints = [one.findtext("name", "") for one in labels if one.findtext("parent") == name]
            limbs = _edges(label.findtext("svg", ""), joints)
            result[name] = Skeleton(tuple(dict.fromkeys(joints)), limbs)
    return result


def _numbered(count: int) -> tuple[str, ...]:
    """The joints of a shape of several points, which have no names."""
    return tuple(f"joint_{number}" for number in range(1, count + 1))


def _edges(svg: str, joints: list[str]) -> tuple[tuple[str, str], ...]:
    """The lines of a skeleton's image, between joints; nodes without a name are in their order."""
    nodes = {str(number): joint for number, joint in enumerate(joints, start=1)}
    for tag in re.findall("<circle[^<>]*>", svg):
        number, name = _attribute(tag, "data-node-id"), _attribute(tag, "data-label-name")
        nodes |= {number: name} if name in joints else {}
    ends = [
        (nodes.get(_attribute(tag, "data-node-from")), nodes.get(_attribute(tag, "data-node-to")))
        for tag in re.findall("<line[^<>]*>", svg)
    ]
    return tuple((a, b) for a, b in ends if a and b and a != b)


def _attribute(tag: str, name: str) -> str:
    match = re.search(rf'\b{name}="([^"]*)"', tag)
    return match[1] if match else ""


def _item(image: ET.Element, where: str, folder: Path) -> Item:
    name, subset = image.get("name", ""), image.get("subset", "")
    path = find_image(folder, f"{subset}/{name}", where)
    sizes = [image.get("width", ""), image.get("height", "")]
    return Item(
        name=below(path, folder),
        where=where,
        read=partial(read_bytes, path, "image"),
        objects=_objects(image, where),
        size=(int(sizes[0]), int(sizes[1])) if all(map(str.isdecimal, sizes)) else None,
    )


def _objects(image: ET.Element, where: str) -> list[Object]:
    """Skeletons and shapes of several points, then objects made of single points; with boxes."""
    boxes = [
        Mark(box.get("label", ""), _box(box, where), box.get("group_id"))
        for box in image.iter("box")
    ]
    whole: list[tuple[str | None, Object]] = []
    points = []
    for shape in image.findall("skeleton"):
        one = Object(category=shape.get("label", ""))
        for point in shape.iter("points"):
            if point.get("outside") != "1":
                [value] = _points(point, where, 1)
                add_point(one, point.get("label", ""), value, where)
        whole.append((shape.get("group_id"), one))
    for shape in image.findall("points"):
        values, label = _points(shape, where), shape.get("label", "")
        if len(values) == 1:
            points.append(Mark(label, values[0], shape.get("group_id")))
        else:
            joints = dict(zip(_numbered(len(values)), values, strict=True))
            whole.append((shape.get("group_id"), Object(joints, category=label)))
    groups = {group for group, _ in whole if group is not None}
    box_of = {box.group: box.value for box in boxes if box.group in groups}
    for group, one in whole:
        one.box = box_of.get(group)
    rest = [box for box in boxes if box.group not in groups]
    return [one for _, one in whole] + assemble(points, rest, where)


def _box(box: ET.Element, where: str) -> tuple[float, float, float, float]:
    left, top, right, bottom = (
        as_number(box.get(key), where) for key in ("xtl", "ytl", "xbr", "ybr")
    )
    return corner_box((left, top), (right, bottom))


def _points(shape: ET.Element, where: str, count: int = 0) -> list[tuple[float, float, int]]:
    """The points of a shape; `count`: how many there must be (0: any number)."""
    visibility = 1 if shape.get("occluded") == "1" else 2
    pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
    if any(len(pair) != 2 for pair in pairs) or (count and len(pairs) != count):
        raise ValueError(f"{where}: points {shape.get('points', '')[:40]!r} are malformed")
    return [(as_number(x, where), as_number(y, where), visibility) for x, y in pairs]
