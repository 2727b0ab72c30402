"""Draw architectures to scale: the layers, map size and cost of every part.

    python -m tools.draw_arch mobile_configs/search-XS.json --out arch.svg
    python -m tools.draw_arch mobile_configs/search-*.json --joints 17 --out arch.pdf

Several architectures share one figure and one scale. --joints is 14 (CrowdPose) by default; the
suffix of --out chooses the format: .svg, .pdf, .png.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.path import Path as Line

from lib.models.arch import ArchSpec
from lib.models.head import FIRST_PREDICTION
from lib.models.pieces import Piece, arch_macs, build_piece, pieces_of
from lib.models.pose_mobilenet import output_channels
from lib.utils import cli
from lib.utils.complexity import count_params
from lib.utils.files import check_outputs
from lib.utils.plots import STYLE, save_figure
from lib.utils.text import escaped

WITH_TAGS = (True, False)  # heads that predict tags, as in LOSS.WITH_AE_LOSS
AROUND_HEAD = ("deconv 2", "deconv 3")  # the refined map goes around head 1
RAW = (  # (source, target) of the backbone's maps that are added later, lowest line first
    ("stage 3", "deconv 1"),
    ("stage 2", "deconv 2"),
    ("stage 1", "head 1"),
    ("stage 1", "deconv 3"),
    ("stem", "head 2"),
)
HEADINGS = ("channels", "map", "layers", "parameters", "GMACs")

# Inches: of a column, and of the side of the largest map.
COLUMN, UNIT = 1.3, 1.5
# Parts of a column.
WIDEST, SMALLEST = 0.95, 0.03  # all blocks of the widest stage; the narrowest box
# Parts of UNIT.
RAIL = 0.07  # from one line of raw maps to the next
TOP = 0.5 + RAIL * (len(RAW) + 2)
TEXT_TOP, LINE = -0.64, 0.125  # y of the text below the boxes; from one line to the next

LARGE_KERNEL = 7  # blocks with this kernel or a larger one are darkest
COLORS = {"stem": "#777777", "block": "#0072b2", "norm": "#009e73", "predict": "#cc79a7"}
LEGEND = (
    "Heights are sides of maps, widths are channels. A layer [e, k] is a block that expands its "
    "channels e times, then has a depthwise k × k kernel; the larger, the darker.\n"
    "Orange: a deconv level doubles the refined map and a raw one of the backbone and adds them; "
    "a head adds predictions from both. Parameters and multiply-adds are for {joints} joints."
)
FLOW, RAW_FLOW, QUIET = "#444444", "#d55e00", "#666666"


class Part(NamedTuple):
    """A column of the figure: the stem, a stage, a deconv level or a head."""

    pieces: list[Piece]
    side: int  # of its output map, in pixels
    cells: list[str]  # text for each of HEADINGS

    @property
    def boxed(self) -> list[Piece]:
        """Pieces with a box: all blocks, or the last piece of a part without blocks."""
        return [piece for piece in self.pieces if piece.kind == "block"] or self.pieces[-1:]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("archs", nargs="+", type=Path, metavar="ARCH", help="mobile_configs/*.json")
    parser.add_argument("--out", type=Path, default=Path("arch.svg"), help="(default: arch.svg)")
    parser.add_argument("--joints", type=int, default=14, metavar="N", help="(default: 14)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.joints < 1:
        raise ValueError(f"--joints is {args.joints}; must be 1 or more")
    check_outputs([args.out], args.archs)
    archs = [(path.stem, ArchSpec.from_json(path)) for path in args.archs]
    save_figure(args.out, draw(archs, args.joints))
    print(escaped(f"{', '.join(name for name, _ in archs)}: {args.out}"))


# --- what the figure says ---------------------------------------------------------------


def headline(name: str, arch: ArchSpec, parts: Mapping[str, Part]) -> str:
    """Name, resolution and cost of the whole network."""
    pieces = [piece for part in parts.values() for piece in part.pieces]
    macs = arch_macs(pieces)
    return (
        f"{name}: {arch.img_size} px, {params_of(pieces):,} parameters, "
        f"{macs['true'] / 1e9:.3f} GMACs ({macs['paper'] / 1e9:.2f} by the paper's rule)"
    )


def parts_of(arch: ArchSpec, joints: int) -> dict[str, Part]:
    """All pieces of the network, grouped into parts by name, in the order of computation."""
    pieces = iter(pieces_of(arch, output_channels(joints, WITH_TAGS, tag_per_joint=True)))
    parts = {"stem": [next(pieces)]}
    for i, stage in enumerate(arch.stages, start=1):
        parts[f"stage {i}"] = list(islice(pieces, len(stage.blocks)))
    for level in range(len(arch.deconv)):
        parts[f"deconv {level + 1}"] = list(islice(pieces, 3))  # refined, raw, norm
        if level >= FIRST_PREDICTION:
            head = f"head {level - FIRST_PREDICTION + 1}"
            parts[head] = list(islice(pieces, 2))  # refined, raw
    return {name: describe(pieces, joints) for name, pieces in parts.items()}


def describe(pieces: list[Piece], joints: int) -> Part:
    """One part with the text of its column."""
    last = pieces[-1]
    side = last.size // (2 if last.kind == "stem" else last.stride)
    channels = str(last.out_channels)
    if last.kind == "stem":
        layers = "3 × 3, 3 × 3, 1 × 1"
    elif last.kind == "block":
        runs = groupby((piece.expansion, piece.kernel) for piece in pieces)
        layers = "\n".join(f"{len(list(run))} × {list(block)}" for block, run in runs)
    else:
        layers = f"refined {pieces[0].in_channels}\nraw {pieces[1].in_channels}"
    if last.kind == "predict" and last.out_channels > joints:
        channels = f"{joints} + {last.out_channels - joints} tags"
    params, gmacs = f"{params_of(pieces):,}", f"{arch_macs(pieces)['true'] / 1e9:.3f}"
    return Part(pieces, side, [channels, f"{side} × {side}", layers, params, gmacs])


def params_of(pieces: Sequence[Piece]) -> int:
    """Trainable parameters, counted on the meta device: nothing is allocated."""
    with torch.device("meta"):
        return sum(count_params(build_piece(piece)) for piece in pieces)


# --- drawing ----------------------------------------------------------------------------


@rc_context(STYLE)
def draw(archs: Sequence[tuple[str, ArchSpec]], joints: int) -> Figure:
    """One row of drawings and text for each (name, architecture), all at one scale.

    In a row, x counts columns, one for each part; y is 1 for the largest map, with 0 at the middle
    of every map.
    """
    networks = [parts_of(arch, joints) for _, arch in archs]
    every = [part for parts in networks for part in parts.values()]
    tallest = max(part.side for part in every)
    widest = max(sum(piece.out_channels for piece in part.boxed) for part in every)
    bottom = TEXT_TOP - LINE * (2 + max("\n".join(part.cells).count("\n") for part in every))
    columns, unit = len(networks[0]), UNIT * len(archs)
    figure = Figure(layout="constrained")
    figure.set_size_inches(COLUMN * (1 + columns), unit * (TOP - bottom + 0.3) + 0.5)
    grid = figure.subplots(len(archs), squeeze=False)[:, 0]
    for axes, (name, arch), parts in zip(grid, archs, networks, strict=True):
        axes.set(xlim=(-1, columns), ylim=(bottom, TOP))
        axes.set_axis_off()
        title = headline(name, arch, parts)
        axes.set_title(title, loc="left", weight="bold", size="large", wrap=True)
        boxes = {}
        for place, (name, part) in enumerate(parts.items()):
            boxes[name] = boxes_of(part, place + 0.5, WIDEST / widest, 1 / tallest)
        draw_flow(axes, boxes)
        for box in (box for row in boxes.values() for box in row):
            axes.add_patch(box)
        write_cells(axes, parts)
    text = LEGEND.format(joints=joints)
    figure.supxlabel(text, x=0.01, ha="left", size="medium", color=QUIET)
    return figure


def boxes_of(part: Part, middle: float, channel: float, pixel: float) -> list[Rectangle]:
    """The part's boxes side by side around x = `middle`, for these sizes of channel and pixel."""
    widths = [max(SMALLEST, piece.out_channels * channel) for piece in part.boxed]
    height, left, boxes = part.side * pixel, middle - sum(widths) / 2, []
    for piece, width in zip(part.boxed, widths, strict=True):
        box = Rectangle((left, -height / 2), width, height, edgecolor="white", linewidth=0.4)
        box.set_facecolor(COLORS[piece.kind])
        box.set_alpha(min(1, (piece.kernel or LARGE_KERNEL) / LARGE_KERNEL))
        boxes.append(box)
        left += width
    return boxes


def draw_flow(axes: Axes, boxes: Mapping[str, list[Rectangle]]) -> None:
    """Arrows from part to part: refined maps in the middle, raw maps above."""

    def arrow(color: str, *points: tuple[float, float]) -> None:
        style = {"arrowstyle": "-|>", "mutation_scale": 9, "color": color}
        axes.add_patch(FancyArrowPatch(path=Line(points), **style))

    def detour(color: str, source: str, target: str, y: float) -> None:
        """An arrow that leaves and enters boxes at their upper or lower end, by way of `y`."""
        start, end = boxes[source][-1].get_bbox(), boxes[target][-1].get_bbox()
        x0, x1 = (start.x0 + start.x1) / 2, (end.x0 + end.x1) / 2
        y0, y1 = (start.y1, end.y1) if y > 0 else (start.y0, end.y0)
        arrow(color, (x0, y0), (x0, y), (x1, y), (x1, y1))

    for before, after in pairwise(boxes):
        if not before.startswith("head"):
            arrow(FLOW, (boxes[before][-1].get_bbox().x1, 0), (boxes[after][0].get_x(), 0))
    source, target = AROUND_HEAD
    detour(FLOW, source, target, min(boxes[name][-1].get_y() for name in AROUND_HEAD) - RAIL)
    for i, (source, target) in enumerate(RAW):
        detour(RAW_FLOW, source, target, 0.5 + RAIL * (i + 2))


def write_cells(axes: Axes, parts: Mapping[str, Part]) -> None:
    """The name of each part, and below it a column of text with a row for each of HEADINGS."""
    columns = [HEADINGS, *(part.cells for part in parts.values())]
    heights = [max(cell.count("\n") for cell in row) for row in zip(*columns, strict=True)]
    for place, (name, cells) in enumerate(zip(("", *parts), columns, strict=True)):
        filled = (
            cell + "\n" * (height - cell.count("\n"))
            for cell, height in zip(cells, heights, strict=True)
        )
        text = "\n".join(filled)
        x, align, color = (place - 0.5, "center", "black") if name else (-1, "left", QUIET)
        axes.text(x, TEXT_TOP, name, va="top", ha=align, weight="bold")
        axes.text(x, TEXT_TOP - LINE, text, va="top", ha=align, color=color, linespacing=1.35)


if __name__ == "__main__":
    cli.run(main)
