"""What a person is made of, once per data set; everything else is derived from it.

Letters used throughout: B batch, P person slots, K joints, S output stages, H W map,
L tag dimensions, M candidates.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KeypointSpec:
    """The joints of one data set, in annotation order.

    `limbs` are pairs of joint names; `sigmas` the per-joint OKS constants.
    """

    name: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...]
    sigmas: tuple[float, ...]

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @property
    def flip_index(self) -> list[int]:
        """Index of each joint's mirror image: `joints[:, flip_index]` swaps left and right."""
        return [self.joints.index(mirrored(name)) for name in self.joints]

    @property
    def limb_index(self) -> list[tuple[int, int]]:
        """Limbs as pairs of joint indices."""
        return [(self.joints.index(a), self.joints.index(b)) for a, b in self.limbs]

    def with_center(self) -> KeypointSpec:
        """The same person with one more joint, the mean of the labelled ones (last).

        The center is trained and grouped, never scored: its sigma is a placeholder.
        """
        return KeypointSpec(
            self.name, (*self.joints, "center"), self.limbs, (*self.sigmas, max(self.sigmas))
        )


def mirrored(joint: str) -> str:
    """`left_knee` -> `right_knee` and back; joints on the axis of the body map to themselves."""
    if joint.startswith("left_"):
        return "right_" + joint.removeprefix("left_")
    if joint.startswith("right_"):
        return "left_" + joint.removeprefix("right_")
    return joint


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

COCO = KeypointSpec(
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

CROWD_POSE = KeypointSpec(
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

# DATASET.DATASET / DATASET.DATASET_TEST of a config -> the joints it has.
KEYPOINTS = {
    "coco": COCO,
    "coco_kpt": COCO,
    "crowd_pose": CROWD_POSE,
    "crowd_pose_kpt": CROWD_POSE,
}
