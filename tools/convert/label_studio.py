"""Label Studio: a JSON export of tasks with key points and rectangles."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from lib.utils.reading import read_bytes, read_json
from tools.convert.source import (
    HIDDEN,
    Item,
    Labels,
    Mark,
    as_number,
    assemble,
    below,
    find_image,
)

Region = dict[str, Any]


def read(source: Path, images: Path | None, split: str) -> Labels:
    """The labels of a JSON export (not JSON-MIN)."""
    tasks, several = read_json(source, "annotations"), 0
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise ValueError(f"{source} is no Label Studio export: it has no list of tasks")
    items, root = [], images or source.parent
    for place, task in enumerate(tasks):
        where = f"{source}: task {task.get('id', place)}"
        done = task.get("annotations", task.get("completions"))
        if not isinstance(done, list):
            raise ValueError(f"{where} has no annotations; export as JSON, not JSON-MIN")
        done = [one for one in done if isinstance(one, dict) and not one.get("was_cancelled")]
        several += len(done) > 1
        items.append(_item(task, done[0].get("result") if done else [], root, where))
    notes = f"{several} images are annotated several times: the first annotation is taken"
    return Labels({split: items}, {}, (notes,) if several else ())


def _item(task: dict[str, Any], result: Any, root: Path, where: str) -> Item:
    regions = [one for one in result if isinstance(one, dict)] if isinstance(result, list) else []
    by_type = {
        kind: [one for one in regions if one.get("type") == kind]
        for kind in ("keypointlabels", "rectanglelabels", "relation", "choices")
    }
    boxes = {str(one.get("id")): one for one in by_type["rectanglelabels"]}
    group_of = _groups(by_type, set(boxes))
    hidden = {
        str(one.get("id"))
        for one in by_type["choices"]
        if HIDDEN & set(str(_value(one, where).get("choices")).lower().split("'"))
    }
    grouped = set(group_of.values())
    path = _find(task, root, where)
    return Item(
        name=below(path, root),
        where=where,
        read=partial(read_bytes, path, "image"),
        objects=assemble(
            [
                Mark(
                    _label(one, where), _point(one, hidden, where), group_of.get(str(one.get("id")))
                )
                for one in by_type["keypointlabels"]
            ],
            [
                Mark(_label(one, where), _box(one, where), name if name in grouped else None)
                for name, one in boxes.items()
            ],
            where,
        ),
        size=_size(regions, where),
        relative=True,
    )


def _groups(by_type: dict[str, list[Region]], boxes: set[str]) -> dict[str, str]:
    """The box of each key point: its parent region, or what a relation connects it with."""
    groups = {
        str(one.get("id")): str(one.get("parentID"))
        for one in by_type["keypointlabels"]
        if str(one.get("parentID")) in boxes
    }
    for one in by_type["relation"]:
        ends = str(one.get("from_id")), str(one.get("to_id"))
        for point, box in (ends, ends[::-1]):
            if box in boxes and point not in boxes:
                groups[point] = box
    return groups


def _value(region: Region, where: str) -> dict[str, Any]:
    value = region.get("value")
    if not isinstance(value, dict):
        raise ValueError(f"{where}: a region of type {region.get('type')} has no value")
    return value


def _label(region: Region, where: str) -> str:
    labels = _value(region, where).get(region["type"])
    if not isinstance(labels, list) or len(labels) != 1:
        raise ValueError(f"{where}: a region has the labels {labels}; wanted one")
    return str(labels[0])


def _part(region: Region, key: str, where: str) -> float:
    """A coordinate as a part of the image's width or height; the export has percent."""
    return as_number(_value(region, where).get(key), where) / 100


def _point(region: Region, hidden: set[str], where: str) -> tuple[float, float, int]:
    visibility = 1 if str(region.get("id")) in hidden else 2
    return _part(region, "x", where), _part(region, "y", where), visibility


def _box(region: Region, where: str) -> tuple[float, float, float, float]:
    if _value(region, where).get("rotation"):
        raise ValueError(f"{where}: a rectangle is rotated, which cannot be converted")
    x, y, width, height = (_part(region, key, where) for key in ("x", "y", "width", "height"))
    return x, y, width, height


def _size(regions: list[Region], where: str) -> tuple[int, int] | None:
    for region in regions:
        if region.get("image_rotation"):
            raise ValueError(f"{where}: the image was rotated in Label Studio; rotate the file")
        width, height = region.get("original_width"), region.get("original_height")
        if isinstance(width, int) and isinstance(height, int):
            return width, height
    return None


def _find(task: dict[str, Any], root: Path, where: str) -> Path:
    """The image of a task; uploads have 8 digits and a dash before their name, local files ?d=."""
    data = task.get("data")
    texts = data.values() if isinstance(data, dict) else []
    names = [one for one in texts if isinstance(one, str) and re.search(r"\.\w{3,4}($|\?)", one)]
    if len(names) != 1:
        raise ValueError(f"{where}: data names {len(names)} files; wanted one image")
    parts = urlsplit(names[0])
    name = unquote(parse_qs(parts.query).get("d", [parts.path])[0])
    try:
        return find_image(root, name, where)
    except ValueError:
        folder, _, last = name.rpartition("/")
        return find_image(root, f"{folder}/{re.sub('^[0-9a-f]{8}-', '', last)}", where)
