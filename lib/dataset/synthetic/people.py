"""Synthetic people: a jointed skeleton and plausible poses, painted by `paint.py`.

Points are (x, y, z) in standing heights from the pelvis: x towards the person's left, y down, z to
the front. At a yaw of 0 the person faces the camera, so that the person's left is on the right of
the image; at 180 degrees the back is seen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lib.keypoints import COCO

JOINTS = (*COCO.joints, "head", "neck")  # of every person; a data set has some of them
SIDES = ("left", "right")

ROOTS = np.array(  # left and right shoulder, left and right hip
    [(0.105, -0.27, 0), (-0.105, -0.27, 0), (0.06, 0, 0), (-0.06, 0, 0)]
)
LENGTHS = np.array([(0.16, 0.15), (0.16, 0.15), (0.23, 0.23), (0.23, 0.23)])  # upper, lower
NECK = (0, -0.295, 0)
SKULL_RISE = 0.105  # neck to the center of the head
HEAD = 0.084  # radius
FACE = {  # on the unit sphere around the center of the head
    "nose": (0, 0.16, 0.99),
    "left_eye": (0.38, -0.14, 0.91),
    "right_eye": (-0.38, -0.14, 0.91),
    "left_ear": (1.0, 0.02, -0.05),
    "right_ear": (-1.0, 0.02, -0.05),
    "head": (0, -0.9, 0),
    "mouth": (0, 0.52, 0.85),
    "face": (0, 0.12, 0.99),
}
POINTS = (  # row order of `joints_of`
    *(
        f"{side}_{name}"
        for name in ("shoulder", "hip", "elbow", "knee", "wrist", "ankle", "hand", "toe")
        for side in SIDES
    ),
    "neck",
    "chest",
    "pelvis",
    "skull",
    *FACE,
)
ROW = {name: row for row, name in enumerate(POINTS)}

# Ranges in degrees: upper limb (outwards from hanging, forwards), then lower limb.
Swing = tuple[tuple[float, float], ...]
ARMS: dict[str, Swing] = {
    "hanging": ((6, 24), (-12, 18), (-6, 22), (0, 40)),
    "akimbo": ((38, 58), (-25, -5), (-55, -30), (0, 25)),
    "out": ((65, 105), (-10, 20), (60, 125), (-10, 25)),
    "up": ((135, 172), (-10, 25), (150, 195), (-10, 25)),
    "waving": ((55, 95), (-10, 20), (145, 190), (0, 20)),
    "forward": ((5, 35), (15, 55), (-25, 60), (35, 75)),
}
STANDING: Swing = ((1, 7), (-4, 4), (-1, 4), (-6, 0))
LEGS: dict[str, tuple[Swing, ...]] = {
    "standing": (STANDING, STANDING),
    "wide": (((12, 26), (-5, 5), (8, 20), (-8, 0)),) * 2,
    "walking": (((0, 6), (12, 38), (-1, 4), (-8, 20)), ((0, 6), (-25, -5), (-1, 4), (-65, -25))),
    "sitting": (((6, 26), (45, 78), (-6, 12), (-20, 10)),) * 2,
    "crouching": (((22, 48), (25, 58), (-25, 0), (-45, -15)),) * 2,
    "one up": (STANDING, ((35, 85), (0, 30), (-35, 20), (-30, 10))),
}
ARM_ODDS = (0.42, 0.1, 0.14, 0.12, 0.12, 0.1)
LEG_ODDS = (0.38, 0.14, 0.22, 0.1, 0.08, 0.08)


class Pose(NamedTuple):
    """All angles of a person, in degrees."""

    yaw: float  # 0 faces the camera, 180 shows the back
    roll: float  # of the whole body, in the image
    bend: float  # of the trunk, sideways
    head_yaw: float  # relative to the trunk
    head_roll: float
    limbs: np.ndarray  # (4, 4): left arm, right arm, left leg, right leg; columns as in Swing


def sample_pose(rng: np.random.Generator, back_probability: float) -> Pose:
    """Arms and legs from the tables above, turned at most 60 degrees from front or back."""
    arms = [ARMS[str(kind)] for kind in rng.choice(list(ARMS), size=2, p=ARM_ODDS)]
    if rng.random() < 0.35:  # both arms do the same
        arms[1] = arms[0]
    legs = list(LEGS[str(rng.choice(list(LEGS), p=LEG_ODDS))])
    if rng.random() < 0.5:
        legs.reverse()
    low, high = np.array([*arms, *legs], dtype=float).transpose(2, 0, 1)  # (4, 4) each
    turn = float(np.clip(rng.normal(0, 28), -60, 60))
    return Pose(
        yaw=turn + (180 if rng.random() < back_probability else 0),
        roll=float(rng.normal(0, 5 if rng.random() < 0.85 else 15)),
        bend=float(rng.normal(0, 6)),
        head_yaw=float(np.clip(rng.normal(0, 14), -25, 25)),
        head_roll=float(rng.normal(0, 7)),
        limbs=rng.uniform(low, high),
    )


def turned(points: np.ndarray, yaw: float, roll: float) -> np.ndarray:
    """Rotate (N, 3) points about the vertical, then in the image plane; degrees."""
    (a, b), (x, y, z) = np.radians((yaw, roll)), points.T
    x, z = x * np.cos(a) + z * np.sin(a), z * np.cos(a) - x * np.sin(a)
    return np.stack([x * np.cos(b) - y * np.sin(b), x * np.sin(b) + y * np.cos(b), z], axis=1)


def joints_of(pose: Pose) -> np.ndarray:
    """(len(POINTS), 3): x right and y down in the image, z towards the camera, in heights."""
    out, forward = np.radians(pose.limbs[:, 0::2]), np.radians(pose.limbs[:, 1::2])  # (4, 2)
    side = np.array([1, -1, 1, -1])[:, None]
    heading = np.stack(
        [side * np.sin(out) * np.cos(forward), np.cos(out) * np.cos(forward), np.sin(forward)],
        axis=2,
    )  # (4, 2, 3): unit vectors along upper and lower limb
    trunk = turned(np.array([*ROOTS[:2], NECK, (0, NECK[1] / 2, 0)]), 0, pose.bend)
    roots = np.concatenate([trunk[:2], ROOTS[2:]])
    middles = roots + LENGTHS[:, :1] * heading[:, 0]  # elbows and knees
    ends = middles + LENGTHS[:, 1:] * heading[:, 1]  # wrists and ankles
    hands = ends[:2] + 0.03 * heading[:2, 1]
    toes = ends[2:] + np.array([(0.018, 0.022, 0.06), (-0.018, 0.022, 0.06)])
    neck, chest = trunk[2], trunk[3]
    skull = neck + turned(np.array([(0, -SKULL_RISE, 0)]), 0, pose.bend + pose.head_roll)[0]
    face = turned(np.array(list(FACE.values())), pose.head_yaw, pose.bend + pose.head_roll)
    body = [roots, middles, ends, hands, toes, [neck, chest, (0, 0, 0), skull], skull + HEAD * face]
    return turned(np.concatenate(body), pose.yaw, pose.roll)
