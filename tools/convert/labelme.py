"""LabelMe: one JSON file per image; points with the same group_id are an object."""

from __future__ import annotations

import base64
import binascii
from functools import partial
from pathlib import Path
from typing import Any

from lib.utils.reading import read_bytes, read_json
from tools.convert.source import (
    HIDDEN,
    Item,
    Labels,
    Mark,
    as_number,
    assemble,
    below,
    corner_box,
    files_below,
    find_image,
)


def read(source: Path, images: Path | None, split: str) -> Labels:
    """The labels of a JSON file or of all JSON files below a folder."""
    root = source if source.is_dir() else source.parent
    items, skipped = [], 0
    for path in files_below(source, "*.json", "LabelMe files"):
        tree = read_json(path, "annotations")
        if not isinstance(tree, dict) or not isinstance(tree.get("shapes"), list):
            raise ValueError(f"{path} is no LabelMe file: it has no list of shapes")
        points, boxes = _marks(tree["shapes"], str(path))
        skipped += len(tree["shapes"]) - len(points) - len(boxes)
        image = _image(tree, path, images or path.parent)
        items.append(
            Item(
                name=str(Path(below(path, root)).with_suffix(image[0])),
                where=str(path),
                read=image[1],
                objects=assemble(points, boxes, str(path)),
                size=_size(tree),
            )
        )
    notes = (f"{skipped} shapes are neither points nor rectangles: left out",) if skipped else ()
    return Labels({split: items}, {}, notes)


def _marks(shapes: list[Any], path: str) -> tuple[list[Mark], list[Mark]]:
    """The points and the boxes among the shapes of a file."""
    points, boxes = [], []
    for place, shape in enumerate(shapes):
        where = f"{path}: shapes[{place}]"
        try:
            kind, label, group = shape["shape_type"], str(shape["label"]), shape.get("group_id")
            group = None if group is None else str(group)
            pairs = [(x, y) for x, y in shape["points"]]
        except (KeyError, TypeError, AttributeError, ValueError):  # ValueError: no pairs
            raise ValueError(f"{where} lacks label, points or shape_type") from None
        corners = [(as_number(x, where), as_number(y, where)) for x, y in pairs]
        if kind == "point" and len(corners) == 1:
            flags = shape.get("flags")
            flags = flags if isinstance(flags, dict) else {}
            hidden = any(name.lower() in HIDDEN and flags[name] for name in flags)
            points.append(Mark(label, (*corners[0], 1 if hidden else 2), group))
        elif kind == "rectangle" and len(corners) == 2:
            boxes.append(Mark(label, corner_box(corners[0], corners[1]), group))
    return points, boxes


def _image(tree: dict[str, Any], path: Path, root: Path) -> tuple[str, Any]:
    """The suffix of the image and a function that reads it: a file or, without one, imageData."""
    name, data = str(tree.get("imagePath") or ""), tree.get("imageData")
    suffix = Path(name.replace("\\", "/")).suffix or ".png"
    try:
        return suffix, partial(read_bytes, find_image(root, name, str(path)), "image")
    except ValueError:
        if not isinstance(data, str):
            raise
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{path}: imageData is not base64") from None
    return suffix, lambda: content


def _size(tree: dict[str, Any]) -> tuple[int, int] | None:
    width, height = tree.get("imageWidth"), tree.get("imageHeight")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None
