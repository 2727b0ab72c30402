"""MODEL.EXTRA of an HRNet-like network: HigherHRNet's keys, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from yacs.config import CfgNode

from lib.models.arch import MAX_BLOCKS, MAX_WIDTH, ArchSpec, expect_keys, whole_number
from lib.models.baselines.hrnet import Deconv, Stage
from lib.models.pose_mobilenet import output_channels
from lib.utils.text import brief

STAGES = ("STAGE2", "STAGE3", "STAGE4")  # of two, three and four branches
STAGE_KEYS = ("NUM_MODULES", "NUM_BRANCHES", "NUM_BLOCKS", "NUM_CHANNELS", "BLOCK", "FUSE_METHOD")
DECONV_KEYS = ("NUM_DECONVS", "NUM_CHANNELS", "KERNEL_SIZE", "CAT_OUTPUT", "NUM_BASIC_BLOCKS")
OPTIONAL = ("FINAL_CONV_KERNEL", "PRETRAINED_LAYERS")
# Keys of LitePose, which have defaults and so are always there.
LITEPOSE = ("NUM_DECONV_LAYERS", "NUM_DECONV_FILTERS", "NUM_DECONV_KERNELS")


class Settings(NamedTuple):
    """The parts that HigherHRNet and EfficientHRNet have in common."""

    stages: tuple[Stage, ...]
    deconv: Deconv
    out_channels: list[int]
    final_kernel: int


def read_extra(cfg: CfgNode, arch: ArchSpec | None, network_keys: Sequence[str]) -> Settings:
    """MODEL.EXTRA with the shared keys and `network_keys`; ValueError names the wrong key."""
    if arch is not None:
        raise ValueError(
            f"MODEL.NAME {cfg.MODEL.NAME} is described by MODEL.EXTRA; leave out --superconfig"
        )
    extra = cfg.MODEL.EXTRA
    known = (*network_keys, *STAGES, "DECONV", *OPTIONAL)
    expect_keys(extra, known, "MODEL.EXTRA", optional=(*OPTIONAL, *LITEPOSE))
    if extra.get("PRETRAINED_LAYERS", ["*"]) != ["*"]:
        raise ValueError(
            f"MODEL.EXTRA.PRETRAINED_LAYERS is {brief(extra.PRETRAINED_LAYERS)}; possible: ['*']; "
            "MODEL.PRETRAINED_PARTS says what starts from PRETRAINED"
        )
    final_kernel = extra.get("FINAL_CONV_KERNEL", 1)
    if final_kernel not in (1, 3):
        raise ValueError(f"MODEL.EXTRA.FINAL_CONV_KERNEL is {brief(final_kernel)}; possible: 1, 3")
    stages = tuple(_read_stage(extra[name], name, i + 2) for i, name in enumerate(STAGES))
    deconv = _read_deconv(extra.DECONV)
    outputs = 1 + len(deconv.channels)
    if cfg.LOSS.NUM_STAGES != outputs:
        raise ValueError(
            f"LOSS.NUM_STAGES is {cfg.LOSS.NUM_STAGES}; MODEL.EXTRA.DECONV gives {outputs} outputs"
        )
    model = cfg.MODEL
    channels = output_channels(
        model.NUM_JOINTS, cfg.LOSS.WITH_AE_LOSS, model.TAG_PER_JOINT, model.AE_TAG_DIMS
    )
    return Settings(stages, deconv, channels, final_kernel)


def _read_stage(node: Any, name: str, branches: int) -> Stage:
    where = f"MODEL.EXTRA.{name}"
    expect_keys(node, STAGE_KEYS, where)
    for key, only in (("NUM_BRANCHES", branches), ("BLOCK", "BASIC"), ("FUSE_METHOD", "SUM")):
        if node[key] != only:
            raise ValueError(f"{where}.{key} is {brief(node[key])}; possible: {only}")
    return Stage(
        modules=whole_number(node.NUM_MODULES, f"{where}.NUM_MODULES", most=MAX_BLOCKS),
        blocks=_numbers(node, "NUM_BLOCKS", where, branches, 0, MAX_BLOCKS),
        channels=_numbers(node, "NUM_CHANNELS", where, branches),
    )


def _read_deconv(node: Any) -> Deconv:
    where = "MODEL.EXTRA.DECONV"
    expect_keys(node, DECONV_KEYS, where)
    count = whole_number(node.NUM_DECONVS, f"{where}.NUM_DECONVS")
    return Deconv(
        channels=_numbers(node, "NUM_CHANNELS", where, count),
        kernels=_numbers(node, "KERNEL_SIZE", where, count),
        cat_output=tuple(map(bool, _list(node, "CAT_OUTPUT", where, count))),
        blocks=whole_number(node.NUM_BASIC_BLOCKS, f"{where}.NUM_BASIC_BLOCKS", 0, MAX_BLOCKS),
    )


def _numbers(
    node: CfgNode, key: str, where: str, count: int, least: int = 1, most: int = MAX_WIDTH
) -> tuple[int, ...]:
    values = _list(node, key, where, count)
    return tuple(whole_number(value, f"{where}.{key}", least, most) for value in values)


def _list(node: CfgNode, key: str, where: str, count: int) -> Sequence[Any]:
    if not isinstance(node[key], (list, tuple)) or len(node[key]) != count:
        raise ValueError(f"{where}.{key} is {brief(node[key])}; must list {count}")
    return node[key]
