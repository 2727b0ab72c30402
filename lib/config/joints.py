"""Joints that a file of the user's describes: read, put into the config, checked."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from yacs.config import CfgNode

from lib.config.files import read_yaml
from lib.keypoints import KeypointSpec, keypoints_of


def embed_joints(cfg: CfgNode, given: Collection[str]) -> None:
    """Put what files of joints say into `cfg`, so that it needs them no more; in place.

    DATASET.DATASET (DATASET_TEST) becomes the name in the file, DATASET.KEYPOINTS its content.
    What is not among the `given` keys follows: DATASET_TEST, and both NUM_JOINTS.
    """
    data = cfg.DATASET
    if is_file(data.DATASET) and "DATASET.DATASET_TEST" not in given:
        data.DATASET_TEST = data.DATASET
    keys = [key for key in ("DATASET", "DATASET_TEST") if is_file(data[key])]
    specs = [read_joints(data[key], f"DATASET.{key}") for key in keys]
    if len(set(specs)) > 1:
        raise ValueError(
            f"DATASET.DATASET {data.DATASET} and DATASET.DATASET_TEST {data.DATASET_TEST} are "
            f"different joints; name one file"
        )
    for key, spec in zip(keys, specs, strict=True):
        data[key] = spec.name
        data.KEYPOINTS = CfgNode(spec.to_dict(), new_allowed=True)
        for node in ("DATASET", "MODEL"):
            if f"{node}.NUM_JOINTS" not in given:
                cfg[node].NUM_JOINTS = spec.num_joints + data.WITH_CENTER


def check_joints(cfg: CfgNode) -> None:
    """ValueError where data sets and numbers of joints do not fit one another."""
    data = cfg.DATASET
    specs = {key: keypoints_of(cfg, key == "DATASET") for key in ("DATASET", "DATASET_TEST")}
    for key, spec in specs.items():
        expected = spec.num_joints + data.WITH_CENTER
        if data.NUM_JOINTS != expected:
            center = " plus the center" if data.WITH_CENTER else ""
            raise ValueError(
                f"DATASET.NUM_JOINTS is {data.NUM_JOINTS}, but "
                f"DATASET.{key} {data[key]!r} has {spec.num_joints} joints{center}"
            )
        if data.WITH_CENTER and "center" in spec.joints:
            raise ValueError(f"DATASET.WITH_CENTER: a joint of {data[key]!r} is called center, too")
    if specs["DATASET"].joints != specs["DATASET_TEST"].joints:
        raise ValueError(
            f"DATASET.DATASET {data.DATASET!r} and DATASET.DATASET_TEST {data.DATASET_TEST!r} "
            f"have different joints"
        )
    if cfg.MODEL.NUM_JOINTS != data.NUM_JOINTS:
        raise ValueError(
            f"MODEL.NUM_JOINTS is {cfg.MODEL.NUM_JOINTS}, "
            f"DATASET.NUM_JOINTS is {data.NUM_JOINTS}; they must be equal"
        )


def is_file(data_set: str) -> bool:
    return data_set.endswith((".yaml", ".yml"))


def read_joints(path: str, key: str) -> KeypointSpec:
    """Custom keypoints from the joints file that `key` names."""
    return KeypointSpec.from_dict(read_yaml(Path(path), f"joints of {key},"), path)
