"""Configuration: the tree of keys (`default.py`), loaded, checked and frozen."""

from __future__ import annotations

import ast
import contextlib
import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from lib.config.checks import check_config, map_sizes
from lib.config.default import _C
from lib.config.joints import embed_joints, embed_mix_joints
from lib.config.ranges import PLAIN, RANGES, Range
from lib.utils.text import brief, brief_name
from lib.utils.yaml_text import parse_yaml, read_yaml

logger = logging.getLogger(__name__)

MAX_LITERAL = 4000  # characters of a list or a number
OPEN = ("MODEL.EXTRA.", "DATASET.KEYPOINTS.")  # nodes that accept keys without a default


def default_config() -> CfgNode:
    """Every key with its default; a copy."""
    return _C.clone()


def is_key(word: str) -> bool:
    """Whether a word of a command line is a config key, such as TEST.FLIP_TEST."""
    return word.split(".")[0] in _C and " " not in word


def load_config(path: str | Path, opts: Sequence[str] = (), img_size: int | None = None) -> CfgNode:
    """Defaults <- experiment yaml <- architecture's img_size <- command line; checked, frozen.

    `opts` alternates keys and values (`["TRAIN.LR", "1e-3"]`). `img_size` (pixels; a
    mobile_configs/*.json has one) sets DATASET.INPUT_SIZE and OUTPUT_SIZE; a key in `opts` wins,
    with a warning when it disagrees. An INPUT_SIZE in `opts` sets OUTPUT_SIZE too. Raises
    ValueError, naming the key, for unknown keys, values out of range and contradictions.
    """
    return _load(read_yaml(Path(path)), str(path), opts, img_size)


def read_config(
    text: str, source: str, opts: Sequence[str] = (), img_size: int | None = None
) -> CfgNode:
    """As `load_config`, from YAML text such as a checkpoint stores; errors name `source`."""
    return _load(parse_yaml(text, source), source, opts, img_size)


def _load(tree: dict[str, Any], source: str, opts: Sequence[str], img_size: int | None) -> CfgNode:
    cfg = _C.clone()
    _merge(cfg, tree, source)
    if img_size is not None:
        _set_image_size(cfg, img_size)
    command_line = _pairs(opts)
    _merge(cfg, command_line, "command line")
    if "DATASET.INPUT_SIZE" in command_line and "DATASET.OUTPUT_SIZE" not in command_line:
        _set_image_size(cfg, cfg.DATASET.INPUT_SIZE)
    if img_size is not None and cfg.DATASET.INPUT_SIZE != img_size:
        logger.warning(
            "DATASET.INPUT_SIZE %d of the command line wins over the architecture's img_size %d",
            cfg.DATASET.INPUT_SIZE,
            img_size,
        )
    embed_joints(cfg, {*command_line, *(name for name, _ in _leaves(tree))})
    embed_mix_joints(cfg)
    check_config(cfg)
    cfg.freeze()
    return cfg


def keys_of(path: str | Path) -> set[str]:
    """The keys that a yaml file sets, {"MODEL.NAME", ...}."""
    return {name for name, _ in _leaves(read_yaml(Path(path)))}


def _set_image_size(cfg: CfgNode, size: int) -> None:
    cfg.DATASET.INPUT_SIZE = size
    cfg.DATASET.OUTPUT_SIZE = map_sizes(size, cfg.LOSS.NUM_STAGES)


def as_opts(settings: Mapping[str, object]) -> list[str]:
    """{"TRAIN.EMA": 0.9, ...} -> ["TRAIN.EMA", "0.9", ...], the `opts` of `load_config`."""
    return [str(part) for pair in settings.items() for part in pair]


def _pairs(opts: Sequence[str]) -> dict[str, Any]:
    """["A.B", "1", ...] -> {"A.B": "1", ...}"""
    if len(opts) % 2:
        raise ValueError(f"command line: {opts[-1]!r} has no value; keys and values alternate")
    return dict(zip(opts[::2], opts[1::2], strict=True))


def _merge(cfg: CfgNode, tree: dict[str, Any], source: str) -> None:
    """Put the leaves of `tree` into `cfg`; unknown keys and values out of range are errors."""
    known = sorted(name for name, _ in _leaves(cfg))
    for name, value in _leaves(tree):
        if name not in known and not name.startswith(OPEN):
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"{source}: unknown key {brief_name(name)}{hint}")
        *parents, leaf = name.split(".")
        node = cfg
        for parent in parents:
            node = node.setdefault(parent, CfgNode(new_allowed=True))
            if not isinstance(node, CfgNode):
                raise ValueError(
                    f"{source}: {brief_name(name)}: {brief_name(parent)} has no keys below it"
                )
        node[leaf] = _converted(value, node.get(leaf), RANGES.get(name, PLAIN), source, name)


def _converted(value: Any, default: Any, wanted: Range, source: str, name: str) -> Any:
    """`value` as the type of `default`; ValueError if it is not `wanted`."""
    literal: Any = _literal(value)
    if isinstance(default, str) and isinstance(value, str) and not isinstance(literal, str):
        literal = value  # "2024" stays text
    if not wanted.accepts(literal):
        raise ValueError(
            f"{source}: {brief_name(name)} is {brief(literal)}; must be {wanted.accepted}"
        )
    if isinstance(default, (float, list, tuple)) and wanted is not PLAIN:
        return type(default)(literal)
    return CfgNode(literal, new_allowed=True) if isinstance(literal, dict) else literal


def _literal(value: Any) -> Any:
    """Parse text that is a Python literal: YAML 1.1 and the command line read 4e-3 as text.

    A list of the command line may also be written as in a yaml file, "[{ROOT: data/coco}]".
    """
    if not isinstance(value, str) or len(value) > MAX_LITERAL:
        return value
    with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        return ast.literal_eval(value)  # MemoryError: 4000 times "-" or "("
    if value.startswith("["):
        with contextlib.suppress(ValueError):
            return parse_yaml(f"value: {value}", "")["value"]
    return value


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ("A.B", value) for each leaf of a nested dict."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
