"""Configuration: the tree of keys (`default.py`), loaded, checked and frozen."""

from __future__ import annotations

import ast
import difflib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from lib.codec import CODECS
from lib.config.default import _C
from lib.config.files import parse_yaml, read_yaml
from lib.config.joints import check_joints, embed_joints

logger = logging.getLogger(__name__)

PER_STAGE = {
    "LOSS": (
        *("WITH_HEATMAPS_LOSS", "HEATMAPS_LOSS_FACTOR", "WITH_AE_LOSS"),
        *("PUSH_LOSS_FACTOR", "PULL_LOSS_FACTOR"),
    ),
    "TEST": ("WITH_HEATMAPS", "WITH_AE"),
    "DATASET": ("OUTPUT_SIZE",),
}
CHOICES = {
    "MODEL.PRETRAINED_PARTS": ("all", "not_final", "backbone"),
    "MODEL.CODEC": tuple(CODECS),
    "LOSS.AE_LOSS_TYPE": ("exp", "max"),
    "DATASET.DATA_FORMAT": ("jpg", "zip"),
    "DATASET.SCALE_TYPE": ("short", "long"),
    "SUPERNET.SAMPLING": ("uniform", "sandwich"),
    "TEST.SCALE_TYPE": ("short", "long"),
    "DATASET.UNREADABLE": ("raise", "skip"),
    "TRAIN.OPTIMIZER": ("adam", "sgd"),
    "TRAIN.NON_FINITE": ("raise", "skip"),
    "TRAIN.LR_SCHEDULE": ("multistep", "cosine"),
}
AT_LEAST = {
    "TEST.IMAGES_PER_GPU": 1,
    "TRAIN.ACCUMULATE": 1,
    "TRAIN.CLIP_NORM": 0,
    "TRAIN.KEEP": 1,
    "TRAIN.SAVE_STEPS": 0,
}
OPEN = ("MODEL.EXTRA.", "DATASET.KEYPOINTS.")  # nodes that take keys without a default


def load_config(path: str | Path, opts: Sequence[str] = (), img_size: int | None = None) -> CfgNode:
    """Defaults <- experiment yaml <- architecture's img_size <- command line; checked, frozen.

    `opts` alternates keys and values (`["TRAIN.LR", "1e-3"]`). `img_size` (pixels; a
    mobile_configs/*.json has one) sets DATASET.INPUT_SIZE and OUTPUT_SIZE; a key in `opts` wins,
    with a warning when it disagrees. An INPUT_SIZE in `opts` takes OUTPUT_SIZE along. Raises
    ValueError for whatever the user could have meant otherwise, naming the key.
    """
    return _load(read_yaml(Path(path)), str(path), opts, img_size)


def read_config(
    text: str, source: str, opts: Sequence[str] = (), img_size: int | None = None
) -> CfgNode:
    """The same from the yaml that a checkpoint carries; errors call it `source`."""
    return _load(parse_yaml(text, source), source, opts, img_size)


def _load(tree: dict[str, Any], source: str, opts: Sequence[str], img_size: int | None) -> CfgNode:
    cfg = _C.clone()
    _merge(cfg, tree, source)
    if img_size is not None:
        _set_image_size(cfg, img_size)
    given = _pairs(opts)
    _merge(cfg, given, "command line")
    if "DATASET.INPUT_SIZE" in given and "DATASET.OUTPUT_SIZE" not in given:
        _set_image_size(cfg, cfg.DATASET.INPUT_SIZE)
    if img_size is not None and cfg.DATASET.INPUT_SIZE != img_size:
        logger.warning(
            "DATASET.INPUT_SIZE %d of the command line wins over the architecture's img_size %d",
            *(cfg.DATASET.INPUT_SIZE, img_size),
        )
    embed_joints(cfg, {*given, *(name for name, _ in _leaves(tree))})
    check_config(cfg)
    cfg.freeze()
    return cfg


def check_config(cfg: CfgNode) -> None:
    """Raise ValueError for settings that contradict one another, naming key and expectation."""
    stages = cfg.LOSS.NUM_STAGES
    for node, keys in PER_STAGE.items():
        for key in keys:
            if len(cfg[node][key]) != stages:
                raise ValueError(
                    f"{node}.{key} has {len(cfg[node][key])} entries, LOSS.NUM_STAGES is {stages}"
                )
    for key, allowed in CHOICES.items():
        node, name = key.split(".")
        if cfg[node][name] not in allowed:
            raise ValueError(f"{key} is {cfg[node][name]!r}; possible: {', '.join(allowed)}")
    for key, least in AT_LEAST.items():
        node, name = key.split(".")
        if cfg[node][name] < least:
            raise ValueError(f"{key} is {cfg[node][name]}; at least {least}")
    if not 0 <= cfg.TRAIN.EMA < 1:
        raise ValueError(f"TRAIN.EMA is {cfg.TRAIN.EMA}; 0 <= decay < 1")
    if cfg.DIST_TIMEOUT <= 0:
        raise ValueError(f"DIST_TIMEOUT is {cfg.DIST_TIMEOUT}; it must be more than 0 seconds")
    check_joints(cfg)
    _check_sizes(cfg)
    _check_decoding(cfg.TEST)


def _check_sizes(cfg: CfgNode) -> None:
    size = cfg.DATASET.INPUT_SIZE
    if size < 32 or size % 32:
        raise ValueError(f"DATASET.INPUT_SIZE is {size}; it must be a positive multiple of 32")
    maps = _map_sizes(cfg, size)
    if list(cfg.DATASET.OUTPUT_SIZE) != maps:
        raise ValueError(
            f"DATASET.OUTPUT_SIZE is {list(cfg.DATASET.OUTPUT_SIZE)}; "
            f"the maps of DATASET.INPUT_SIZE {size} are {maps}"
        )
    if len(cfg.MODEL.EXTRA.NUM_DECONV_KERNELS) != cfg.MODEL.EXTRA.NUM_DECONV_LAYERS:
        raise ValueError(
            f"MODEL.EXTRA.NUM_DECONV_KERNELS has {len(cfg.MODEL.EXTRA.NUM_DECONV_KERNELS)} "
            f"entries, MODEL.EXTRA.NUM_DECONV_LAYERS is {cfg.MODEL.EXTRA.NUM_DECONV_LAYERS}"
        )
    if not cfg.TEST.SCALE_FACTOR:
        raise ValueError("TEST.SCALE_FACTOR is empty; [1] is the single-scale test")
    if not any(cfg.TEST.WITH_HEATMAPS) or not any(cfg.TEST.WITH_AE):
        raise ValueError("TEST.WITH_HEATMAPS and TEST.WITH_AE must each switch on some stage")
    untagged = [s for s, ae in enumerate(cfg.TEST.WITH_AE) if ae and not cfg.LOSS.WITH_AE_LOSS[s]]
    if untagged:
        raise ValueError(
            f"TEST.WITH_AE asks for tags of stage {untagged[0]}, LOSS.WITH_AE_LOSS gives it none"
        )


def _check_decoding(test: CfgNode) -> None:
    kernel = test.NMS_KERNEL
    if kernel < 1 or kernel % 2 == 0 or test.NMS_PADDING != kernel // 2:
        raise ValueError(
            f"TEST.NMS_KERNEL is {kernel} and TEST.NMS_PADDING {test.NMS_PADDING}; the kernel must "
            f"be odd, the padding half of it, rounded down"
        )
    if test.DETECTION_THRESHOLD < 0:
        raise ValueError(
            f"TEST.DETECTION_THRESHOLD is {test.DETECTION_THRESHOLD}; it must be at least 0"
        )


def _set_image_size(cfg: CfgNode, size: int) -> None:
    cfg.DATASET.INPUT_SIZE = size
    cfg.DATASET.OUTPUT_SIZE = _map_sizes(cfg, size)


def _map_sizes(cfg: CfgNode, size: int) -> list[int]:
    """A quarter of the input for the first output, and twice as large for each further one."""
    return [size // 4 * 2**stage for stage in range(cfg.LOSS.NUM_STAGES)]


def _pairs(opts: Sequence[str]) -> dict[str, Any]:
    """["A.B", "1", ...] -> {"A.B": "1", ...}"""
    if len(opts) % 2:
        raise ValueError(f"command line: {opts[-1]!r} has no value; keys and values alternate")
    return dict(zip(opts[::2], opts[1::2], strict=True))


def _merge(cfg: CfgNode, tree: dict[str, Any], source: str) -> None:
    """Put the leaves of `tree` into `cfg`; unknown keys and wrong types are errors."""
    known = sorted(name for name, _ in _leaves(cfg))
    for name, value in _leaves(tree):
        if name not in known and not name.startswith(OPEN):
            raise ValueError(f"{source}: unknown key {name}{_nearest(name, known)}")
        *parents, leaf = name.split(".")
        node = cfg
        for parent in parents:
            node = node.setdefault(parent, CfgNode(new_allowed=True))
        default, literal = node.get(leaf), _literal(value)
        if isinstance(default, str) and isinstance(value, str):
            node[leaf] = literal if isinstance(literal, str) else value  # "2024" stays text
            continue
        value = literal
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        try:
            node.merge_from_other_cfg(CfgNode({leaf: value}))  # a tuple may be given as a list
        except (ValueError, AssertionError):
            wanted = type(default).__name__
            raise ValueError(
                f"{source}: {name} is {value!r}, but must be of type {wanted}"
            ) from None
        if isinstance(default, (list, tuple)) and default:
            _check_entries(default[0], value, f"{source}: {name}")


def _check_entries(pattern: Any, values: Sequence[Any], where: str) -> None:
    """Entries of a list are of one kind; whole numbers and others are one."""

    def kind(value: Any) -> type:
        return float if type(value) is int else type(value)

    if any(kind(value) is not kind(pattern) for value in values):
        wanted = "numbers" if kind(pattern) is float else f"{kind(pattern).__name__}s"
        raise ValueError(f"{where} is {values!r}, but must hold {wanted}")


def _literal(value: Any) -> Any:
    """Text that spells a Python literal becomes it: yaml 1.1 and the command line give "4e-3"."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
