"""Architectures: the contents of a mobile_configs/*.json file as a comparable value."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.utils.files import write_file
from lib.utils.reading import read_json
from lib.utils.text import brief, brief_name

# The fusion head adds a backbone map to each deconv level, so the strides cannot be chosen.
STRIDES = (2, 2, 2, 1)
DECONV_LEVELS = 3
BLOCK_FIELDS = ("expansion", "kernel")

# Bounds of what a file may ask for; the largest published network has 160 channels, 10 blocks.
MAX_BYTES = 2**20
MAX_SIZE = 4096  # pixels
MAX_WIDTH = 8192  # channels
MAX_BLOCKS = 100  # of a stage
MAX_EXPANSION = 64
MAX_KERNEL = 63
MAX_WEIGHTS = 2 * 10**9  # of all blocks


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`: at least `divisor`, never below 90 % of it."""
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * value else nearest + divisor


@dataclass(frozen=True)
class StageSpec:
    """One resolution of the backbone."""

    channel: int
    stride: int  # of the first block
    blocks: tuple[tuple[int, int], ...]  # (expansion, kernel size) per block


@dataclass(frozen=True)
class ArchSpec:
    """One network of the search space (paper, section 4)."""

    img_size: int  # pixels, the side of a training crop
    input_channel: int  # width of the stem
    stages: tuple[StageSpec, ...]
    deconv: tuple[int, ...]  # widths of the fusion deconv levels, coarse to fine

    @property
    def summary(self) -> str:
        """Size, widths and depths in a few words."""
        widths = " ".join(str(stage.channel) for stage in self.stages)
        depths = " ".join(str(len(stage.blocks)) for stage in self.stages)
        return (
            f"{self.img_size} px, stem {self.input_channel}, stages {widths} of {depths} blocks, "
            f"deconv {' '.join(map(str, self.deconv))}"
        )

    @property
    def widths(self) -> dict[str, int]:
        """{"input_channel": 16, "stages.0.channel": 16, ..., "deconv.2": 24}"""
        stages = {f"stages.{i}.channel": stage.channel for i, stage in enumerate(self.stages)}
        deconv = {f"deconv.{i}": width for i, width in enumerate(self.deconv)}
        return {"input_channel": self.input_channel, **stages, **deconv}

    @property
    def weights(self) -> int:
        """The weights of all blocks and deconv levels, to a factor of two."""
        widths = (self.stages[-1].channel, *self.deconv)
        return sum(16 * a * b for a, b in itertools.pairwise(widths)) + sum(
            stage.channel * expansion * (2 * stage.channel + kernel**2)
            for stage in self.stages
            for expansion, kernel in stage.blocks
        )

    @property
    def numbers(self) -> dict[str, int]:
        """Every number by name: size, widths, "stages.0.depth", "stages.0.blocks.0.kernel", ..."""
        depths = {f"stages.{i}.depth": len(stage.blocks) for i, stage in enumerate(self.stages)}
        blocks = {
            f"stages.{i}.blocks.{j}.{field}": value
            for i, stage in enumerate(self.stages)
            for j, block in enumerate(stage.blocks)
            for field, value in zip(BLOCK_FIELDS, block, strict=True)
        }
        return {"img_size": self.img_size, **self.widths, **depths, **blocks}

    def with_numbers(self, changes: Mapping[str, int]) -> ArchSpec:
        """The architecture with other values for some of its `numbers`; no stage gets deeper."""
        new = {**self.numbers, **changes}
        stages = tuple(
            StageSpec(
                channel=new[f"stages.{i}.channel"],
                stride=stage.stride,
                blocks=tuple(
                    (new[f"stages.{i}.blocks.{j}.expansion"], new[f"stages.{i}.blocks.{j}.kernel"])
                    for j in range(new[f"stages.{i}.depth"])
                ),
            )
            for i, stage in enumerate(self.stages)
        )
        deconv = tuple(new[f"deconv.{i}"] for i in range(len(self.deconv)))
        return ArchSpec(new["img_size"], new["input_channel"], stages, deconv)

    @classmethod
    def from_json(cls, path: str | Path) -> ArchSpec:
        """Read a mobile_configs file; ValueError names the file and what does not fit."""
        tree = read_json(path, "architecture", MAX_BYTES, unique_keys=True)
        try:
            return cls.from_dict(tree)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> ArchSpec:
        """The architecture that `to_dict` wrote; ValueError says what does not fit."""
        keys = ("img_size", "input_channel", "deconv_setting", "backbone_setting")
        expect_keys(tree, keys, "the architecture")
        if not isinstance(tree["backbone_setting"], list):
            raise ValueError("backbone_setting must list the stages")
        stages = tuple(_read_stage(i, stage) for i, stage in enumerate(tree["backbone_setting"]))
        strides = tuple(stage.stride for stage in stages)
        if strides != STRIDES:
            raise ValueError(f"stages of strides {brief(list(strides))}; must be {list(STRIDES)}")
        deconv = tree["deconv_setting"]
        if not isinstance(deconv, list) or len(deconv) != DECONV_LEVELS:
            raise ValueError(f"deconv_setting is {brief(deconv)}; must list {DECONV_LEVELS} widths")
        size = whole_number(tree["img_size"], "img_size", most=MAX_SIZE)
        if size % 32:
            raise ValueError(f"img_size is {size}; must be a multiple of 32")
        arch = cls(
            img_size=size,
            input_channel=whole_number(tree["input_channel"], "input_channel"),
            stages=stages,
            deconv=tuple(whole_number(width, "deconv_setting") for width in deconv),
        )
        if arch.weights > MAX_WEIGHTS:
            raise ValueError(f"its blocks have {arch.weights} weights; at most {MAX_WEIGHTS}")
        return arch

    def to_dict(self) -> dict[str, Any]:
        """The tree of a mobile_configs file."""
        return {
            "img_size": self.img_size,
            "input_channel": self.input_channel,
            "deconv_setting": list(self.deconv),
            "backbone_setting": [
                {
                    "num_blocks": len(stage.blocks),
                    "stride": stage.stride,
                    "channel": stage.channel,
                    "block_setting": [list(block) for block in stage.blocks],
                }
                for stage in self.stages
            ],
        }

    def to_json(self, path: str | Path) -> None:
        """Write the file that `from_json` reads back to an equal value."""
        text = json.dumps(self.to_dict(), indent=4)
        on_one_line = re.sub(r"\[[\s\d,]+\]", lambda numbers: str(json.loads(numbers[0])), text)
        write_file(path, on_one_line + "\n")


def uniform_arch(
    img_size: int,
    input_channel: int,
    channels: Sequence[int],
    deconv: Sequence[int],
    depths: Sequence[int] = (6, 8, 10, 10),
    block: tuple[int, int] = (6, 7),
) -> ArchSpec:
    """An architecture with the same (expansion, kernel) in every block, as all published ones."""
    stages = tuple(
        StageSpec(channel, stride, (block,) * depth)
        for channel, stride, depth in zip(channels, STRIDES, depths, strict=True)
    )
    return ArchSpec(img_size, input_channel, stages, tuple(deconv))


def largest_arch(img_size: int, deconv: Sequence[int] = (64, 48, 32)) -> ArchSpec:
    """The paper's complete supernet, which pose_mobilenet builds without --superconfig, too."""
    return uniform_arch(img_size, 24, (32, 64, 96, 160), deconv)


def width_share(arch: ArchSpec, largest: ArchSpec) -> float:
    """Its widths as a share of the largest's: 1 at full width, averaged over all widths."""
    shares = [arch.widths[name] / width for name, width in largest.widths.items()]
    return sum(shares) / len(shares)


def _read_stage(index: int, tree: dict[str, Any]) -> StageSpec:
    where = f"stage {index}"
    expect_keys(tree, ("num_blocks", "stride", "channel", "block_setting"), where)
    blocks = tree["block_setting"]
    if not isinstance(blocks, list):
        raise ValueError(f"{where}: block_setting must list the blocks")
    count = whole_number(tree["num_blocks"], f"{where}, num_blocks", most=MAX_BLOCKS)
    if len(blocks) != count:
        raise ValueError(f"{where} lists {len(blocks)} blocks, num_blocks is {count}")
    for block in blocks:
        if not isinstance(block, list) or len(block) != 2:
            raise ValueError(f"{where}: a block is [expansion, kernel size], not {brief(block)}")
        whole_number(block[0], f"{where}, expansion", most=MAX_EXPANSION)
        if whole_number(block[1], f"{where}, kernel size", most=MAX_KERNEL) % 2 == 0:
            raise ValueError(f"{where}: kernel size {block[1]} is even; it must be odd")
    return StageSpec(
        channel=whole_number(tree["channel"], f"{where}, channel"),
        stride=whole_number(tree["stride"], f"{where}, stride"),
        blocks=tuple((expansion, kernel) for expansion, kernel in blocks),
    )


def expect_keys(tree: Any, known: Sequence[str], where: str, optional: Sequence[str] = ()) -> None:
    """ValueError unless `tree` maps the `known` keys; those of `optional` may be missing."""
    if not isinstance(tree, dict):
        raise ValueError(f"{where} must hold the keys {', '.join(known)}")
    if missing := [key for key in known if key not in (*tree, *optional)]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    if extra := [key for key in tree if key not in (*known, *optional)]:
        names = ", ".join(map(brief_name, extra[:5]))
        raise ValueError(f"{where} has unknown {names}; known: {', '.join(known)}")


def whole_number(value: Any, where: str, least: int = 1, most: int = MAX_WIDTH) -> int:
    """`value`; a ValueError that calls it `where` unless it is an int in `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        wanted = f"a whole number from {least} to {most}"
        raise ValueError(f"{where} is {brief(value)}; must be {wanted}")
    return value
