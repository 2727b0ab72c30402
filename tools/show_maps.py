"""Show what a network sees in one picture: heatmaps and tag maps, and the people they become.

    python -m tools.show_maps --model checkpoint.pth.tar --input picture.jpg --out maps.png
    python -m tools.show_maps --model model_best.pth.tar --cfg ... --superconfig ... --input a.jpg

From above: the people found; the strongest heatmap of each pixel and its tag, gray where no joint
would be looked for; the tags of each person's joints; the heatmap of each joint.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from lib.core.inference import InferenceSettings, Input, find_people, network_maps, prepare
from lib.keypoints import KeypointSpec
from lib.utils import cli
from lib.utils.dist import choose_device
from lib.utils.plot import BLACK, GRAY, LIGHT, Axes
from lib.utils.transforms import of_pixels, warp_matrix
from lib.utils.vis import (
    caption,
    draw_heatmaps,
    draw_named_people,
    person_color,
    save_image,
    tile,
)
from tools.demo.media import read_image
from tools.network import add_settings_flags, settings_of, spec_of
from valid import load_model

MIN_JOINT = 0.1  # a joint with less is not drawn
LARGE, SMALL = 452, 300  # pixels, long sides of pictures
COLUMNS = (4, 6)  # of large and of small pictures, equally wide
LETTER = 8  # pixels, of a caption's text; a little more than it takes
ROW = 22  # pixels, of a person's tags
BAR = 10  # pixels, height of a bar of colors
HEAT, TAGS = cv2.COLORMAP_JET, cv2.COLORMAP_TURBO


class Seen(NamedTuple):
    """What a network makes of a picture."""

    given: Input
    heatmaps: np.ndarray  # (K, H, W)
    tags: np.ndarray  # (K or 1, H, W, L)
    people: np.ndarray  # (N, K, 3 or more) in pixels of the picture, the surest first
    scores: list[float]
    grouped: np.ndarray  # (N, K, 3 + L) of the same, only joints that were grouped by their tags


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, type=Path, help="a checkpoint or a cut")
    parser.add_argument("--input", required=True, type=Path, help="a picture")
    parser.add_argument("--out", default="maps.png", help="(default: maps.png)")
    parser.add_argument("--min-score", type=float, default=0.2, help="of a person (default: 0.2)")
    add_settings_flags(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if args.model.suffix == ".onnx":
        raise ValueError(
            f"{args.model} hands out no maps; name the checkpoint it was exported from"
        )
    picture = read_image(args.input)
    cfg, arch = settings_of(args.model, args.cfg, args.superconfig, args.opts)
    model = load_model(cfg, arch, args.model, choose_device(cfg, args.gpu))
    seen = look(cfg, model, picture, args.min_score)
    save_image(args.out, draw_sheet(picture, seen, spec_of(cfg), cfg.TEST.DETECTION_THRESHOLD))
    print(f"{len(seen.people)} people, {len(seen.heatmaps)} heatmaps: {args.out}")


def look(cfg: CfgNode, model: nn.Module, picture: np.ndarray, min_score: float) -> Seen:
    """Maps of `picture` (H, W, 3) and its people of at least `min_score`."""
    settings = InferenceSettings.from_config(cfg)
    given = prepare(settings, picture)
    heatmaps, tags = network_maps(settings, model, [given])
    if not (torch.isfinite(heatmaps).all() and torch.isfinite(tags).all()):
        raise ValueError("the network's maps are not finite")
    people, scores = find_people(settings, heatmaps, tags, given)
    [grouped], _ = settings.parser.parse(heatmaps, tags, refine=False)  # in the same order
    order = [i for i in np.argsort(-np.array(scores), kind="stable") if scores[i] >= min_score]
    return Seen(
        *(given, heatmaps[0].cpu().numpy(), tags[0].cpu().numpy()),
        *(people[order], [scores[i] for i in order], grouped[order]),
    )


def draw_sheet(picture: np.ndarray, seen: Seen, spec: KeypointSpec, threshold: float) -> np.ndarray:
    """(H, W, 3) uint8 RGB: everything in `seen`; tags where a heatmap is above `threshold`."""
    limits = tag_limits(seen, threshold)
    large = tile(large_views(picture, seen, spec, threshold, limits), COLUMNS[0])
    view, scale = resized(picture, SMALL)
    heatmaps = on_view(seen.heatmaps, seen.given, view, scale, cv2.INTER_LINEAR)
    joints = spec.with_center().joints  # the center comes last, where there is one
    views = [
        titled(draw_heatmaps(view, heatmaps[k : k + 1]), f"{joints[k]}: {one.max():.2f} at most")
        for k, one in enumerate(seen.heatmaps)
    ]
    small = tile(views, COLUMNS[1])
    width = max(large.shape[1], small.shape[1])
    dimensions = seen.tags.shape[3]
    strips = [draw_tags(seen, i, limits, width // min(dimensions, 2)) for i in range(dimensions)]
    bar = Axes([(0, 0), (1, 1)], (width, 66), (12, 26, 12, 40))
    bar.text("heatmaps of each joint", (width // 2, 18), 0.5)
    draw_bar(bar, HEAT)
    return stacked([large, tile(strips, 2, gap=0), bar.canvas, small])


def large_views(
    picture: np.ndarray,
    seen: Seen,
    spec: KeypointSpec,
    threshold: float,
    limits: tuple[float, float],
) -> list[np.ndarray]:
    """The people, the strongest heatmap, and the tags of each dimension."""
    view, scale = resized(picture, LARGE)
    people = seen.people[..., :3] * (scale, scale, 1)
    names = [str(i + 1) for i in range(len(people))]
    shown = draw_named_people(view, people, spec, names, range(len(people)), MIN_JOINT)
    heatmaps = on_view(seen.heatmaps, seen.given, view, scale, cv2.INTER_LINEAR)
    views = [
        titled(shown, f"people found: {len(people)}"),
        titled(draw_heatmaps(view, heatmaps), "the strongest heatmap"),
    ]
    strongest = seen.heatmaps.max(axis=0, keepdims=True)
    [where] = on_view(strongest, seen.given, view, scale, cv2.INTER_NEAREST) > threshold
    tags = np.moveaxis(strongest_tags(seen), 2, 0)
    for i, values in enumerate(on_view(tags, seen.given, view, scale, cv2.INTER_NEAREST)):
        text = f"its tag {i + 1}, above {threshold:g}"
        views.append(titled(color_tags(view, values, where, limits), text))
    return views


def strongest_tags(seen: Seen) -> np.ndarray:
    """(H, W, L): at each pixel the tags of the joint whose heatmap is the strongest there."""
    if len(seen.tags) == 1:
        return seen.tags[0]
    joint = seen.heatmaps.argmax(axis=0)[None, ..., None]
    return np.take_along_axis(seen.tags, joint, axis=0)[0]


def tag_limits(seen: Seen, threshold: float) -> tuple[float, float]:
    """From the least to the largest tag that is shown."""
    pixels = strongest_tags(seen)[seen.heatmaps.max(axis=0) > threshold]
    joints = seen.grouped[seen.grouped[..., 2] > 0, 3:]
    values = np.concatenate([pixels, joints]) if len(pixels) + len(joints) else np.array([0, 1])
    return float(values.min()), float(values.max())


def color_tags(
    view: np.ndarray, values: np.ndarray, where: np.ndarray, limits: tuple[float, float]
) -> np.ndarray:
    """`values` (h, w) in colors `where` (h, w) says so, on a pale gray `view` (h, w, 3)."""
    low, high = ends_of(limits)
    levels = np.uint8(255 * np.clip((values - low) / (high - low), 0, 1))
    colors = cv2.applyColorMap(levels, TAGS)[..., ::-1]
    gray = np.uint8(150 + 0.35 * view.mean(axis=2, keepdims=True))
    return np.where(where[..., None], colors, gray)


def draw_tags(seen: Seen, dimension: int, limits: tuple[float, float], width: int) -> np.ndarray:
    """A row for each person: a dot for the tag of each joint, a stroke for their mean."""
    rows = max(1, len(seen.people))
    size, margins = (width, 84 + rows * ROW), (96, 34, 24, 50)
    axes = Axes([(limits[0], 0), (limits[1], 1)], size, margins)
    left, top, right, bottom = axes.box
    axes.text(f"tag {dimension + 1} of each person's joints", ((left + right) // 2, top - 12), 0.5)
    for tick in axes.ticks[0]:
        x, _ = axes.pixel((tick, 0))
        cv2.line(axes.canvas, (x, top), (x, bottom), LIGHT, 1)
    cv2.rectangle(axes.canvas, (left, top), (right, bottom), GRAY, 1)
    for i, (joints, score) in enumerate(zip(seen.grouped, seen.scores, strict=True)):
        y = top + i * ROW + ROW // 2
        axes.text(f"{i + 1} ({score:.2f})", (left // 2, y + 4))
        tags = joints[joints[:, 2] > 0, 3 + dimension]
        x, _ = axes.pixel((float(tags.mean()), 0))
        cv2.line(axes.canvas, (x, y - ROW // 2 + 2), (x, y + ROW // 2 - 2), BLACK, 1)
        for tag in tags.tolist():
            x, _ = axes.pixel((tag, 0))
            cv2.circle(axes.canvas, (x, y), 5, BLACK, -1, cv2.LINE_AA)
            cv2.circle(axes.canvas, (x, y), 4, person_color(i), -1, cv2.LINE_AA)
    if len(seen.people) == 0:
        axes.text("nobody was found", ((left + right) // 2, top + ROW // 2 + 4), 0.5)
    draw_bar(axes, TAGS)
    return axes.canvas


def draw_bar(axes: Axes, colormap: int) -> None:
    """The colors from the first to the last tick, below the axes, and the ticks' numbers."""
    left, _, right, bottom = axes.box
    levels = np.uint8(np.linspace(0, 255, right - left + 1))[None]
    colors = cv2.applyColorMap(levels, colormap)[..., ::-1]
    axes.canvas[bottom + 3 : bottom + 3 + BAR, left : right + 1] = colors
    for tick in axes.ticks[0]:
        x, _ = axes.pixel((tick, 0))
        axes.text(f"{tick:g}", (x, bottom + BAR + 18))


def ends_of(limits: tuple[float, float]) -> tuple[float, float]:
    """The first and the last tick of axes with these limits."""
    ticks = Axes([(limits[0], 0), (limits[1], 1)], (2, 2)).ticks[0]
    return ticks[0], ticks[-1]


def resized(picture: np.ndarray, longest: int) -> tuple[np.ndarray, float]:
    """The picture with that long side; how much larger it is."""
    scale = longest / max(picture.shape[:2])
    size = [max(1, round(scale * side)) for side in picture.shape[1::-1]]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(picture, size, interpolation=method), scale


def on_view(
    maps: np.ndarray, given: Input, view: np.ndarray, scale: float, method: int
) -> np.ndarray:
    """Maps (C, H, W) of an input -> (C, h, w), where they lie on a resized picture (h, w, 3)."""
    size = maps.shape[2], maps.shape[1]
    matrix = of_pixels(warp_matrix(given.center * scale, given.scale * scale, size), 0.5)
    how = {"flags": method | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
    return np.stack([cv2.warpAffine(one, matrix, view.shape[1::-1], **how) for one in maps])


def titled(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture below its text, with white at the right where it is too narrow for that."""
    room = max(0, LETTER * len(text) + 6 - picture.shape[1])
    return caption(np.pad(picture, ((0, 0), (0, room), (0, 0)), constant_values=255), text)


def stacked(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """One below the other, with white at the right of narrower ones."""
    width = max(picture.shape[1] for picture in pictures)
    rooms = [((0, 0), (0, width - picture.shape[1]), (0, 0)) for picture in pictures]
    return np.concatenate(
        [np.pad(p, room, constant_values=255) for p, room in zip(pictures, rooms, strict=True)]
    )


if __name__ == "__main__":
    cli.run(main)
