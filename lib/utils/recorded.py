"""The settings that a checkpoint or a sub-network records, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from yacs.config import CfgNode

from lib.keypoints import KeypointSpec, keypoints_of
from lib.utils.yaml_text import parse_yaml

T = TypeVar("T")
OLD = {"MODEL.CODEC": "reference", "MODEL.AE_TAG_DIMS": 1}  # of files that lack these keys


def config_of(saved: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """The settings stored in a checkpoint or sub-network, as plain values; {} if there are none.

    ValueError names `source` if they are not the YAML text of a config.
    """
    text = typed(provenance_of(saved, source) or saved, "config", str, source)
    if not text:
        return {}
    config = parse_yaml(text, f"the config in {source}")
    for node in ("DATASET", "MODEL", "LOSS", "TRAIN"):
        if not isinstance(config.get(node, {}), Mapping):
            raise ValueError(f"the config in {source}: {node} holds no keys")
    return config


def provenance_of(saved: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Where the sub-network in `source` comes from; {} if it is none."""
    return typed(saved, "provenance", dict, source) or {}


def typed(tree: Mapping[str, Any], key: str, kind: type[T], source: str | Path) -> T | None:
    """`tree[key]`; None if it is missing. ValueError names `source` if it is of another type."""
    value = tree.get(key)
    if value is not None and type(value) is not kind:
        one, other = (f"a{'n' * (k is int)} {k.__name__}" for k in (type(value), kind))
        raise ValueError(f"{key} in {source} is {one}, not {other}")
    return value


def check_same_joints(
    config: Mapping[str, Any], source: str | Path, cfg: CfgNode, is_train: bool
) -> None:
    """ValueError if the network in `source` predicts other joints than those of `cfg`.

    config: the settings it was saved with; {} if they are unknown, which passes the check.
    """
    if "DATASET" not in config:
        return
    spec, saved_spec = keypoints_of(cfg, is_train), recorded_joints(config, source)
    if saved_spec.joints != spec.joints:
        theirs = f"the {saved_spec.num_joints} joints of {saved_spec.name}"
        raise ValueError(other_joints(source, theirs, spec, is_train))


def other_joints(source: str | Path, theirs: str, spec: KeypointSpec, is_train: bool) -> str:
    """The message for a network of the joints `theirs`, where those of `spec` are wanted."""
    remedy = (
        "to fine-tune it for these, set MODEL.PRETRAINED_PARTS not_final"
        if is_train
        else "valid.py --joints shared scores it over the joints that both have"
    )
    return f"{source} predicts {theirs}, not the {spec.num_joints} of {spec.name}; {remedy}"


def recorded_joints(
    config: Mapping[str, Any], source: str | Path, is_train: bool = False
) -> KeypointSpec:
    """The joints of the settings that `config_of` read from `source`."""
    try:
        return keypoints_of(CfgNode(dict(config)), is_train)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"the config in {source} names no joints: {reason}") from None
