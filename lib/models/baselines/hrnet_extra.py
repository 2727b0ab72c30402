"""What MODEL.EXTRA says of an HRNet-like network: HigherHRNet's keys, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from yacs.config import CfgNode

from lib.models.arch import ArchSpec
from lib.models.baselines.hrnet import Deconv, Stage
from lib.models.pose_mobilenet import output_channels

STAGES = ("STAGE2", "STAGE3", "STAGE4")  # of two, three and four branches
STAGE_KEYS = ("NUM_MODULES", "NUM_BRANCHES", "NUM_BLOCKS", "NUM_CHANNELS", "BLOCK", "FUSE_METHOD")
DECONV_KEYS = ("NUM_DECONVS", "NUM_CHANNELS", "KERNEL_SIZE", "CAT_OUTPUT", "NUM_BASIC_BLOCKS")
SHARED = (*STAGES, "DECONV", "FINAL_CONV_KERNEL", "PRETRAINED_LAYERS")
OF_LITEPOSE = ("NUM_DECONV_LAYERS", "NUM_DECONV_FILTERS", "NUM_DECONV_KERNELS")  # have defaults


class Settings(NamedTuple):
    """The parts that HigherHRNet and EfficientHRNet have in common."""

    stages: tuple[Stage, Stage, Stage]
    deconv: Deconv
    out_channels: list[int]
    final_kernel: int


def read_extra(cfg: CfgNode, arch: ArchSpec | None, own_keys: Sequence[str]) -> Settings:
    """MODEL.EXTRA, which has `own_keys` beside the shared ones; ValueError names the key."""
    if arch is not None:
        raise ValueError(
            f"MODEL.NAME {cfg.MODEL.NAME} is described by MODEL.EXTRA; leave out --superconfig"
        )
    extra = cfg.MODEL.EXTRA
    known = (*own_keys, *SHARED)
    _check_keys(extra, known, "MODEL.EXTRA", optional=("FINAL_CONV_KERNEL", "PRETRAINED_LAYERS"))
    if extra.get("PRETRAINED_LAYERS", ["*"]) != ["*"]:
        raise ValueError(
            f"MODEL.EXTRA.PRETRAINED_LAYERS is {extra.PRETRAINED_LAYERS}; possible: ['*']; "
            "MODEL.PRETRAINED_PARTS says what starts from PRETRAINED"
        )
    final_kernel = extra.get("FINAL_CONV_KERNEL", 1)
    if final_kernel not in (1, 3):
        raise ValueError(f"MODEL.EXTRA.FINAL_CONV_KERNEL is {final_kernel}; possible: 1, 3")
    stages = tuple(_read_stage(extra[name], name, i + 2) for i, name in enumerate(STAGES))
    deconv = _read_deconv(extra.DECONV)
    outputs = 1 + len(deconv.channels)
    if cfg.LOSS.NUM_STAGES != outputs:
        raise ValueError(
            f"LOSS.NUM_STAGES is {cfg.LOSS.NUM_STAGES}; MODEL.EXTRA.DECONV gives {outputs} outputs"
        )
    maps = output_channels(cfg.MODEL.NUM_JOINTS, cfg.LOSS.WITH_AE_LOSS, cfg.MODEL.TAG_PER_JOINT)
    return Settings(stages, deconv, maps, final_kernel)


def whole_number(value: Any, where: str, least: int) -> int:
    """`value`, or a ValueError that calls it `where`."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{where} is {value!r}; must be a whole number, at least {least}")
    return value


def _read_stage(node: Any, name: str, branches: int) -> Stage:
    where = f"MODEL.EXTRA.{name}"
    _check_keys(node, STAGE_KEYS, where)
    for key, only in (("NUM_BRANCHES", branches), ("BLOCK", "BASIC"), ("FUSE_METHOD", "SUM")):
        if node[key] != only:
            raise ValueError(f"{where}.{key} is {node[key]!r}; possible: {only}")
    return Stage(
        modules=whole_number(node.NUM_MODULES, f"{where}.NUM_MODULES", 1),
        blocks=_list(node, "NUM_BLOCKS", where, branches, 0),
        channels=_list(node, "NUM_CHANNELS", where, branches, 1),
    )


def _read_deconv(node: Any) -> Deconv:
    where = "MODEL.EXTRA.DECONV"
    _check_keys(node, DECONV_KEYS, where)
    count = whole_number(node.NUM_DECONVS, f"{where}.NUM_DECONVS", 1)
    return Deconv(
        channels=_list(node, "NUM_CHANNELS", where, count, 1),
        kernels=_list(node, "KERNEL_SIZE", where, count, 1),
        cat_output=tuple(map(bool, _list(node, "CAT_OUTPUT", where, count, 0))),
        blocks=whole_number(node.NUM_BASIC_BLOCKS, f"{where}.NUM_BASIC_BLOCKS", 0),
    )


def _check_keys(node: Any, known: Sequence[str], where: str, optional: Sequence[str] = ()) -> None:
    keys = list(node) if isinstance(node, CfgNode) else []
    if missing := [key for key in known if key not in (*keys, *optional)]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    if extra := [key for key in keys if key not in (*known, *OF_LITEPOSE)]:
        raise ValueError(f"{where} has unknown {', '.join(extra)}; known: {', '.join(known)}")


def _list(node: CfgNode, key: str, where: str, count: int, least: int) -> tuple[int, ...]:
    values = node[key]
    if not isinstance(values, (list, tuple)) or len(values) != count:
        raise ValueError(f"{where}.{key} is {values!r}; must list {count}")
    return tuple(whole_number(value, f"{where}.{key}", least) for value in values)
