"""The cost of a network as the sum of its pieces, without building it.

Multiply-adds of the pieces add up to the network's exactly, milliseconds nearly
(`lib/search/latency.py`). A search visits many architectures, but few distinct pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import combinations, product
from typing import Any, NamedTuple

import torch
from torch import nn
from yacs.config import CfgNode

from lib.models.arch import ArchSpec
from lib.models.head import FIRST_PREDICTION, BackboneMaps, SepConv2d
from lib.models.layers.conv import deconv2x
from lib.models.pose_mobilenet import InvertedBottleneck, head_settings, make_stem
from lib.utils.complexity import count_macs_of


class Piece(NamedTuple):
    """A part of a network with one input map (in_channels, size, size)."""

    kind: str  # stem, block, deconv, norm (BatchNorm and ReLU of a deconv level), predict
    in_channels: int
    out_channels: int
    size: int
    kernel: int = 0
    stride: int = 1
    expansion: int = 0


BUILDERS = {
    "stem": lambda p: make_stem(p.out_channels),
    "block": lambda p: InvertedBottleneck(
        p.in_channels, p.out_channels, stride=p.stride, expansion=p.expansion, kernel=p.kernel
    ),
    "deconv": lambda p: deconv2x(p.in_channels, p.out_channels, p.kernel),
    "norm": lambda p: nn.Sequential(nn.BatchNorm2d(p.in_channels), nn.ReLU(inplace=True)),
    "predict": lambda p: SepConv2d(p.in_channels, p.out_channels),
}


def build_piece(piece: Piece) -> nn.Module:
    """(B, in_channels, size, size) -> its output, as inside a network."""
    return BUILDERS[piece.kind](piece)


def pieces_of(
    arch: ArchSpec,
    out_channels: Sequence[int],
    deconv_kernels: Sequence[int] = (4, 4, 4),
    fusion: bool = True,
) -> list[Piece]:
    """The pieces of LitePose(arch, out_channels, deconv_kernels, fusion) at its resolution."""
    size = arch.img_size
    pieces = [Piece("stem", 3, arch.input_channel, size)]
    size //= 2
    width = arch.input_channel
    for stage in arch.stages:
        for i, (expansion, kernel) in enumerate(stage.blocks):
            stride = stage.stride if i == 0 else 1
            pieces.append(
                Piece(
                    "block",
                    width,
                    stage.channel,
                    size,
                    kernel=kernel,
                    stride=stride,
                    expansion=expansion,
                )
            )
            size //= stride
            width = stage.channel
    channels = [stage.channel for stage in arch.stages]
    raw = BackboneMaps(arch.input_channel, channels).raw
    for level, (out, kernel) in enumerate(zip(arch.deconv, deconv_kernels, strict=True)):
        sources = [width, raw[level]] if fusion else [width]
        pieces += [
            Piece("deconv", source, out, size, kernel=kernel, stride=2) for source in sources
        ]
        size, width = 2 * size, out
        pieces.append(Piece("norm", out, out, size))
        if level >= FIRST_PREDICTION:
            maps = out_channels[level - FIRST_PREDICTION]
            sources = [out, raw[level + 1]] if fusion else [out]
            pieces += [Piece("predict", source, maps, size) for source in sources]
    return pieces


def arch_macs(pieces: Sequence[Piece]) -> dict[str, int]:
    """{"true": ..., "paper": ...} multiply-adds of one image; equals count_macs of the network."""
    counts = [piece_macs(piece) for piece in pieces]
    return {rule: sum(count[rule] for count in counts) for rule in ("true", "paper")}


def piece_macs(piece: Piece) -> dict[str, int]:
    """Counted at 2 x 2 pixels and scaled by the area: exact, because all sizes are even."""
    positions = (piece.size // 2) ** 2
    return {rule: positions * macs for rule, macs in _smallest_macs(piece._replace(size=2)).items()}


@cache
def _smallest_macs(piece: Piece) -> dict[str, int]:
    """On the meta device, which computes shapes only."""
    with torch.device("meta"):
        module = build_piece(piece)
        return count_macs_of(module, torch.zeros(1, piece.in_channels, piece.size, piece.size))


def pieces_from_config(cfg: CfgNode) -> partial[list[Piece]]:
    """arch -> pieces of the network that `cfg` describes."""
    return partial(pieces_of, **head_settings(cfg))


def space_pieces(space: Any, pieces_of: Callable[[ArchSpec], list[Piece]]) -> list[Piece]:
    """Every distinct piece of the architectures of an ArchManager, sorted.

    A piece depends on one resolution, expansion and kernel and on at most two widths. So the
    architectures of one of each and of widths at two ratios, in all patterns, have every piece at
    full depth. Without some of the blocks there are no others.
    """
    widths = space.largest.widths
    uniform = {
        name.rpartition(".")[2]: options
        for name, options in space.dimensions.items()
        if name not in widths and not name.endswith(".depth")
    }
    pairs = list(combinations(range(len(space.ratios)), 2)) or [(0, 0)]
    patterns = {pattern for pair in pairs for pattern in product(pair, repeat=len(widths))}
    pieces: set[Piece] = set()
    for values in product(*uniform.values()):
        value_of = dict(zip(uniform, values, strict=True))
        fields = {name: name.rpartition(".")[2] for name in space.dimensions}
        numbers = {name: value_of[field] for name, field in fields.items() if field in value_of}
        for pattern in patterns:
            for name, k in zip(widths, pattern, strict=True):
                numbers[name] = space.dimensions[name][k]
            pieces.update(pieces_of(space.largest.with_numbers(numbers)))
    return sorted(pieces)
