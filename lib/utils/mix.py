"""DATASET.MIX: the data sets that one training mixes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from yacs.config import CfgNode

from lib.keypoints import KEYPOINTS, KeypointSpec, keypoints_of
from lib.utils.text import brief

KEYS = ("ROOT", "DATASET", "TRAIN", "WEIGHT", "KEYPOINTS")
MAX_WEIGHT = 1000


class MixEntry(NamedTuple):
    """One data set of a mix."""

    place: str  # "DATASET.MIX[0]", for messages
    root: str
    spec: KeypointSpec  # the joints of its annotations
    split: str
    weight: float  # passes over its images in an epoch


def mix_of(cfg: CfgNode) -> list[MixEntry]:
    """The entries of DATASET.MIX; ValueError names the entry, its key and what is accepted."""
    entries = [_entry(cfg, number, dict(tree)) for number, tree in enumerate(cfg.DATASET.MIX)]
    if entries and cfg.DATASET.CACHE:
        raise ValueError("DATASET.CACHE holds one data set; it cannot be used with DATASET.MIX")
    target = keypoints_of(cfg, is_train=True)
    for entry in entries:
        absent = [name for name in target.joints if name not in entry.spec.joints]
        if len(absent) == target.num_joints:
            raise ValueError(
                f"{entry.place}: {entry.spec.name} and DATASET.DATASET {target.name} share no joint"
            )
        if absent and cfg.DATASET.WITH_CENTER:
            raise ValueError(
                f"{entry.place}: {entry.spec.name} lacks {', '.join(absent)}, without which the "
                f"center is another one; set DATASET.WITH_CENTER False"
            )
    return entries


def _entry(cfg: CfgNode, number: int, tree: Mapping[str, Any]) -> MixEntry:
    place = f"DATASET.MIX[{number}]"
    for key in tree:
        if key not in KEYS:
            raise ValueError(f"{place}: unknown key {brief(key)}; possible: {', '.join(KEYS[:4])}")
    if "ROOT" not in tree:
        raise ValueError(f"{place} lacks the key ROOT, the folder of a data set")
    texts = {
        "ROOT": tree["ROOT"],
        "DATASET": tree.get("DATASET", cfg.DATASET.DATASET),
        "TRAIN": tree.get("TRAIN", cfg.DATASET.TRAIN),
    }
    for key, value in texts.items():
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ValueError(f"{place}: {key} is {brief(value)}; must be a name")
    weight = tree.get("WEIGHT", 1)
    is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not is_number or not 0 < weight <= MAX_WEIGHT:
        raise ValueError(
            f"{place}: WEIGHT is {brief(weight)}; must be a number above 0, at most {MAX_WEIGHT}"
        )
    spec = _spec(cfg, place, texts["DATASET"], tree.get("KEYPOINTS"))
    return MixEntry(place, texts["ROOT"], spec, texts["TRAIN"], float(weight))


def _spec(cfg: CfgNode, place: str, name: str, custom: Any) -> KeypointSpec:
    """The joints of a known data set, of the entry's joints file, or of DATASET.DATASET."""
    if name in KEYPOINTS:
        return KEYPOINTS[name]
    if isinstance(custom, Mapping) and custom.get("name") == name:
        return KeypointSpec.from_dict(custom, f"{place}.KEYPOINTS")
    if name == cfg.DATASET.DATASET:
        return keypoints_of(cfg, is_train=True)
    raise ValueError(
        f"{place}: DATASET is {brief(name)}; possible: {', '.join(KEYPOINTS)}, or a joints file, "
        f"*.yaml"
    )
