"""Synthetic animals on four legs, of eight joints: poses and paint, for `draw_scene`.

Points are (forward, up, left) in body lengths, nose to rump, from the middle of the trunk. An
animal is seen from the side. Its left legs are the near ones if it faces the left of the image; if
it faces the right they are the far ones, darker and a little higher in the image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lib.dataset.synthetic.paint import (
    PART_CODES,
    Canvas,
    Color,
    fill,
    hull,
    paint_blob,
    shade,
    vivid,
)
from lib.dataset.synthetic.scene import Kind
from lib.keypoints import KeypointSpec
from lib.sides import left_and_right

LEGS = tuple(f"{side}_{end}" for end in ("front", "hind") for side in ("left", "right"))
_JOINTS = ("nose", "withers", "hip", "tail", *(f"{leg}_paw" for leg in LEGS))
ANIMAL = KeypointSpec(  # experiments/animal/joints.yaml says the same
    name="animal",
    joints=_JOINTS,
    limbs=(
        ("nose", "withers"),
        ("withers", "hip"),
        ("hip", "tail"),
        *(("withers", f"{side}_front_paw") for side in ("left", "right")),
        *(("hip", f"{side}_hind_paw") for side in ("left", "right")),
    ),
    sigmas=(0.06, 0.08, 0.08, 0.08, 0.07, 0.07, 0.07, 0.07),
    flips=left_and_right(_JOINTS),
    order=("withers", "hip", "nose", "tail", *_JOINTS[4:]),
    category="animal",
)

PARTS = ("trunk", "neck", "head", "tail", *LEGS)
ON_PARTS = {  # joint -> the parts on which it is visible
    "nose": ("head",),
    "withers": ("trunk", "neck"),
    "hip": ("trunk", "tail", "left_hind", "right_hind"),
    "tail": ("tail",),
    **{f"{leg}_paw": (leg,) for leg in LEGS},
}
POINTS = (  # row order of `animal_points`
    *_JOINTS[:4],
    "head",
    "ear",
    "eye",
    "throat",
    "chest",
    "rump",
    "root",  # of the tail
    "bend",  # of the tail
    *(f"{leg}_{part}" for part in ("top", "knee", "paw") for leg in LEGS),
)
ROW = {name: row for row, name in enumerate(POINTS)}
SPINE, SIDE = 0.22, 0.07  # half a trunk's length and width
UPPER, LOWER = 0.19, 0.2  # of a leg
TROT, PACE, GALLOP = (0, 180, 180, 0), (0, 180, 0, 180), (0, 30, 150, 180)  # phases of LEGS
GAITS = {  # swing of the legs in degrees, their phases
    "standing": (6, TROT),
    "walking": (20, PACE),
    "trotting": (30, TROT),
    "running": (45, GALLOP),
}


class Coat(NamedTuple):
    """Colors and build of an animal."""

    fur: Color
    belly: Color
    paws: Color
    patch: Color | None
    build: float  # width of trunk and legs, about 1


def sample_coat(rng: np.random.Generator) -> Coat:
    fur = vivid(rng, 0.7)
    return Coat(
        fur=fur,
        belly=shade(fur, float(rng.uniform(1.0, 1.3))),
        paws=vivid(rng, 0.4) if rng.random() < 0.5 else shade(fur, 0.75),
        patch=vivid(rng, 0.7) if rng.random() < 0.4 else None,
        build=float(rng.uniform(0.85, 1.2)),
    )


def sample_animal(rng: np.random.Generator) -> np.ndarray:
    """(len(POINTS), 3) of a random animal: x right, y down in the image, z towards the camera."""
    body = sample_body(rng)
    facing = np.radians(rng.choice((-90, 90)) + np.clip(rng.normal(0, 14), -32, 32))
    above, roll = np.radians((rng.uniform(10, 24), rng.normal(0, 4)))
    forward, up, left = body.T
    x = forward * np.sin(facing) + left * np.cos(facing)
    z = forward * np.cos(facing) - left * np.sin(facing)
    y = z * np.sin(above) - up * np.cos(above)
    z = z * np.cos(above) + up * np.sin(above)
    return np.stack(
        [x * np.cos(roll) - y * np.sin(roll), x * np.sin(roll) + y * np.cos(roll), z], axis=1
    )


def sample_body(rng: np.random.Generator) -> np.ndarray:
    """(len(POINTS), 3): forward, up, left; in lengths."""
    at: dict[str, np.ndarray] = {
        "withers": np.array((SPINE, 0.05, 0)),
        "hip": np.array((-SPINE, 0.05, 0)),
        "chest": np.array((SPINE - 0.01, -0.02, 0)),
        "rump": np.array((-SPINE + 0.01, -0.01, 0)),
        "throat": np.array((SPINE + 0.03, 0.03, 0)),
        "root": np.array((-SPINE - 0.07, 0.06, 0)),
    }
    neck = rng.uniform(-45, -15) if rng.random() < 0.2 else rng.uniform(5, 65)  # 20 % graze
    gaze = neck - rng.uniform(15, 65)
    at["head"] = at["throat"] + 0.19 * heading(neck)
    at["nose"] = at["head"] + 0.13 * heading(gaze)
    at["ear"] = at["head"] + 0.1 * heading(gaze + 120)
    at["eye"] = at["head"] + 0.03 * heading(gaze + 60)
    wag = rng.uniform(100, 235)
    at["bend"] = at["root"] + 0.14 * heading(wag)
    at["tail"] = at["bend"] + 0.14 * heading(wag + rng.uniform(-50, 50))
    swing, phases = GAITS[str(rng.choice(list(GAITS)))]
    moment = rng.uniform(0, 360)
    for leg, phase in zip(LEGS, phases, strict=True):
        is_front, is_left = leg.endswith("front"), leg.startswith("left")
        turn = np.radians(moment + phase + rng.normal(0, 15))
        upper = -90 + swing * np.sin(turn) + rng.normal(0, 3)
        fold = rng.uniform(0, 8) + 1.2 * swing * max(0.0, np.cos(turn))  # while it comes forward
        middle = SPINE - 0.02 if is_front else -SPINE + 0.02
        top = np.array((middle, -0.06, SIDE if is_left else -SIDE))
        at[f"{leg}_top"] = top
        at[f"{leg}_knee"] = top + UPPER * heading(upper)
        at[f"{leg}_paw"] = at[f"{leg}_knee"] + LOWER * heading(upper - fold)
    return np.array([at[name] for name in POINTS])


def heading(degrees: float) -> np.ndarray:
    """A unit vector: 0 is forward, 90 is up."""
    angle = np.radians(degrees)
    return np.array((np.cos(angle), np.sin(angle), 0))


def paint_animal(
    canvas: Canvas, points: np.ndarray, scale: float, rng: np.random.Generator, number: int
) -> None:
    """Paint the animal over the image, far parts first.

    points: (len(POINTS), 3) in pixels; scale: length in pixels; number: from 1.
    """
    at, coat = {name: points[row] for name, row in ROW.items()}, sample_coat(rng)
    left_is_near = at["left_hind_top"][2] > at["right_hind_top"][2]
    near, far = ("left", "right") if left_is_near else ("right", "left")

    def paint(part: str, color: Color, *circles: tuple[str, float]) -> None:
        blob = np.array([(*at[name][:2], radius * scale) for name, radius in circles])
        paint_blob(canvas, blob, color, number * PART_CODES + PARTS.index(part))

    def paint_legs(side: str, light: float) -> None:
        for leg in (f"{side}_hind", f"{side}_front"):
            w = coat.build
            thick = 0.058 * w if leg.endswith("hind") else 0.046 * w
            paint(leg, shade(coat.fur, light), (f"{leg}_top", thick), (f"{leg}_knee", 0.034 * w))
            paint(
                leg, shade(coat.fur, light), (f"{leg}_knee", 0.032 * w), (f"{leg}_paw", 0.024 * w)
            )
            paint(leg, shade(coat.paws, light), (f"{leg}_paw", 0.033 * w))

    paint_legs(far, 0.45)
    paint("tail", coat.fur, ("root", 0.03), ("bend", 0.024))
    paint("tail", coat.fur, ("bend", 0.024), ("tail", 0.02))
    w = coat.build
    paint("trunk", coat.belly, ("chest", 0.105 * w), ("rump", 0.1 * w))
    paint("trunk", coat.fur, ("withers", 0.07 * w), ("hip", 0.07 * w))
    if coat.patch is not None:
        middle = 0.5 * (at["withers"] + at["rump"])
        fill(canvas.image, hull(np.array([(*middle[:2], 0.06 * scale)])), coat.patch)
    paint_legs(near, 1.0)
    paint("neck", coat.fur, ("throat", 0.07 * w), ("head", 0.05))
    paint("head", shade(coat.fur, 0.8), ("ear", 0.022), ("head", 0.03))
    paint("head", coat.fur, ("head", 0.058), ("nose", 0.034))
    for name, radius in (("eye", 0.014), ("nose", 0.02)):
        dot = (*at[name][:2], max(0.8, radius * scale))
        fill(canvas.image, hull(np.array([dot])), (20, 18, 16))


ANIMALS = Kind(
    joints=ANIMAL.joints,
    rows=[ROW[joint] for joint in ANIMAL.joints],
    limbs=ANIMAL.limbs,
    shows_on=np.array([[part in ON_PARTS[joint] for part in PARTS] for joint in ANIMAL.joints]),
    pose=lambda rng, _: sample_animal(rng),
    paint=paint_animal,
    near_side=lambda _: np.ones(ANIMAL.num_joints, bool),
)
