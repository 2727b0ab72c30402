"""Show a network's heatmaps and tag maps of an image, and the people grouped from them.

    python -m tools.show_maps --model checkpoint.pth.tar --input image.jpg --out maps.png

From above: the people; at each pixel the highest heatmap, and its tags where it is above the
detection threshold; the tags of each person's joints; the heatmap of each joint.
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
from matplotlib import rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure, SubFigure
from torch import Tensor, nn

from lib.core.inference import InferenceSettings, Input, find_people, network_maps, prepare
from lib.keypoints import KeypointSpec
from lib.models.load import read_network
from lib.utils import cli
from lib.utils.dist import choose_device
from lib.utils.files import check_outputs
from lib.utils.images import read_image
from lib.utils.plots import STYLE, save_figure
from lib.utils.transforms import of_pixels, warp_matrix
from lib.utils.vis import draw_heatmaps, draw_people, person_color, resize_to

MIN_JOINT = 0.1  # joints with a lower score are not shown
SIDE = 452  # pixels, longer side of an image
WIDTH = 12.4  # inches, of the sheet
COLUMNS = 6  # of the heatmaps of single joints
ASPECTS = (0.2, 5.0)  # height / width of an image, as far as the layout follows it


class Maps(NamedTuple):
    """A network's maps over an image, and the people grouped from them, best score first."""

    image: np.ndarray  # (h, w, 3), resized to a longer side of SIDE
    heatmaps: np.ndarray  # (K, h, w)
    tags: np.ndarray  # (K or 1, L, h, w)
    people: np.ndarray  # (N, K, 3), in pixels of the resized image
    scores: list[float]
    grouped: np.ndarray  # (N, K, 3 + L), the same people before missing joints were filled in

    @property
    def top_tags(self) -> np.ndarray:
        """(L, h, w): at each pixel the tags of the joint with the highest heatmap."""
        if len(self.tags) == 1:
            return self.tags[0]
        return np.take_along_axis(self.tags, self.heatmaps.argmax(axis=0)[None, None], axis=0)[0]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument(
        "--model", required=True, type=Path, help="weights: a checkpoint, a sub-network, ..."
    )
    parser.add_argument("--input", required=True, type=Path, help="an image")
    parser.add_argument("--out", default="maps.png", help="(default: maps.png)")
    parser.add_argument("--min-score", type=float, default=0.2, help="of a person (default: 0.2)")
    cli.add_network_flags(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    cli.check_range("--min-score", args.min_score, low=0, high=1)
    check_outputs([args.out], [args.input, args.model, args.cfg, args.superconfig])
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if args.model.suffix == ".onnx":
        raise ValueError(
            f"{args.model} returns candidates, not maps; name the checkpoint it was exported from"
        )
    image = read_image(args.input)
    network = read_network(
        args.model, cfg=args.cfg, superconfig=args.superconfig, opts=args.opts
    ).expect_subnet()
    model = network.build(choose_device(network.cfg, args.gpu))
    settings = InferenceSettings.from_config(network.cfg)
    maps = read_maps(settings, model, image, args.min_score)
    save_figure(args.out, draw_sheet(maps, network.spec, settings.group.detection_threshold))
    print(f"{len(maps.people)} people, {len(maps.heatmaps)} heatmaps: {args.out}")


def read_maps(
    settings: InferenceSettings, model: nn.Module, image: np.ndarray, min_score: float
) -> Maps:
    """Maps over `image` (H, W, 3) and its people with scores of at least `min_score`."""
    prepared = prepare(settings, image)
    heatmaps, tags = network_maps(settings, model, [prepared])
    if not (torch.isfinite(heatmaps).all() and torch.isfinite(tags).all()):
        raise ValueError("the network's maps are not finite")
    people, scores, _ = find_people(settings, heatmaps, tags, prepared)
    [grouped], _ = settings.parser.parse(heatmaps, tags, refine=False)  # in the same order
    order = [i for i in np.argsort(-np.array(scores), kind="stable") if scores[i] >= min_score]
    small, scale = resize_to(image, SIDE), SIDE / max(image.shape[:2])
    size = small.shape[1::-1]
    tags_first = tags[0].movedim(3, 1)  # (K or 1, L, H, W)
    flat = on_image(tags_first.flatten(0, 1), prepared, size, scale, cv2.INTER_NEAREST)
    return Maps(
        image=small,
        heatmaps=on_image(heatmaps[0], prepared, size, scale, cv2.INTER_LINEAR),
        tags=flat.reshape(*tags_first.shape[:2], *flat.shape[1:]),
        people=people[order, :, :3] * (scale, scale, 1),
        scores=[scores[i] for i in order],
        grouped=grouped[order],
    )


def on_image(
    maps: Tensor, prepared: Input, size: tuple[int, int], scale: float, method: int
) -> np.ndarray:
    """Maps (C, H, W) of an input -> (C, h, w), registered with an image resized to (w, h)."""
    height, width = maps.shape[1:]
    center, side = prepared.center * scale, prepared.scale * scale
    matrix = of_pixels(warp_matrix(center, side, (width, height)), 0.5)
    flags, border = method | cv2.WARP_INVERSE_MAP, cv2.BORDER_REPLICATE
    return np.stack(
        [
            cv2.warpAffine(one, matrix, size, flags=flags, borderMode=border)
            for one in maps.cpu().numpy()
        ]
    )


# --- drawing ----------------------------------------------------------------------------


@rc_context(STYLE | {"axes.grid": False})
def draw_sheet(maps: Maps, spec: KeypointSpec, threshold: float) -> Figure:
    """Everything in `maps`; tag maps where the highest heatmap is above `threshold`."""
    limits = tag_limits(maps, threshold)
    aspect = float(np.clip(maps.image.shape[0] / maps.image.shape[1], *ASPECTS))
    rows = -(-len(maps.heatmaps) // COLUMNS)
    heights = [
        0.3 + WIDTH / (2 + len(maps.top_tags)) * aspect,
        0.9 + 0.25 * len(maps.people),
        0.8 + rows * (0.3 + WIDTH / COLUMNS * aspect),
    ]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    above, middle, below = figure.subfigures(3, 1, height_ratios=heights)
    draw_views(above, maps, spec, threshold, limits)
    draw_tags(middle, maps, limits)
    draw_joints(below, maps, spec)
    return figure


def draw_views(
    figure: SubFigure,
    maps: Maps,
    spec: KeypointSpec,
    threshold: float,
    limits: tuple[float, float],
) -> None:
    """The people, the highest heatmap, and its tags in each dimension, gray where it is low."""
    names = [str(i + 1) for i in range(len(maps.people))]
    low = maps.heatmaps.max(axis=0) <= threshold
    grid = figure.subplots(1, 2 + len(maps.top_tags))
    grid[0].imshow(draw_people(maps.image, maps.people, spec, MIN_JOINT, names))
    grid[0].set_title(f"people found: {len(names)}")
    grid[1].imshow(draw_heatmaps(maps.image, maps.heatmaps))
    grid[1].set_title("highest heatmap")
    for i, (axes, values) in enumerate(zip(grid[2:], maps.top_tags, strict=True)):
        axes.imshow(maps.image.mean(axis=2), cmap="gray", vmin=-430, vmax=300)  # pale
        axes.imshow(np.ma.masked_where(low, values), cmap="turbo", vmin=limits[0], vmax=limits[1])
        axes.set_title(f"its tag {i + 1}, where it is above {threshold:g}")
    for axes in grid:
        axes.set_axis_off()


def draw_tags(figure: SubFigure, maps: Maps, limits: tuple[float, float]) -> None:
    """A row for each person: a dot for the tag of each grouped joint, a stroke for their mean.

    Below the people are the colors of the tag maps.
    """
    count = max(1, len(maps.people))
    for i, axes in enumerate(figure.subplots(1, len(maps.top_tags), squeeze=False)[0]):
        for row, joints in enumerate(maps.grouped):
            tags = joints[joints[:, 2] > 0, 3 + i]
            color = np.array(person_color(row)) / 255
            axes.plot(tags.mean(), row, "|", color="black", markersize=16)
            axes.plot(tags, np.full(len(tags), row), "o", color=color, markeredgecolor="black")
        colors = np.linspace(*limits, 256)[None]
        extent = (*limits, count, count - 0.4)
        axes.imshow(colors, cmap="turbo", extent=extent, aspect="auto", zorder=1)
        names = [f"{row + 1} ({score:.2f})" for row, score in enumerate(maps.scores)]
        axes.set_yticks(range(len(names)), names)
        axes.set(xlim=limits, ylim=(count, -0.6), title=f"tag {i + 1} of each person's joints")
        axes.grid(axis="x")
        if not names:
            axes.text(sum(limits) / 2, 0, "nobody was found", ha="center", va="center")


def draw_joints(figure: SubFigure, maps: Maps, spec: KeypointSpec) -> None:
    """The heatmap of each joint, with its maximum."""
    joints = spec.with_center().joints  # the center comes last, if there is one
    grid = figure.subplots(-(-len(maps.heatmaps) // COLUMNS), COLUMNS, squeeze=False)
    for axes, name, heatmap in zip(grid.flat, joints, maps.heatmaps, strict=False):
        axes.imshow(draw_heatmaps(maps.image, heatmap[None]))
        axes.set_title(f"{name}: at most {heatmap.max():.2f}")
    for axes in grid.flat:
        axes.set_axis_off()
    bar = ScalarMappable(cmap="jet")
    bar.set_clim(0, 1)
    figure.colorbar(bar, ax=grid, location="top", aspect=100, label="heatmaps of each joint")


def tag_limits(maps: Maps, threshold: float) -> tuple[float, float]:
    """A range that holds all tags that are shown."""
    pixels = maps.top_tags[:, maps.heatmaps.max(axis=0) > threshold]
    joints = maps.grouped[maps.grouped[..., 2] > 0, 3:]
    values = np.concatenate([pixels.ravel(), joints.ravel()])
    low, high = (values.min(), values.max()) if len(values) else (0, 1)
    margin = 0.05 * max(high - low, 1e-3)
    return float(low - margin), float(high + margin)


if __name__ == "__main__":
    cli.run(main)
