"""Derives the network of a bare state dict from the names and shapes of its tensors.

Published weights are bare state dicts. Their shapes determine widths, depths and kernels: for
example, `stage.0.0.inv.0.weight` (144, 24, 1, 1) is an expansion of 6 after a stem of 24 channels.
They do not determine strides (equal in all published networks), input size, or joint names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lib.models.arch import STRIDES, ArchSpec, StageSpec, make_divisible
from lib.models.baselines.hrnet_extra import STAGES
from lib.models.baselines.pose_efficient_hrnet import GROUPS, STEM_WIDTH
from lib.models.layers.elastic import KERNEL_MAPS

# WIDTH_MULT and DEPTH_MULT of EfficientHRNet's H-1 to H-4.
PUBLISHED_MULTIPLIERS = {
    "width": (0.909, 0.826, 0.751, 0.684),
    "depth": (0.833, 0.694, 0.578, 0.483),
}
MAX_SIDE = 2**16  # of a tensor
NO_SIZE = 0  # ArchSpec.img_size of an architecture whose input size is not known
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Structure:
    """The network that the tensors belong to."""

    kind: str  # a MODEL.NAME
    arch: ArchSpec | None  # of LitePose, with img_size NO_SIZE; None: `model` describes it
    channels: tuple[int, ...]  # of each output, coarse to fine
    model: dict[str, Any]  # keys of the MODEL node of the config


@dataclass(frozen=True)
class Outputs:
    """How the channels of the outputs are divided into heatmaps and tag maps."""

    num_joints: int
    tag_per_joint: bool
    with_tags: tuple[bool, ...]  # one flag per output
    tag_dims: int = 1


def read_structure(state: Mapping[str, Tensor], source: object) -> Structure:
    """The network of `state`; ValueError if no known network has these tensors."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name, shape in shapes.items():
        if any(not 0 < side <= MAX_SIDE for side in shape):
            raise ValueError(f"{source}: {name} has the shape {shape}; sides are 1 to {MAX_SIDE}")
    read = next((READERS[names] for names in READERS if set(names) <= set(shapes)), None)
    if read is None:
        raise ValueError(f"the tensors of {source} match no known network")
    try:
        return read(shapes)
    except (KeyError, IndexError) as error:
        raise ValueError(f"{source} lacks a tensor of its network: {error}") from None
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def split_channels(channels: Sequence[int], joint_counts: Iterable[int]) -> Outputs:
    """Channels of each output -> number of joints and tag maps.

    An output has K heatmaps, then D * K tag maps, one, or none: (34, 17) is K = 17 with tags at the
    first output, (51, 17) with tags of two dimensions. If every output has tags there are two
    solutions: (34, 34) is K = 17 with a tag per joint, or K = 33 with one tag map. The first with K
    in `joint_counts` (those of known data sets) is returned, else the first. D is 1 then.
    """
    least, readings = min(channels), []
    for joints in (least, least // 2, least - 1):
        with_tags = {count for count in channels if count != joints}
        flags = tuple(count != joints for count in channels)
        if with_tags in ({2 * joints}, {joints + 1}):
            readings.append(Outputs(joints, with_tags == {2 * joints}, flags))
        elif len(with_tags) == 1 and joints == least and max(with_tags) % joints == 0:
            readings.append(Outputs(joints, True, flags, max(with_tags) // joints - 1))
    if not readings:
        raise ValueError(f"outputs of {list(channels)} channels are no heatmaps and tag maps")
    known = set(joint_counts)
    return next((one for one in readings if one.num_joints in known), readings[0])


def same_network(one: ArchSpec, other: ArchSpec) -> bool:
    """Whether both have the same tensors; the input size does not matter."""
    return _widths(one) == _widths(other)


def _widths(arch: ArchSpec) -> list[tuple[int, ...]]:
    """Channels and kernels. Expansions are replaced by the widths that they round to."""
    width = arch.input_channel
    rows = [(width, *arch.deconv)]
    for stage in arch.stages:
        for expansion, kernel in stage.blocks:
            rows.append((make_divisible(width * expansion), kernel, stage.channel, stage.stride))
            width = stage.channel
    return rows


# --- LitePose and its supernet ------------------------------------------------------------


def _read_litepose(shapes: Shapes) -> Structure:
    width = stem = shapes["first.2.weight"][0]
    stages = []
    for i, stride in enumerate(STRIDES):
        blocks = []
        for j in range(_count(shapes, f"stage.{i}.")):
            block = f"stage.{i}.{j}"
            hidden, _, kernel, _ = shapes[f"{block}.depth_conv.0.weight"]
            blocks.append((_expansion(width, hidden), kernel))
            width = shapes[f"{block}.point_conv.0.weight"][0]
        stages.append(StageSpec(channel=width, stride=stride, blocks=tuple(blocks)))
    deconv = _shapes_of(shapes, "deconv_refined.{}.weight")  # (in, out, k, k) of each level
    elastic = any(f".{name}." in key for key in shapes for name in KERNEL_MAPS.values())
    return Structure(
        kind="pose_supermobilenet" if elastic else "pose_mobilenet",
        arch=ArchSpec(
            img_size=NO_SIZE,
            input_channel=stem,
            stages=tuple(stages),
            deconv=tuple(shape[1] for shape in deconv),
        ),
        channels=tuple(shape[0] for shape in _shapes_of(shapes, "final_refined.{}.conv.3.weight")),
        model={
            "FUSION_HEAD": "deconv_raw.0.weight" in shapes,
            "ELASTIC_KERNEL": elastic,
            "EXTRA": {"NUM_DECONV_KERNELS": [shape[2] for shape in deconv]},
        },
    )


def _expansion(width: int, hidden: int) -> int:
    """The integer expansion that gives `hidden` channels from `width` (`make_divisible`)."""
    nearest = round(hidden / width)
    for expansion in sorted(range(1, nearest + 9), key=lambda value: abs(value - nearest)):
        if make_divisible(width * expansion) == hidden:
            return expansion
    raise ValueError(f"{hidden} channels inside a block of {width} are no integer expansion")


# --- HigherHRNet and EfficientHRNet -------------------------------------------------------


def _read_higher_hrnet(shapes: Shapes) -> Structure:
    extra = {"STEM_INPLANES": shapes["layer1.0.conv1.weight"][0]}
    return _hrnet("pose_higher_hrnet", shapes, extra)


def _read_efficient_hrnet(shapes: Shapes) -> Structure:
    """EfficientNet's multipliers are not unique; any that give these depths and widths work."""
    blocks = _count(shapes, "features.") - 1  # without the stem
    depth = _multiplier("depth", lambda factor: sum(_depths(factor)) == blocks)
    last = 0
    widths = [shapes["features.0.1.weight"][0]]  # of the stem and of each group
    for group, count in zip(GROUPS, _depths(depth), strict=True):
        last += count
        layer = 3 if group.expansion > 1 else 2  # the projection of a block
        widths.append(shapes[f"features.{last}.conv.{layer}.weight"][0])
    base = [STEM_WIDTH, *(group.channels for group in GROUPS)]
    width = _multiplier(
        "width", lambda factor: [make_divisible(w * factor) for w in base] == widths
    )
    return _hrnet("pose_efficient_hrnet", shapes, {"WIDTH_MULT": width, "DEPTH_MULT": depth})


def _depths(factor: float) -> list[int]:
    return [math.ceil(group.blocks * factor) for group in GROUPS]


def _multiplier(name: str, fits: Callable[[float], bool]) -> float:
    """A published multiplier that fits, or the smallest in steps of a thousandth."""
    for factor in (*PUBLISHED_MULTIPLIERS[name], *(i / 1000 for i in range(100, 4001))):
        if fits(factor):
            return factor
    raise ValueError(f"no {name} multiplier of EfficientNet gives the network")


def _hrnet(kind: str, shapes: Shapes, extra: dict[str, Any]) -> Structure:
    finals = _shapes_of(shapes, "final_layers.{}.weight")  # (maps, in, k, k) of each output
    channels = tuple(shape[0] for shape in finals)
    for i, name in enumerate(STAGES):
        extra[name] = _read_stage(shapes, f"stage{i + 2}", branches=i + 2)
    deconv = _shapes_of(shapes, "deconv_layers.{}.0.0.weight")  # (in, out, k, k)
    extra["DECONV"] = {
        "NUM_DECONVS": len(deconv),
        "NUM_CHANNELS": [shape[1] for shape in deconv],
        "KERNEL_SIZE": [shape[2] for shape in deconv],
        # True if its input has more channels than the previous map (finals[i][1]): the map and
        # the previous prediction.
        "CAT_OUTPUT": [shape[0] > finals[i][1] for i, shape in enumerate(deconv)],
        "NUM_BASIC_BLOCKS": _count(shapes, "deconv_layers.0.") - 1,
    }
    extra["FINAL_CONV_KERNEL"] = finals[0][2]
    return Structure(kind=kind, arch=None, channels=channels, model={"EXTRA": extra})


def _read_stage(shapes: Shapes, name: str, branches: int) -> dict[str, Any]:
    """Settings of a stage, read from its first module: all modules of a stage are equal."""
    first = [f"{name}.0.branches.{i}." for i in range(branches)]
    # A branch without residual blocks is one convolution, without a block number in its name.
    plain = [f"{branch}0.weight" in shapes for branch in first]
    return {
        "NUM_MODULES": _count(shapes, f"{name}."),
        "NUM_BRANCHES": branches,
        "BLOCK": "BASIC",
        "NUM_BLOCKS": [
            0 if is_plain else _count(shapes, branch)
            for branch, is_plain in zip(first, plain, strict=True)
        ],
        "NUM_CHANNELS": [
            shapes[f"{branch}0.weight" if is_plain else f"{branch}0.conv1.weight"][0]
            for branch, is_plain in zip(first, plain, strict=True)
        ],
        "FUSE_METHOD": "SUM",
    }


# --- names --------------------------------------------------------------------------------


def _count(shapes: Shapes, prefix: str) -> int:
    """Number of different name parts after `prefix`, up to the next dot."""
    return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})


def _shapes_of(shapes: Shapes, pattern: str) -> list[tuple[int, ...]]:
    """Shapes of `pattern` formatted with 0, 1, ...; KeyError if there is none."""
    result = [shapes[pattern.format(0)]]
    while (name := pattern.format(len(result))) in shapes:
        result.append(shapes[name])
    return result


READERS: dict[
    tuple[str, ...], Callable[[Shapes], Structure]
] = {  # tensor names that identify the network -> its reader
    ("first.0.0.weight", "final_refined.0.conv.3.weight"): _read_litepose,
    ("layer1.0.conv1.weight", "final_layers.0.weight"): _read_higher_hrnet,
    ("features.0.1.weight", "final_layers.0.weight"): _read_efficient_hrnet,
}
