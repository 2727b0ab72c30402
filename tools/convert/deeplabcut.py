"""DeepLabCut: CollectedData_*.csv of a project or of one video's folder."""

from __future__ import annotations

import csv
import io
from functools import partial
from pathlib import Path

from lib.utils.reading import read_bytes
from lib.utils.yaml_text import read_yaml
from tools.convert.source import (
    Item,
    Labels,
    Object,
    Skeleton,
    as_number,
    below,
    files_below,
    find_image,
)

SCENE = "single"  # the individual of body parts that are unique in the scene

Column = tuple[str, str, str]  # individual, body part, x or y


def read(source: Path, images: Path | None, split: str) -> Labels:
    """The labels of all CollectedData files below a project's folder, or of one of them."""
    if source.suffix == ".h5":
        raise ValueError(f"{source}: give the .csv that DeepLabCut writes next to it")
    items, joints, notes = [], [], []
    for path in files_below(source, "CollectedData_*.csv", "labels of DeepLabCut"):
        columns, rows = _table(path)
        kept = [one for one in columns if one[0] != SCENE or {one[0] for one in columns} == {SCENE}]
        if len(kept) < len(columns):
            notes = ["body parts of the scene (individual single): left out"]
        joints += [part for _, part, _ in kept]
        # Names begin at the project: labeled-data/video/img001.png.
        root = images or (source if source.is_dir() else path.parent)
        for name, cells in rows:
            where = f"{path}: labels of {name}"
            image = find_image(root if images else path.parent, name, where)
            values = {column: cells[place] for place, column in enumerate(columns)}
            items.append(
                Item(
                    name=below(image, root),
                    where=where,
                    read=partial(read_bytes, image, "image"),
                    objects=_objects(values, kept, where),
                )
            )
    skeleton = Skeleton(tuple(dict.fromkeys(joints)), _limbs(source, joints))
    return Labels({split: items}, {"": skeleton}, tuple(notes))


def _table(path: Path) -> tuple[list[Column], list[tuple[str, list[str]]]]:
    """The columns of a file; then the image name and the cells of each row."""
    text = read_bytes(path, "labels").decode("utf-8", "replace")
    try:
        lines = [line for line in csv.reader(io.StringIO(text)) if line]
    except csv.Error as error:
        raise ValueError(f"{path} is not CSV: {error}") from None
    header = {line[0]: line for line in lines[:4] if line[0] in HEADER}
    if not {"scorer", "bodyparts", "coords"} <= set(header):
        raise ValueError(f"{path} has no rows scorer, bodyparts and coords: no DeepLabCut labels")
    body = lines[len(header) :]
    # Since version 2.2 a name is three cells: labeled-data, the video, the file.
    index = 3 if header["coords"][1:3] == ["", ""] else 1
    width = len(header["coords"])
    if any(len(line) != width for line in [*header.values(), *body]):
        raise ValueError(f"{path}: rows have different numbers of cells")
    individuals = header.get("individuals", [""] * width)
    columns = list(zip(individuals, header["bodyparts"], header["coords"], strict=True))[index:]
    if len(set(columns)) < len(columns):
        raise ValueError(f"{path} has a column twice, or several scorers")
    return columns, [("/".join(line[:index]), line[index:]) for line in body]


HEADER = ("scorer", "individuals", "bodyparts", "coords")


def _objects(values: dict[Column, str], columns: list[Column], where: str) -> list[Object]:
    """An object per individual; an empty cell or NaN is a joint that is not labelled."""
    objects: dict[str, Object] = {}
    for individual, joint, axis in columns:
        cells = [values.get((individual, joint, one), "").strip() for one in ("x", "y")]
        if axis == "x" and not {"", "nan"} & {cell.lower() for cell in cells}:
            x, y = (as_number(cell, where) for cell in cells)
            objects.setdefault(individual, Object()).points[joint] = (x, y, 2)
    return list(objects.values())


def _limbs(source: Path, joints: list[str]) -> tuple[tuple[str, str], ...]:
    """The skeleton in the project's config.yaml, where `source` is a project."""
    path = source / "config.yaml"
    if not path.is_file():
        return ()
    pairs = read_yaml(path, "DeepLabCut project").get("skeleton") or []
    if not isinstance(pairs, list):
        return ()
    ends = [one for one in pairs if isinstance(one, list) and len(one) == 2 and one[0] != one[1]]
    return tuple((a, b) for a, b in ends if a in joints and b in joints)
