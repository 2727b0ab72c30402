"""Custom keypoints: reads the user's joints file and embeds it in the config."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from yacs.config import CfgNode

from lib.keypoints import KeypointSpec
from lib.utils.yaml_text import read_yaml


def embed_joints(cfg: CfgNode, keys: Collection[str]) -> None:
    """Copy the content of a joints file into `cfg`, in place, so that the file is no longer needed.

    DATASET.DATASET (DATASET_TEST) becomes the name in the file, DATASET.KEYPOINTS its content.
    DATASET_TEST and both NUM_JOINTS are derived, unless they are among `keys`, set by the user.
    """
    data = cfg.DATASET
    if is_file(data.DATASET) and "DATASET.DATASET_TEST" not in keys:
        data.DATASET_TEST = data.DATASET
    named = [key for key in ("DATASET", "DATASET_TEST") if is_file(data[key])]
    specs = [read_joints(data[key], f"DATASET.{key}") for key in named]
    if len(set(specs)) > 1:
        raise ValueError(
            f"DATASET.DATASET {data.DATASET} and DATASET.DATASET_TEST {data.DATASET_TEST} are "
            f"different joints; use the same file for both"
        )
    for key, spec in zip(named, specs, strict=True):
        data[key] = spec.name
        data.KEYPOINTS = CfgNode(spec.to_dict(), new_allowed=True)
        for node in ("DATASET", "MODEL"):
            if f"{node}.NUM_JOINTS" not in keys:
                cfg[node].NUM_JOINTS = spec.num_joints + data.WITH_CENTER


def embed_mix_joints(cfg: CfgNode) -> None:
    """Copy the content of joints files that DATASET.MIX names into its entries, in place."""
    entries = []
    for number, tree in enumerate(cfg.DATASET.MIX):
        entry = dict(tree)
        name = entry.get("DATASET")
        if isinstance(name, str) and is_file(name):
            spec = read_joints(name, f"DATASET.MIX[{number}]")
            entry |= {"DATASET": spec.name, "KEYPOINTS": spec.to_dict()}
        entries.append(entry)
    cfg.DATASET.MIX = entries


def is_file(data_set: str) -> bool:
    """Whether DATASET.DATASET names a joints file instead of a known data set."""
    return data_set.endswith((".yaml", ".yml"))


def read_joints(path: str, key: str) -> KeypointSpec:
    """Custom keypoints from the joints file that `key` names."""
    return KeypointSpec.from_dict(read_yaml(Path(path), f"joints of {key},"), path)
