"""Draw architectures as the paper's figure has them: what each part is and what it costs.

    python -m tools.draw_arch mobile_configs/search-XS.json --out arch.svg
    python -m tools.draw_arch mobile_configs/search-*.json --joints 17 --out arch.svg

Several stand below one another, to one scale. Joints are CrowdPose's 14, or as many as named.
"""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

import torch

from lib.models.arch import ArchSpec
from lib.models.head import FIRST_PREDICTION
from lib.models.pieces import Piece, arch_macs, build_piece, pieces_of
from lib.models.pose_mobilenet import output_channels
from lib.utils import cli
from lib.utils.complexity import count_params
from lib.utils.svg import add, add_arrow_head, arrow, finish, new_drawing, number, text_width, write

WITH_TAGS = (True, False)  # heads that predict tags, as LOSS.WITH_AE_LOSS has it
AROUND = ("deconv 2", "deconv 3")  # one flows into the other around head 1
RAW = (  # maps of the backbone, and where they are added
    *(("stage 3", "deconv 1"), ("stage 2", "deconv 2"), ("stage 1", "head 1")),
    *(("stage 1", "deconv 3"), ("stem", "head 2")),
)
HEADINGS = ("channels", "map", "layers", "parameters", "GMACs")

# Pixels of the figure.
MARGIN, GAP = 16, 26  # around it; between parts
TALLEST, WIDEST, SMALLEST = 120, 22, 3  # the largest map, the most channels; no box is smaller
RAIL = 8  # from one line of raw maps to the next
LINE, LARGE = 15, 14  # of text: from one line to the next, letters of a title

LARGE_KERNEL = 7  # it and larger ones are darkest
COLORS = {"stem": "#777777", "block": "#0072b2", "norm": "#009e73", "predict": "#cc79a7"}
FLOW, RAW_FLOW, QUIET = "#444444", "#d55e00", "#666666"


class Part(NamedTuple):
    """A stage, say."""

    pieces: list[Piece]
    side: int  # of the map that it makes, in pixels
    cells: list[list[str]]  # what is said of it: lines for each of HEADINGS


class Scale(NamedTuple):
    """Pixels of the figure."""

    channel: float
    pixel: float  # of a map's side


class Box(NamedTuple):
    """A block, or another map that is made."""

    left: float
    width: float
    half: float  # of its height
    piece: Piece

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def middle(self) -> float:
        return self.left + self.width / 2


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archs", nargs="+", type=Path, metavar="ARCH", help="mobile_configs/*.json")
    parser.add_argument("--out", type=Path, default=Path("arch.svg"), help="(default: arch.svg)")
    parser.add_argument("--joints", type=int, default=14, metavar="N", help="(default: 14)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.joints < 1:
        raise ValueError(f"--joints is {args.joints}; wanted 1 or more")
    if args.out.suffix != ".svg":
        raise ValueError(f"--out is {args.out}; an architecture is drawn as *.svg")
    archs = [(path.stem, ArchSpec.from_json(path)) for path in args.archs]
    try:
        args.out.write_text(draw(archs, args.joints), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write {args.out}: {error.strerror}") from None
    print(f"{', '.join(name for name, _ in archs)}: {args.out}")


def draw(archs: Sequence[tuple[str, ArchSpec]], joints: int) -> str:
    """The SVG of architectures and their names, for so many joints."""
    networks = [parts_of(arch, joints) for _, arch in archs]
    titles = [headline(*named, parts) for named, parts in zip(archs, networks, strict=True)]
    every = [part for parts in networks for part in parts.values()]
    scale = Scale(
        WIDEST / max(piece.out_channels for part in every for piece in part.pieces),
        TALLEST / max(part.side for part in every),
    )
    columns, right = column_middles(networks, scale)
    svg = new_drawing()
    for color in (FLOW, RAW_FLOW):
        add_arrow_head(svg, head_of(color), color)
    y = 0.0
    for title, parts in zip(titles, networks, strict=True):
        write(svg, title, MARGIN, y + MARGIN + LARGE, LARGE, font_weight="bold")
        y = draw_network(svg, parts, columns, scale, y + MARGIN + LARGE)
        right = max(right, MARGIN + text_width(title, LARGE))
    for text in legend(joints):
        y += LINE
        write(svg, text, MARGIN, y, fill=QUIET)
        right = max(right, MARGIN + text_width(text))
    return finish(svg, right + MARGIN, y + MARGIN)


def headline(name: str, arch: ArchSpec, parts: dict[str, Part]) -> str:
    """Name, resolution, and what the whole costs."""
    pieces = [piece for part in parts.values() for piece in part.pieces]
    macs = arch_macs(pieces)
    return (
        f"{name}: {arch.img_size} px, {params_of(pieces):,} parameters, "
        f"{macs['true'] / 1e9:.3f} GMACs ({macs['paper'] / 1e9:.2f} by the paper's rule)"
    )


def legend(joints: int) -> list[str]:
    """What a reader must know, in lines."""
    return [
        "Heights are sides of maps, widths are channels. A layer [e, k] is a block that expands "
        "its channels e times, then has a depthwise k × k kernel; the larger, the darker.",
        "Orange: a deconv level doubles the refined map and a raw one of the backbone and adds "
        "them; a head adds predictions from both. "
        f"Parameters and multiply-adds, as performed, for {joints} joints.",
    ]


def parts_of(arch: ArchSpec, joints: int) -> dict[str, Part]:
    """The network by parts, in the order in which they stand; each piece is in one."""
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
    """The part that these pieces are."""
    last = pieces[-1]
    side = last.size // (2 if last.kind == "stem" else last.stride)
    channels = str(last.out_channels)
    if last.kind == "stem":
        layers = ["3 × 3, 3 × 3, 1 × 1"]
    elif last.kind == "block":
        runs = groupby((piece.expansion, piece.kernel) for piece in pieces)
        layers = [f"{len(list(run))} × {list(block)}" for block, run in runs]
    else:
        layers = [f"refined {pieces[0].in_channels}", f"raw {pieces[1].in_channels}"]
    if last.kind == "predict" and last.out_channels > joints:
        channels = f"{joints} + {last.out_channels - joints} tags"
    costs = f"{params_of(pieces):,}", f"{arch_macs(pieces)['true'] / 1e9:.3f}"
    return Part(pieces, side, [[channels], [f"{side} × {side}"], layers, *([c] for c in costs)])


def params_of(pieces: Sequence[Piece]) -> int:
    """Trainable parameters; nothing is computed."""
    with torch.device("meta"):
        return sum(count_params(build_piece(piece)) for piece in pieces)


def column_middles(
    networks: Sequence[dict[str, Part]], scale: Scale
) -> tuple[dict[str, float], float]:
    """Name of a part -> x of the middle of its column; x of the last one's end."""
    x, middles = MARGIN + max(map(text_width, HEADINGS)) + GAP, {}
    for name in networks[0]:
        width = text_width(name)
        for part in (parts[name] for parts in networks):
            boxes = boxes_of(part, 0.0, scale)
            texts = [text for lines in part.cells for text in lines]
            width = max(width, boxes[-1].right - boxes[0].left, *map(text_width, texts))
        middles[name] = x + width / 2
        x += width + GAP
    return middles, x - GAP


def boxes_of(part: Part, middle: float, scale: Scale) -> list[Box]:
    """Blocks side by side about x = `middle`; of a part without blocks, the map that it makes."""
    shown = [piece for piece in part.pieces if piece.kind == "block"] or part.pieces[-1:]
    widths = [max(SMALLEST, piece.out_channels * scale.channel) for piece in shown]
    half = max(SMALLEST, part.side * scale.pixel) / 2
    left, boxes = middle - (sum(widths) + len(widths) - 1) / 2, []
    for piece, width in zip(shown, widths, strict=True):
        boxes.append(Box(left, width, half, piece))
        left += width + 1
    return boxes


def draw_network(
    svg: ET.Element, parts: dict[str, Part], columns: dict[str, float], scale: Scale, top: float
) -> float:
    """Draw one network below y = `top`; y of its lower end."""
    boxes = {name: boxes_of(part, columns[name], scale) for name, part in parts.items()}
    tallest = 2 * max(row[0].half for row in boxes.values())
    rails = top + RAIL * (len(RAW) + 1)  # y of the lowest
    center = rails + 2 * RAIL + tallest / 2
    draw_flow(svg, boxes, rails, center)
    for box in (box for row in boxes.values() for box in row):
        color, kernel = COLORS[box.piece.kind], box.piece.kernel or LARGE_KERNEL
        rect = add(svg, "rect", x=box.left, y=center - box.half, fill=color)
        rect.attrib |= {"width": number(box.width), "height": number(2 * box.half)}
        rect.set("fill-opacity", f"{min(1, kernel / LARGE_KERNEL):.2g}")
    return draw_table(svg, parts, columns, center + tallest / 2 + 3 * RAIL)


def draw_flow(svg: ET.Element, boxes: dict[str, list[Box]], rails: float, center: float) -> None:
    """Arrows from part to part: of refined maps at y = `center`, of raw ones above `rails`."""
    for before, after in zip(boxes, list(boxes)[1:], strict=False):
        if not before.startswith("head"):
            way = ("M", boxes[before][-1].right, center, "H", boxes[after][0].left)
            arrow(svg, way, FLOW, head_of(FLOW))
    start, end = (boxes[name][-1] for name in AROUND)
    below = center + max(start.half, end.half) + RAIL
    way = ("M", start.middle, center + start.half, "V", below, "H", end.middle)
    arrow(svg, (*way, "V", center + end.half), FLOW, head_of(FLOW))
    for i, (source, target) in enumerate(RAW):
        start, end = boxes[source][-1], boxes[target][-1]
        way = ("M", start.middle, center - start.half, "V", rails - i * RAIL, "H", end.middle)
        arrow(svg, (*way, "V", center - end.half), RAW_FLOW, head_of(RAW_FLOW))


def draw_table(
    svg: ET.Element, parts: dict[str, Part], columns: dict[str, float], top: float
) -> float:
    """The parts' names and, in rows, what is said of them; y of its lower end."""
    for name in parts:
        write(svg, name, columns[name], top, text_anchor="middle", font_weight="bold")
    y = top + LINE
    for row, heading in enumerate(HEADINGS):
        write(svg, heading, MARGIN, y, fill=QUIET)
        for name, part in parts.items():
            for i, text in enumerate(part.cells[row]):
                write(svg, text, columns[name], y + i * LINE, text_anchor="middle")
        y += LINE * max(len(part.cells[row]) for part in parts.values())
    return y


def head_of(color: str) -> str:
    """The name of the arrow head of a color."""
    return "arrow" + color.removeprefix("#")


if __name__ == "__main__":
    cli.run(main)
