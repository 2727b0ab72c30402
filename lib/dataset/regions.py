"""Regions that training and evaluation ignore: outlines of people without labelled joints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pycocotools import mask as rle_tools

from lib.dataset.annotations import Entry, is_coordinate, is_whole

CORNERS = 3  # of a polygon, at least


def region_of(annotation: Entry, height: int, width: int, where: str) -> dict[str, Any] | None:
    """The segmentation of an annotation as a compressed RLE; None where it covers nothing.

    ValueError, which names `where`, when it cannot be read. Points and lines, which some tools
    write, cover nothing.
    """
    try:
        return _region(annotation.get("segmentation"), height, width)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def box_of(region: dict[str, Any]) -> list[float] | None:
    """The box around a region; None if it has no pixel."""
    box = rle_tools.toBbox(region).tolist()  # pyright: ignore[reportArgumentType]
    return box if box[2] and box[3] else None


def _region(segmentation: Any, height: int, width: int) -> dict[str, Any] | None:
    if isinstance(segmentation, list):
        is_flat = any(map(is_coordinate, segmentation))  # one polygon, not in a list
        polygons = [segmentation] if is_flat else segmentation
        for polygon in polygons:
            if not (isinstance(polygon, list) and all(map(is_coordinate, polygon))):
                raise ValueError("the segmentation is no list of polygons x, y, x, y, ...")
        segmentation = [polygon for polygon in polygons if len(polygon) >= 2 * CORNERS]
    return to_rle(segmentation, height, width) if segmentation else None


def to_rle(segmentation: list | dict, height: int, width: int) -> dict[str, Any]:
    """Polygons, or an RLE dict with a list or a string of counts -> a compressed RLE.

    ValueError when it is none of these, or of an image of another size.
    """
    encode: Any = rle_tools.frPyObjects  # its type hints lack some of the accepted forms
    if isinstance(segmentation, list):
        return dict(rle_tools.merge(encode(segmentation, height, width)))
    if not isinstance(segmentation, dict):
        raise ValueError("the segmentation is neither polygons nor an RLE")
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise ValueError(f"the segmentation's size is {size}, the image's {[height, width]}")
    if not isinstance(counts, (list, str)):
        raise ValueError(f"the segmentation's counts are {counts!r}, no list and no text")
    runs = counts if isinstance(counts, list) else list(_runs(counts))
    if not all(is_whole(run) and run >= 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(
            f"the segmentation's counts do not add up to the image's {height * width} pixels"
        )
    # pycocotools reads beyond the end of counts that do not add up, hence the check above.
    return dict(encode({"size": size, "counts": list(map(int, runs))}, height, width))


def _runs(text: str) -> Iterator[int]:
    """The run lengths of a compressed RLE (COCO's maskApi).

    A run is written 5 bits per letter, lowest first; bit 6 says that more follow, and bit 5 of the
    last letter is the sign. From the fourth run on, the difference to the one before the last is
    written.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 60:
            return  # no RLE: the caller finds that the runs do not add up
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        yield value
        value = shift = 0
