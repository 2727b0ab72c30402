"""Painting one synthetic person, into an image and into a map of person and body part per pixel.

Every body part is the convex hull of a few circles around projected joints, far parts first, so
an elbow is visible where the skeleton has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np

from lib.dataset.synthetic.people import HEAD, JOINTS, ROW, SIDES
from lib.keypoints import COCO

PARTS = (
    "torso",
    "neck",
    "head",
    *(f"{side}_{name}" for name in ("upper_arm", "forearm", "thigh", "shank") for side in SIDES),
)
PART_CODES = 16  # a pixel of the label map is person * PART_CODES + part
ON_PARTS = {  # joint -> the parts on which it is visible
    **dict.fromkeys((*COCO.joints[:5], "head"), ("head",)),
    "neck": ("neck", "torso", "head"),
    **{
        f"{side}_{joint}": tuple(part if part == "torso" else f"{side}_{part}" for part in parts)
        for side in SIDES
        for joint, parts in {
            "shoulder": ("torso", "upper_arm"),
            "elbow": ("upper_arm", "forearm"),
            "wrist": ("forearm",),
            "hip": ("torso", "thigh"),
            "knee": ("thigh", "shank"),
            "ankle": ("shank",),
        }.items()
    },
}
SHOWS_ON = np.array([[part in ON_PARTS[joint] for part in PARTS] for joint in JOINTS])
SKINS = np.array([(250, 218, 190), (236, 188, 150), (206, 150, 112), (160, 106, 74), (110, 72, 52)])
HAIRS = np.array([(40, 30, 26), (82, 54, 34), (140, 92, 50), (214, 176, 96), (130, 130, 134)])
CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 16, endpoint=False)) for f in (np.cos, np.sin)], 1)
SUBPIXEL = 4  # fractional bits of the coordinates given to cv2

Color = tuple[float, float, float]  # RGB, 0..255


class Clothes(NamedTuple):
    """Colors and build of a person."""

    skin: Color
    hair: Color
    shirt: Color
    trousers: Color
    shoes: Color
    stripes: Color | None
    long_sleeves: bool
    long_trousers: bool
    build: float  # width of the limbs, about 1


class Canvas(NamedTuple):
    """An image while it is painted."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    labels: np.ndarray  # (H, W) uint16: person * PART_CODES + part, 0 where there is nobody


def as_color(values: Iterable[float]) -> Color:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def shade(color: Color, factor: float) -> Color:
    return as_color(min(255.0, channel * factor) for channel in color)


def vivid(rng: np.random.Generator, saturation: float = 0.75) -> Color:
    """A random color, bright or dark, of at most this saturation (0..1)."""
    hue = rng.uniform(0, 6)
    wheel = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    gray = 1 - saturation * rng.uniform(0.3, 1)
    return as_color(255 * rng.uniform(0.25, 1) * (gray + (1 - gray) * wheel))


def sample_clothes(rng: np.random.Generator) -> Clothes:
    skin = SKINS[rng.integers(len(SKINS))] * rng.uniform(0.92, 1.04)
    hair = HAIRS[rng.integers(len(HAIRS))] * rng.uniform(0.85, 1.15)
    return Clothes(
        skin=as_color(np.minimum(skin, 255)),
        hair=as_color(hair),
        shirt=vivid(rng, 0.95),
        trousers=vivid(rng, 0.7),
        shoes=shade(vivid(rng, 0.5), 0.6),
        stripes=vivid(rng) if rng.random() < 0.25 else None,
        long_sleeves=bool(rng.random() < 0.5),
        long_trousers=bool(rng.random() < 0.65),
        build=float(rng.uniform(0.88, 1.18)),
    )


def hull(circles: np.ndarray, grow: float = 0.0) -> np.ndarray:
    """Outline (M, 2) of the convex hull of circles (N, 3), each `grow` pixels larger."""
    points = circles[:, None, :2] + CIRCLE * (circles[:, None, 2:] + grow)  # (N, 16, 2)
    points = points.reshape(-1, 2).astype(np.float32)
    return points if len(circles) == 1 else cv2.convexHull(points)[:, 0]


def fill(image: np.ndarray, polygon: np.ndarray, color: Color | int) -> None:
    """Fill a convex `polygon` (M, 2), in pixels; pixel centers are whole numbers.

    In an image it is anti-aliased; in a label map, `color` being the label, it is not.
    """
    fixed = np.rint(polygon * (1 << SUBPIXEL)).astype(np.int32)
    line_type = cv2.LINE_8 if isinstance(color, int) else cv2.LINE_AA
    cv2.fillConvexPoly(image, fixed, color, line_type, SUBPIXEL)


def paint_blob(canvas: Canvas, circles: np.ndarray, color: Color, label: int) -> None:
    """One body part: a dark rim, the color, and a lighter strip where the light falls."""
    radius = circles[:, 2].min()
    outline = hull(circles)
    fill(canvas.image, hull(circles, min(1.2, 0.25 * radius)), shade(color, 0.45))
    fill(canvas.image, outline, color)
    if radius > 2.5:
        lit = circles * (1, 1, 0.45) - circles[:, 2:] * (0.28, 0.28, 0)
        fill(canvas.image, hull(lit), shade(color, 1.13))
    fill(canvas.labels, outline, label)


def paint_person(
    canvas: Canvas, points: np.ndarray, scale: float, clothes: Clothes, person: int
) -> None:
    """Paint the person over the image, far parts first.

    points: (len(POINTS), 3) in pixels; scale: standing height in pixels; person: from 1.
    """
    at = {name: points[row] for name, row in ROW.items()}
    layers = []  # depth, part, blobs
    for part, depth, blobs in (*trunk_blobs(at, clothes), *limb_blobs(at, clothes)):
        layers.append((depth, PARTS.index(part), blobs))
    for _, part, blobs in sorted(layers, key=lambda layer: layer[:2]):
        label = person * PART_CODES + part
        if PARTS[part] == "head":
            paint_head(canvas, at, scale * HEAD, clothes, label)
        for color, blob in blobs:
            circles = np.array([(*at[name][:2], r * scale) for name, r in blob])
            paint_blob(canvas, circles, color, label)
        if PARTS[part] == "torso":
            paint_shirt(canvas.image, at, scale, clothes)


Blobs = list[tuple[Color, list[tuple[str, float]]]]  # color, [(point, radius in heights)]
Part = tuple[str, float, Blobs]  # name, depth in pixels, what to paint


def trunk_blobs(at: dict[str, np.ndarray], clothes: Clothes) -> list[Part]:
    w = clothes.build
    torso = [
        *((f"{side}_shoulder", 0.034) for side in SIDES),
        *((f"{side}_hip", 0.05 * w) for side in SIDES),
        ("chest", 0.075 * w),
    ]
    unit = np.linalg.norm(at["neck"] - at["pelvis"])  # about 0.3 heights
    return [
        ("neck", at["neck"][2] - 0.05 * unit, [(clothes.skin, [("neck", 0.03), ("skull", 0.03)])]),
        ("torso", at["chest"][2], [(clothes.shirt, torso)]),
        ("head", at["skull"][2] + 0.02 * unit, []),
    ]


def limb_blobs(at: dict[str, np.ndarray], clothes: Clothes) -> list[Part]:
    """Arms over the torso and legs under it, unless clearly behind or in front of it."""
    w = clothes.build
    sleeve = clothes.shirt if clothes.long_sleeves else clothes.skin
    leg = clothes.trousers if clothes.long_trousers else clothes.skin
    unit = np.linalg.norm(at["neck"] - at["pelvis"])
    parts: list[Part] = []
    for s in SIDES:
        upper_arm = [(f"{s}_shoulder", 0.037 * w), (f"{s}_elbow", 0.031 * w)]
        forearm = [(f"{s}_elbow", 0.029 * w), (f"{s}_wrist", 0.022 * w)]
        hand = [(f"{s}_wrist", 0.022 * w), (f"{s}_hand", 0.027 * w)]
        thigh = [(f"{s}_hip", 0.052 * w), (f"{s}_knee", 0.04 * w)]
        shank = [(f"{s}_knee", 0.038 * w), (f"{s}_ankle", 0.028 * w)]
        foot = [(f"{s}_ankle", 0.03 * w), (f"{s}_toe", 0.026 * w)]
        for part, ends, lift, blobs in (
            ("upper_arm", ("shoulder", "elbow"), 0.08, [(clothes.shirt, upper_arm)]),
            ("forearm", ("elbow", "wrist"), 0.12, [(sleeve, forearm), (clothes.skin, hand)]),
            ("thigh", ("hip", "knee"), -0.12, [(clothes.trousers, thigh)]),
            ("shank", ("knee", "ankle"), -0.14, [(leg, shank), (clothes.shoes, foot)]),
        ):
            depth = sum(at[f"{s}_{end}"][2] for end in ends) / 2
            parts.append((f"{s}_{part}", depth + lift * unit, blobs))
    return parts


def paint_shirt(
    image: np.ndarray, at: dict[str, np.ndarray], scale: float, clothes: Clothes
) -> None:
    """Stripes all around; a collar and buttons tell the front from the back."""
    flat = {name: point[:2] for name, point in at.items()}
    if clothes.stripes is not None:
        for down in (0.3, 0.55, 0.8):
            ends = [(1 - down) * flat[f"{s}_shoulder"] + down * flat[f"{s}_hip"] for s in SIDES]
            stripe = np.array([(*end, 0.013 * scale) for end in ends])
            fill(image, hull(stripe), clothes.stripes)
    left, right = flat["left_shoulder"], flat["right_shoulder"]
    if left[0] > right[0]:  # facing the camera
        throat, belly = flat["neck"], flat["pelvis"]
        collar = [0.6 * throat + 0.4 * left, 0.6 * throat + 0.4 * right]
        fill(image, np.array([*collar, 0.78 * throat + 0.22 * belly]), clothes.skin)
        for down in (0.4, 0.6, 0.8):
            button = (*((1 - down) * throat + down * belly), max(0.7, 0.011 * scale))
            fill(image, hull(np.array([button])), shade(clothes.shirt, 0.35))


def paint_head(
    canvas: Canvas, at: dict[str, np.ndarray], radius: float, clothes: Clothes, label: int
) -> None:
    """A ball of hair; if the face is towards the camera, skin with eyes, nose and mouth on it."""
    image = canvas.image
    center, face = at["skull"], (at["face"] - at["skull"]) / radius
    paint_blob(canvas, np.array([(*center[:2], radius)]), clothes.hair, label)
    for side in SIDES:
        if faces_camera(at, f"{side}_ear", radius):
            ear = np.array([(*at[f"{side}_ear"][:2], 0.22 * radius)])
            paint_blob(canvas, ear, shade(clothes.skin, 0.93), label)
    if face[2] < 0.1:
        return
    normal = face[:2] / max(1e-6, np.hypot(*face[:2]))
    along = CIRCLE @ np.array([normal * face[2], (-normal[1], normal[0])])  # a tilted disc
    fill(image, center[:2] + radius * (0.45 * face[:2] + 0.86 * along), clothes.skin)
    dot = max(0.7, 0.13 * radius)
    for name, color, size in (
        ("mouth", (150, 40, 48), 1.0),
        ("nose", shade(clothes.skin, 0.6 if sum(clothes.skin) > 360 else 1.6), 1.1),
        ("left_eye", (250, 250, 250), 1.7),
        ("right_eye", (250, 250, 250), 1.7),
        ("left_eye", (20, 20, 40), 1.0),
        ("right_eye", (20, 20, 40), 1.0),
    ):
        if faces_camera(at, name, radius):
            fill(image, hull(np.array([(*at[name][:2], size * dot)])), color)


def faces_camera(at: dict[str, np.ndarray], mark: str, radius: float) -> bool:
    """Whether a mark of the head is on its near side; ears stick out, so a little more."""
    depth = (at[mark][2] - at["skull"][2]) / radius
    return depth > (-0.4 if mark.endswith("ear") else 0.12)
