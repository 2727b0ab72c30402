"""What a person is made of, once per data set; everything else is derived from it.

Letters used throughout: B batch, P person slots, K joints, S output stages, H W map,
L tag dimensions, M candidates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yacs.config import CfgNode


@dataclass(frozen=True)
class KeypointSpec:
    """The joints of one data set, in annotation order.

    `limbs` are pairs of joint names, `flips` those that change places in a mirror; `sigmas` the
    per-joint OKS constants; `order` that in which joints found people or join them in grouping.
    """

    name: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...]
    sigmas: tuple[float, ...]
    flips: tuple[tuple[str, str], ...]
    order: tuple[str, ...]

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @property
    def is_custom(self) -> bool:
        """Described by a file of the user's, not by this one."""
        return self.name not in KEYPOINTS

    @property
    def flip_index(self) -> list[int]:
        """Index of each joint's mirror image: `joints[:, flip_index]` swaps left and right."""
        mirror = dict(self.flips) | {b: a for a, b in self.flips}
        return [self.joints.index(mirror.get(name, name)) for name in self.joints]

    @property
    def limb_index(self) -> list[tuple[int, int]]:
        """Limbs as pairs of joint indices."""
        return [(self.joints.index(a), self.joints.index(b)) for a, b in self.limbs]

    @property
    def order_index(self) -> tuple[int, ...]:
        """`order` as joint indices."""
        return tuple(self.joints.index(name) for name in self.order)

    def with_center(self) -> KeypointSpec:
        """The same person with one more joint, the mean of the labelled ones (last).

        The center is trained and grouped, as the first, never scored: its sigma is a placeholder.
        """
        return KeypointSpec(
            *(self.name, (*self.joints, "center"), self.limbs, (*self.sigmas, max(self.sigmas))),
            *(self.flips, ("center", *self.order)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, from which `from_dict` makes an equal one."""
        return {
            "name": self.name,
            "joints": list(self.joints),
            "limbs": [list(limb) for limb in self.limbs],
            "sigmas": list(self.sigmas),
            "flips": [list(pair) for pair in self.flips],
            "order": list(self.order),
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any], source: str) -> KeypointSpec:
        """What a file of joints says (docs/custom_data.md), checked.

        ValueError names `source`, the key, and what is wrong with it.
        """
        for key in tree:
            if key not in KEYS:
                raise ValueError(f"{source}: unknown key {key}; possible: {', '.join(KEYS)}")
        for key in ("name", "joints", "sigmas"):
            if key not in tree:
                raise ValueError(f"{source} lacks the key {key}")
        if not (isinstance(tree["name"], str) and re.fullmatch("[a-z][a-z0-9_-]*", tree["name"])):
            raise ValueError(
                f"{source}: name is {tree['name']!r}; wanted small letters, digits, _ and -"
            )
        joints = _names(tree["joints"], f"{source}: joints")
        if len(joints) < 2:
            raise ValueError(f"{source}: joints names {len(joints)}; wanted 2 or more")
        order = _names(tree.get("order", joints), f"{source}: order")
        if sorted(order) != sorted(joints):
            raise ValueError(f"{source}: order is {list(order)}; wanted each of joints once")
        if "flips" in tree:
            flips = _joint_pairs(tree["flips"], joints, f"{source}: flips")
            _check_distinct([name for pair in flips for name in pair], f"{source}: flips")
        else:
            flips = _flips_by_name(joints, source)
        return cls(
            name=tree["name"],
            joints=joints,
            limbs=_joint_pairs(tree.get("limbs", []), joints, f"{source}: limbs"),
            sigmas=_sigmas(tree["sigmas"], joints, f"{source}: sigmas"),
            flips=flips,
            order=order,
        )


def mirrored(joint: str) -> str:
    """`left_knee` -> `right_knee` and back; joints on the axis of the body map to themselves."""
    if joint.startswith("left_"):
        return "right_" + joint.removeprefix("left_")
    if joint.startswith("right_"):
        return "left_" + joint.removeprefix("right_")
    return joint


def left_and_right(joints: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The pairs that their names tell."""
    return tuple((name, mirrored(name)) for name in joints if name.startswith("left_"))


def keypoints_of(cfg: CfgNode, is_train: bool) -> KeypointSpec:
    """The joints of DATASET.DATASET or, in evaluation, of DATASET.DATASET_TEST."""
    key = "DATASET" if is_train else "DATASET_TEST"
    name, own = cfg.DATASET[key], cfg.DATASET.get("KEYPOINTS") or {}
    if name in KEYPOINTS:
        return KEYPOINTS[name]
    if own.get("name") != name:
        raise ValueError(
            f"DATASET.{key} is {name!r}; possible: {', '.join(KEYPOINTS)}, or a file of joints, "
            f"*.yaml"
        )
    return KeypointSpec.from_dict(own, "DATASET.KEYPOINTS")


# --- what a file of joints may say ------------------------------------------------------

KEYS = ("name", "joints", "flips", "limbs", "sigmas", "order")


def _names(given: Any, where: str) -> tuple[str, ...]:
    if not isinstance(given, (list, tuple)):
        raise ValueError(f"{where} is {given!r}; wanted a list of names")
    for name in given:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{where} has {name!r}; wanted names, in quotes where yaml wants them")
    _check_distinct(given, where)
    return tuple(given)


def _check_distinct(names: Sequence[str], where: str) -> None:
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ValueError(f"{where} has {name} twice")


def _joint_pairs(given: Any, joints: Sequence[str], where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(given, (list, tuple)):
        raise ValueError(f"{where} is {given!r}; wanted a list of pairs of joints")
    for pair in given:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError(f"{where} has {pair!r}; wanted pairs of joints")
        for name in pair:
            if name not in joints:
                raise ValueError(f"{where} has {name!r}, which is none of joints")
        if pair[0] == pair[1]:
            raise ValueError(f"{where} has {pair[0]} with itself")
    return tuple((a, b) for a, b in given)


def _flips_by_name(joints: Sequence[str], source: str) -> tuple[tuple[str, str], ...]:
    for name in joints:
        if mirrored(name) not in joints:
            raise ValueError(
                f"{source}: joints has {name} without {mirrored(name)}; give flips, which name "
                f"the pairs that change places in a mirror"
            )
    return left_and_right(joints)


def _sigmas(given: Any, joints: Sequence[str], where: str) -> tuple[float, ...]:
    """From a list, a mapping of names, or one number for all."""
    if isinstance(given, Mapping):
        for name in [*given, *joints]:
            if name not in joints or name not in given:
                raise ValueError(f"{where} and joints do not have the same names: {name}")
        given = [given[name] for name in joints]
    elif not isinstance(given, (list, tuple)):
        given = [given] * len(joints)
    if len(given) != len(joints):
        raise ValueError(f"{where} has {len(given)} entries, joints has {len(joints)}")
    for value in given:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 < value < math.inf:
            raise ValueError(f"{where} has {value!r}; wanted numbers above 0")
    return tuple(float(value) for value in given)


# --- the data sets that are known -------------------------------------------------------

# The order of grouping: face, shoulders, hips, then limbs (COCO's indices; cut to K joints for
# CrowdPose, as the original does).
_VISITING_ORDER = (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)
_ARMS_AND_LEGS = tuple(
    (f"{side}_{a}", f"{side}_{b}")
    for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
    for side in ("left", "right")
)
_TRUNK = (
    ("left_shoulder", "right_shoulder"),
    ("left_hip", "right_hip"),
    ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"),
)


def _person(
    name: str,
    joints: tuple[str, ...],
    limbs: tuple[tuple[str, str], ...],
    sigmas: tuple[float, ...],
) -> KeypointSpec:
    order = tuple(joints[j] for j in _VISITING_ORDER if j < len(joints))
    return KeypointSpec(name, joints, limbs, sigmas, left_and_right(joints), order)


COCO = _person(
    "coco",
    joints=(
        "nose",
        *("left_eye", "right_eye", "left_ear", "right_ear"),
        *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
        *("left_wrist", "right_wrist", "left_hip", "right_hip"),
        *("left_knee", "right_knee", "left_ankle", "right_ankle"),
    ),
    limbs=_ARMS_AND_LEGS
    + _TRUNK
    + (
        ("nose", "left_eye"),
        ("nose", "right_eye"),
        ("left_eye", "left_ear"),
        ("right_eye", "right_ear"),
        ("left_ear", "left_shoulder"),
        ("right_ear", "right_shoulder"),
    ),
    sigmas=(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072)
    + (0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)

CROWD_POSE = _person(
    "crowd_pose",
    joints=(
        *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
        *("left_wrist", "right_wrist", "left_hip", "right_hip"),
        *("left_knee", "right_knee", "left_ankle", "right_ankle"),
        *("head", "neck"),
    ),
    limbs=_ARMS_AND_LEGS
    + _TRUNK
    + (("head", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder")),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107)
    + (0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
)

# DATASET.DATASET / DATASET.DATASET_TEST of a config -> the joints it has, unless a file says them.
KEYPOINTS = {
    "coco": COCO,
    "coco_kpt": COCO,
    "crowd_pose": CROWD_POSE,
    "crowd_pose_kpt": CROWD_POSE,
}
