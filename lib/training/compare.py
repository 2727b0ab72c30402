"""Compares the settings of a checkpoint with those of the run that resumes it.

A run may change how it trains: learning rate, epochs, batches, augmentation, losses' weights,
files. It may not change what the network's outputs mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from lib.keypoints import KeypointSpec, keypoints_of
from lib.utils.recorded import OLD, recorded_joints
from lib.utils.text import brief

# The meaning of the outputs; a key that ends with a dot is a node.
MEANING = (
    "MODEL.NAME",
    "DATASET.WITH_CENTER",
    "MODEL.NUM_JOINTS",
    "MODEL.TAG_PER_JOINT",
    "MODEL.AE_TAG_DIMS",
    "MODEL.CODEC",
    "MODEL.FUSION_HEAD",
    "MODEL.KERNEL_BRANCHES",
    "MODEL.ELASTIC_KERNEL",
    "MODEL.EXTRA.",
    "LOSS.NUM_STAGES",
    "LOSS.WITH_AE_LOSS",
)
ORDER = ("SEED", "TRAIN.SHUFFLE", "DATASET.MIX")  # of the images within an epoch
SCORE = ("DATASET.TEST", "DATASET.INPUT_SIZE", "TEST.")  # what the best AP was measured with
NEUTRAL = ("TEST.MODEL_FILE", "TEST.IMAGES_PER_GPU", "TEST.LOG_PROGRESS")
REMEDY = "choose another OUTPUT_DIR, or set AUTO_RESUME False to start over"


def check_same_meaning(
    recorded: Mapping[str, Any], current: Mapping[str, Any], source: str | Path
) -> None:
    """ValueError if outputs mean something else with the `current` settings than as `recorded`."""
    if "DATASET" in recorded:
        old = recorded_joints(recorded, source, is_train=True)
        new = keypoints_of(CfgNode(dict(current)), is_train=True)
        if problem := _difference_of(old, new):
            raise ValueError(
                f"{source} was trained with the {old.num_joints} joints of {old.name}, the config "
                f"has the {new.num_joints} of {new.name}: {problem}; keep DATASET.DATASET and its "
                f"joints file, {REMEDY}"
            )
    check_same(MEANING, recorded, current, source)


def _difference_of(old: KeypointSpec, new: KeypointSpec) -> str:
    """The first joint, or its counterpart in a flipped image, that differs; "" if all are equal."""
    for k, (one, other) in enumerate(itertools.zip_longest(old.joints, new.joints)):
        if one != other:
            return f"joint {k} was {one}, now it is {other}"
    for k, (one, other) in enumerate(zip(old.flip_index, new.flip_index, strict=True)):
        if one != other:
            return f"{old.joints[k]} was flipped to {old.joints[one]}, now to {old.joints[other]}"
    return ""


def check_same(
    keys: Sequence[str],
    recorded: Mapping[str, Any],
    current: Mapping[str, Any],
    source: str | Path,
    where: str = "",
) -> None:
    """ValueError if one of `keys` differs: it names the key and both values."""
    for key, old, new in differences(keys, recorded, current):
        raise ValueError(
            f"{source} was trained with {key} {brief(old)}, the config has {brief(new)}; "
            f"keep {key}{where}, {REMEDY}"
        )


def differences(
    keys: Sequence[str], recorded: Mapping[str, Any], current: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Key and both values where `keys` differ. A key that one side lacks does not."""
    ours = dict(_leaves(current))
    theirs = {**OLD, **dict(_leaves(recorded))}
    nodes = tuple(key for key in keys if key.endswith("."))
    for key, new in ours.items():
        if (key in keys or key.startswith(nodes)) and key not in NEUTRAL and key in theirs:
            if theirs[key] != new:
                yield key, theirs[key], new


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
