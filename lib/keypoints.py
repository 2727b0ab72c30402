"""Joint sets: the joints of a person in each data set, and the metric of the data set.

To add a data set with its own file layout and metric, edit three files:

1. here: a `KeypointSpec` with its `Metric`, listed in `KEYPOINTS`;
2. lib/dataset/reader.py: where its images and annotations are, in `Layout.of`;
3. lib/core/evaluate.py: the evaluator of the metric, in `EVALUATORS`.

Custom keypoints need no change of code, only a joints file (docs/custom_data.md).

Letters in shapes: B batch, P person slots, K joints, S output stages, H W map,
L tag dimensions, M candidates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from yacs.config import CfgNode

from lib.sides import flips_from_names, left_and_right


@dataclass(frozen=True)
class Metric:
    """The evaluator of a data set, and the columns of its AP table."""

    name: str  # a key of lib/core/evaluate.py's EVALUATORS
    columns: tuple[str, ...]  # of the AP table, in the evaluator's order and HigherHRNet's names
    by_crowding: bool = False  # whether images have a crowdIndex, and AP is split by it


COCO_METRIC = Metric(
    "coco",
    ("AP", "Ap .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)"),
)
CROWDING_COLUMNS = ("AP (easy)", "AP (medium)", "AP (hard)")
CROWD_POSE_METRIC = Metric(
    "crowd_pose",
    ("AP", "Ap .5", "AP .75", "AR", "AR .5", "AR .75", *CROWDING_COLUMNS),
    by_crowding=True,
)


@dataclass(frozen=True)
class KeypointSpec:
    """The joints of one data set in annotation order, and its properties."""

    name: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...]  # pairs of joint names
    sigmas: tuple[float, ...]  # OKS constant of each joint
    flips: tuple[tuple[str, str], ...]  # pairs that change places when an image is flipped
    order: tuple[str, ...]  # the order in which grouping visits joints
    layout: str = "custom"  # of files; one that `Layout.of` in lib/dataset/reader.py knows
    category: str = "person"  # name of the annotated category
    metric: Metric = COCO_METRIC
    use_area: bool = True  # False: OKS uses .53 of the box instead of the area
    uncounted: tuple[str, ...] = ()  # joints that num_keypoints does not count

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @property
    def is_custom(self) -> bool:
        """Whether the joints come from a joints file; its annotations may be incomplete."""
        return self.layout == "custom"

    @property
    def flip_index(self) -> list[int]:
        """Index of each joint's counterpart: `joints[:, flip_index]` swaps left and right."""
        other = dict(self.flips) | {b: a for a, b in self.flips}
        return [self.joints.index(other.get(name, name)) for name in self.joints]

    @property
    def limb_index(self) -> list[tuple[int, int]]:
        """Limbs as pairs of joint indices."""
        return [(self.joints.index(a), self.joints.index(b)) for a, b in self.limbs]

    @property
    def order_index(self) -> tuple[int, ...]:
        """`order` as joint indices."""
        return tuple(self.joints.index(name) for name in self.order)

    def with_center(self) -> KeypointSpec:
        """The spec with a last joint "center", the mean of the labelled joints.

        The center is trained and grouped (first), but never scored: its sigma is a placeholder.
        """
        return replace(
            self,
            joints=(*self.joints, "center"),
            sigmas=(*self.sigmas, max(self.sigmas)),
            order=("center", *self.order),
        )

    def limited_to(self, names: Sequence[str]) -> KeypointSpec:
        """The spec with the joints `names` alone, in its order, and the same files and metric."""
        kept = [place for place, joint in enumerate(self.joints) if joint in names]
        return replace(
            self,
            joints=tuple(self.joints[place] for place in kept),
            sigmas=tuple(self.sigmas[place] for place in kept),
            limbs=tuple((a, b) for a, b in self.limbs if a in names and b in names),
            flips=tuple((a, b) for a, b in self.flips if a in names and b in names),
            order=tuple(joint for joint in self.order if joint in names),
            uncounted=tuple(joint for joint in self.uncounted if joint in names),
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of a joints file; `from_dict` restores an equal spec."""
        lists = {key: list(getattr(self, key)) for key in ("joints", "sigmas", "order")}
        pairs = {key: [list(pair) for pair in getattr(self, key)] for key in ("limbs", "flips")}
        return {"name": self.name, **lists, **pairs}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any], source: str) -> KeypointSpec:
        """Custom keypoints from the content of a joints file (docs/custom_data.md).

        ValueError if it is malformed; the message names `source` and the key.
        """
        for key in tree:
            if key not in KEYS:
                raise ValueError(f"{source}: unknown key {key}; possible: {', '.join(KEYS)}")
        for key in ("name", "joints", "sigmas"):
            if key not in tree:
                raise ValueError(f"{source} lacks the key {key}")
        name = tree["name"]
        if not (isinstance(name, str) and re.fullmatch("[a-z][a-z0-9_-]*", name)):
            raise ValueError(f"{source}: name is {name!r}; wanted small letters, digits, _ and -")
        if name in KEYPOINTS:
            raise ValueError(f"{source}: name is {name!r}, a known data set; use another name")
        joints = _names(tree["joints"], f"{source}: joints")
        if not joints:
            raise ValueError(f"{source}: joints is []; wanted names")
        order = _names(tree.get("order", joints), f"{source}: order")
        if sorted(order) != sorted(joints):
            raise ValueError(f"{source}: order is {list(order)}; wanted each of joints once")
        if "flips" in tree:
            flips = _pairs(tree["flips"], joints, f"{source}: flips")
            _names([joint for pair in flips for joint in pair], f"{source}: flips")
        else:
            flips = flips_from_names(joints, f"{source}: joints")
        return cls(
            name=name,
            joints=joints,
            limbs=_pairs(tree.get("limbs", []), joints, f"{source}: limbs"),
            sigmas=_sigmas(tree["sigmas"], joints, f"{source}: sigmas"),
            flips=flips,
            order=order,
            category=name,
        )


def keypoints_of(cfg: CfgNode, is_train: bool) -> KeypointSpec:
    """The joints of DATASET.DATASET or, in evaluation, of DATASET.DATASET_TEST."""
    key = "DATASET" if is_train else "DATASET_TEST"
    name, custom = cfg.DATASET[key], cfg.DATASET.get("KEYPOINTS") or {}
    if name in KEYPOINTS:
        return KEYPOINTS[name]
    if custom.get("name") != name:
        raise ValueError(
            f"DATASET.{key} is {name!r}; possible: {', '.join(KEYPOINTS)}, or a joints file, *.yaml"
        )
    return KeypointSpec.from_dict(custom, "DATASET.KEYPOINTS")


# --- checks of a joints file ------------------------------------------------------------

KEYS = ("name", "joints", "flips", "limbs", "sigmas", "order")


def _names(value: Any, where: str) -> tuple[str, ...]:
    """`value` as distinct joint names; errors start with `where`."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where} is {value!r}; wanted a list of names")
    for place, name in enumerate(value):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{where} has {name!r}; wanted names (YAML may need quotes)")
        if name in value[:place]:
            raise ValueError(f"{where} has {name} twice")
    return tuple(value)


def _pairs(value: Any, joints: Sequence[str], where: str) -> tuple[tuple[str, str], ...]:
    """`value` as pairs of joint names; errors start with `where`."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where} is {value!r}; wanted a list of pairs of joints")
    for pair in value:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError(f"{where} has {pair!r}; wanted pairs of joints")
        for name in pair:
            if name not in joints:
                raise ValueError(f"{where} has {name!r}, which is none of joints")
        if pair[0] == pair[1]:
            raise ValueError(f"{where} has {pair[0]} with itself")
    return tuple((a, b) for a, b in value)


def _sigmas(value: Any, joints: Sequence[str], where: str) -> tuple[float, ...]:
    """Sigmas from a list, a mapping by joint name, or one number for all joints."""
    if isinstance(value, Mapping):
        for name in [*value, *joints]:
            if name not in joints or name not in value:
                raise ValueError(f"{where} and joints do not have the same names: {name}")
        value = [value[name] for name in joints]
    elif not isinstance(value, (list, tuple)):
        value = [value] * len(joints)
    if len(value) != len(joints):
        raise ValueError(f"{where} has {len(value)} entries, joints has {len(joints)}")
    for number in value:
        is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
        if not is_number or not 0 < number < math.inf:
            raise ValueError(f"{where} has {number!r}; wanted numbers above 0")
    return tuple(float(number) for number in value)


# --- the known data sets ----------------------------------------------------------------

_SIDES = ("left", "right")
_BODY = tuple(
    f"{side}_{name}"
    for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    for side in _SIDES
)
_LIMBS = (
    *(
        (f"{side}_{a}", f"{side}_{b}")
        for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
        for side in _SIDES
    ),
    ("left_shoulder", "right_shoulder"),
    ("left_hip", "right_hip"),
    ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"),
)
# Grouping visits face, shoulders, hips, then limbs. These are COCO's indices; as in the original,
# CrowdPose uses those below its K.
_ORDER = (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)

_COCO_JOINTS = ("nose", "left_eye", "right_eye", "left_ear", "right_ear", *_BODY)
COCO = KeypointSpec(
    name="coco",
    joints=_COCO_JOINTS,
    limbs=(
        *_LIMBS,
        ("nose", "left_eye"),
        ("nose", "right_eye"),
        ("left_eye", "left_ear"),
        ("right_eye", "right_ear"),
        ("left_ear", "left_shoulder"),
        ("right_ear", "right_shoulder"),
    ),
    sigmas=(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072)
    + (0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    flips=left_and_right(_COCO_JOINTS),
    order=tuple(_COCO_JOINTS[j] for j in _ORDER),
    layout="coco",
)

_CROWD_POSE_JOINTS = (*_BODY, "head", "neck")
CROWD_POSE = KeypointSpec(
    name="crowd_pose",
    joints=_CROWD_POSE_JOINTS,
    limbs=(*_LIMBS, ("head", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder")),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107)
    + (0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
    flips=left_and_right(_CROWD_POSE_JOINTS),
    order=tuple(_CROWD_POSE_JOINTS[j] for j in _ORDER if j < 14),
    layout="crowd_pose",
    metric=CROWD_POSE_METRIC,
    use_area=False,
    uncounted=("head", "neck"),
)

# DATASET.DATASET / DATASET.DATASET_TEST of a config -> its joints, unless it names a joints file.
KEYPOINTS = {
    "coco": COCO,
    "coco_kpt": COCO,
    "crowd_pose": CROWD_POSE,
    "crowd_pose_kpt": CROWD_POSE,
}
