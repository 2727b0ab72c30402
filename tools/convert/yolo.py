"""Ultralytics YOLO pose: dataset.yaml, and a text file of labels per image."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from lib.utils.reading import read_bytes
from lib.utils.yaml_text import read_yaml
from tools.convert.source import Item, Labels, Object, Skeleton, as_number

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
SPLITS = ("train", "val", "test")
MARGIN = 0.01  # beyond 0 and 1, as in Ultralytics


def read(source: Path, images: Path | None, split: str) -> Labels:
    """The labels of all splits that a dataset.yaml names; `images` and `split` do not apply."""
    if images:
        raise ValueError("--images does not apply: the YAML file names the folders of images")
    config = read_yaml(source, "YOLO data set")
    count, numbers = _shape(config, source)
    names = _names(config, source)
    skeletons = {name: _skeleton(config, place, count, source) for place, name in names.items()}
    splits = {
        split: [
            _item(path, root, names, skeletons, numbers)
            for root, path in _images(config, config[split], source)
        ]
        for split in SPLITS
        if config.get(split)
    }
    if not splits:
        raise ValueError(f"{source} names no train, val or test")
    return Labels(splits, skeletons)


def _shape(config: dict[str, Any], source: Path) -> tuple[int, int]:
    match config.get("kpt_shape"):
        case [int(count), 2 | 3 as numbers] if count > 0:
            return count, numbers
    raise ValueError(
        f"{source}: kpt_shape is {config.get('kpt_shape')}; wanted the number of joints, and 2 or 3"
    )


def _names(config: dict[str, Any], source: Path) -> dict[int, str]:
    """Class names by number."""
    names = config.get("names") or {0: "object"}
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(names, dict):
        raise ValueError(f"{source}: names is {names!r}; wanted a list or class numbers and names")
    return {int(as_number(number, f"{source}: names")): str(names[number]) for number in names}


def _skeleton(config: dict[str, Any], place: int, count: int, source: Path) -> Skeleton:
    """Joints of a class: kpt_names, or numbers; flips from flip_idx."""
    names = config.get("kpt_names") or config.get("node_names") or []  # the latter: sleap-io
    if isinstance(names, dict):
        names = names.get(place) or []
    elif isinstance(names, list) and names and isinstance(names[0], list):
        names = names[place] if place < len(names) else []
    names = names if isinstance(names, list) else []
    joints = tuple(map(str, names)) or tuple(f"joint_{number}" for number in range(1, count + 1))
    if len(joints) != count:
        raise ValueError(f"{source} names {len(joints)} joints, kpt_shape says {count}")
    flips = config.get("flip_idx") or list(range(count))
    numbers = flips if isinstance(flips, list) and all(type(one) is int for one in flips) else []
    if sorted(numbers) != list(range(count)):
        raise ValueError(f"{source}: flip_idx is {flips}; wanted each of 0 to {count - 1} once")
    pairs = ((joints[a], joints[b]) for a, b in enumerate(flips) if a < b and flips[b] == a)
    return Skeleton(joints, flips=tuple(pairs), named=bool(names))


def _images(config: dict[str, Any], value: Any, source: Path) -> list[tuple[Path, Path]]:
    """All images of a split, each with the folder that its name is relative to.

    A split is a folder, a text file of image paths, or a list of these. As in Ultralytics, a path
    ../train/images that does not exist stands for train/images.
    """
    root = source.parent / str(config.get("path") or "")
    root = root if root.is_dir() else source.parent
    result = []
    for part in value if isinstance(value, list) else [value]:
        path = root / str(part)
        if not path.exists() and str(part).startswith("../"):
            path = root / str(part)[3:]
        if path.is_dir():
            found = (one for one in sorted(path.rglob("*")) if one.suffix.lower() in SUFFIXES)
            result += [(path, one) for one in found]
        else:
            lines = read_bytes(path, "list of images").decode("utf-8", "replace").split("\n")
            result += [(root, root / line.strip()) for line in lines if line.strip()]
    return result


def _item(
    path: Path, root: Path, names: dict[int, str], skeletons: dict[str, Skeleton], numbers: int
) -> Item:
    file = _label_file(path)
    objects: list[Object] = []
    if file.exists():
        lines = read_bytes(file, "labels").decode("utf-8-sig", "replace").split("\n")
        places: dict[str, int] = {}
        for place, line in enumerate(lines, start=1):
            places.setdefault(line.strip(), place)  # as in Ultralytics, a second line is dropped
        objects = [
            _object(line.split(), f"{file}:{place}", names, skeletons, numbers)
            for line, place in places.items()
            if line
        ]
    full, root = path.resolve(), root.resolve()
    name = full.relative_to(root) if full.is_relative_to(root) else Path(path.name)
    content = partial(read_bytes, path, "image")
    return Item(name.as_posix(), str(file), content, objects, relative=True)


def _label_file(path: Path) -> Path:
    """.../images/a/b.jpg -> .../labels/a/b.txt"""
    parts = list(path.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _object(
    words: list[str],
    where: str,
    names: dict[int, str],
    skeletons: dict[str, Skeleton],
    numbers: int,
) -> Object:
    """The object of a line: class, box by its center, joints."""
    values = [as_number(word, where) for word in words]
    if values[0] not in names:
        raise ValueError(f"{where}: class {words[0]} is none of names")
    category = names[int(values[0])]
    joints = skeletons[category].joints
    if len(values) != 5 + numbers * len(joints):
        raise ValueError(f"{where} has {len(values)} numbers; wanted {5 + numbers * len(joints)}")
    points = {}
    for place, joint in enumerate(joints):
        x, y, *rest = values[5 + numbers * place :][:numbers]
        # Without visibility, (0, 0) and negative values stand for a joint that is not labelled.
        visibility = rest[0] if rest else 2 * (x >= 0 and y >= 0 and (x > 0 or y > 0))
        if visibility not in (0, 1, 2):
            raise ValueError(f"{where}: the visibility of {joint} is {visibility}; wanted 0, 1, 2")
        if visibility and not all(-MARGIN <= one <= 1 + MARGIN for one in (x, y)):
            raise ValueError(f"{where}: {joint} is at {x}, {y}; wanted parts of width and height")
        if visibility:
            points[joint] = (x, y, int(visibility))
    x, y, width, height = values[1:5]
    return Object(points, (x - width / 2, y - height / 2, width, height), category)
