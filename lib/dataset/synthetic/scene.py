"""Images of cartoon people, or of another `Kind`, with known joints: `draw_scene(seed, params)`.

A scene is a textured background, distractors (shapes that are no people), people from far to near,
and now and then a distractor in front of them. It is a pure function of its seed and parameters,
and its ground truth is exact: a joint is labelled where it was painted, and visible when the pixel
there belongs to the right part of the right person.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from lib.dataset.synthetic.background import add_light, draw_background, draw_distractor
from lib.dataset.synthetic.paint import (
    PART_CODES,
    SHOWS_ON,
    Canvas,
    faces_camera,
    paint_person,
    sample_clothes,
)
from lib.dataset.synthetic.people import JOINTS, ROW, SIDES, joints_of, sample_pose
from lib.keypoints import COCO

CROWD = 255  # in Scene.people: the pixels of a far-away group
NECK_LIMBS = (("head", "neck"), *(("neck", f"{side}_shoulder") for side in SIDES))


@dataclass(frozen=True)
class SceneParams:
    """How images are rendered. Sizes in pixels, heights relative to the image's height."""

    width: int = 320
    height: int = 240
    min_people: int = 0
    max_people: int = 6
    min_height: float = 0.35  # of a person standing upright; with more than two
    max_height: float = 0.95  # people in the image, the tallest are less tall
    back: float = 0.25  # probability that a person is seen from behind
    overlap: float = 0.3  # ... is put anywhere rather than where there is room
    truncation: float = 0.15  # ... may extend beyond the image
    occlusion: float = 0.12  # ... has some thing standing in front
    tiny: float = 0.08  # probability of a far-away person, too small for joints
    crowd: float = 0.04  # probability of a far-away group, annotated as a region
    clutter: float = 0.4  # 0: plain background; 1: busy, colorful, many shapes
    min_labelled: float = 24.0  # people shorter than this (pixels) have no labelled joints

    def __post_init__(self) -> None:
        low, high = self.min_people, self.max_people
        if not 0 <= low <= high <= 100:
            raise ValueError(f"people are {low}-{high}; wanted 0 <= min <= max <= 100")
        low, high = self.min_height, self.max_height
        if not 0 < low <= high:
            raise ValueError(f"heights are {low}-{high}; wanted 0 < min <= max")
        if min(self.width, self.height) < 32:
            raise ValueError(f"images are {self.width}x{self.height}; wanted at least 32x32")
        for name in ("back", "overlap", "truncation", "occlusion", "tiny", "crowd", "clutter"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; wanted 0..1")


class Scene(NamedTuple):
    """An image and its ground truth; P people, K joints in the order of their kind."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    keypoints: np.ndarray  # (P, K, 3): x, y, v; v 2 visible, 1 hidden, 0 not labelled
    boxes: np.ndarray  # (P, 4): x, y, w, h around visible pixels and labelled joints
    people: np.ndarray  # (H, W) uint8: 0 nobody, p + 1 person p, CROWD a far-away group


class Figure(NamedTuple):
    """A painted person, before it is known which part of it stays visible."""

    points: np.ndarray  # (N, 3), pixels
    place: np.ndarray  # (2,), pixels: of the points' origin
    scale: float  # standing height, pixels
    area: int  # pixels painted


class Kind(NamedTuple):
    """A kind of figure: its poses, its paint, and where its K joints are visible.

    A figure's points (N, 3) are x right, y down and z towards the camera, in its heights.
    """

    joints: tuple[str, ...]
    rows: Sequence[int]  # of the joints among the points
    limbs: Sequence[tuple[str, str]]  # a hidden joint is labelled where one next to it is visible
    shows_on: np.ndarray  # (K, parts) bool: the parts of the label map on which a joint is visible
    pose: Callable[[np.random.Generator, SceneParams], np.ndarray]  # points
    paint: Callable[[Canvas, np.ndarray, float, np.random.Generator, int], None]
    near_side: Callable[[np.ndarray], np.ndarray]  # points -> (K,) bool: not on the far side


def paint_clothed(
    canvas: Canvas, points: np.ndarray, scale: float, rng: np.random.Generator, person: int
) -> None:
    """`paint_person` in random clothes."""
    paint_person(canvas, points, scale, sample_clothes(rng), person)


def face_on_near_side(points: np.ndarray) -> np.ndarray:
    """(len(JOINTS),) bool: eyes, ears and nose as the head is turned; all others are True."""
    at = {name: points[row] for name, row in ROW.items()}
    radius = float(np.linalg.norm(at["face"] - at["skull"]))
    return np.array([faces_camera(at, j, radius) for j in JOINTS[:5]] + [True] * (len(JOINTS) - 5))


PEOPLE = Kind(
    joints=JOINTS,
    rows=[ROW[joint] for joint in JOINTS],
    limbs=COCO.limbs + NECK_LIMBS,
    shows_on=SHOWS_ON,
    pose=lambda rng, params: joints_of(sample_pose(rng, params.back)),
    paint=paint_clothed,
    near_side=face_on_near_side,
)


def draw_scene(seed: int, params: SceneParams, kind: Kind = PEOPLE) -> Scene:
    """The scene of `seed`: same arguments, same bytes."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((params.height, params.width), np.uint16)
    background = draw_background(rng, params.width, params.height, params.clutter)
    canvas = Canvas(background, labels)
    for _ in range(rng.poisson(5 * params.clutter)):
        draw_distractor(canvas, rng, rng.uniform(0, 1, 2) * (params.width, params.height), 0.35)
    if rng.random() < params.crowd:
        draw_crowd(canvas, rng, params)
    figures = draw_figures(canvas, rng, params, kind)
    image = add_light(canvas.image, rng)

    keypoints, boxes = [], []
    new_number = np.zeros(CROWD + 1, np.uint8)  # a fully hidden person counts as nobody
    new_number[CROWD] = CROWD
    for number, figure in enumerate(figures, start=1):
        annotation = annotate(figure, labels, number, params, kind)
        if annotation is not None:
            keypoints.append(annotation[0])
            boxes.append(annotation[1])
            new_number[number] = len(boxes)
    return Scene(
        image=image,
        keypoints=np.array(keypoints).reshape(-1, len(kind.joints), 3),
        boxes=np.array(boxes).reshape(-1, 4),
        people=new_number[labels // PART_CODES],
    )


def draw_crowd(canvas: Canvas, rng: np.random.Generator, params: SceneParams) -> None:
    """A group of small people, standing close together."""
    center = rng.uniform((0.15, 0.2), (0.85, 0.5)) * (params.width, params.height)
    for _ in range(rng.integers(6, 13)):
        scale = rng.uniform(0.1, 0.16) * params.height
        foot = center + rng.normal(0, 1, 2) * (0.1 * params.width, 0.01 * params.height)
        points = joints_of(sample_pose(rng, params.back)) * scale
        points[:, :2] += foot
        paint_clothed(canvas, points, scale, rng, CROWD)


def draw_figures(
    canvas: Canvas, rng: np.random.Generator, params: SceneParams, kind: Kind
) -> list[Figure]:
    """Paint them from far (small) to near (tall), things in front of some of them."""
    count = int(rng.integers(params.min_people, params.max_people + 1))
    tallest = params.min_height + (params.max_height - params.min_height) * min(
        1.0, 2 / max(1, count)
    )
    heights = sorted(rng.uniform(params.min_height, tallest, count) * params.height)
    if rng.random() < params.tiny:
        heights.insert(0, rng.uniform(0.6, 0.95) * params.min_labelled)
    figures: list[Figure] = []
    for person, scale in enumerate(heights, start=1):
        points = kind.pose(rng, params) * scale
        place = find_room(points, scale, figures, rng, params)
        points[:, :2] += place
        kind.paint(canvas, points, scale, rng, person)
        area = int(np.count_nonzero(canvas.labels // PART_CODES == person))
        figures.append(Figure(points, place, scale, area))
        if rng.random() < params.occlusion:
            spot = points[rng.integers(len(points)), :2]
            draw_distractor(canvas, rng, spot, 0.5 * scale / params.height)
    return figures


def find_room(
    points: np.ndarray,
    scale: float,
    others: list[Figure],
    rng: np.random.Generator,
    params: SceneParams,
) -> np.ndarray:
    """(2,) pixels for the origin: inside the image and away from others, with exceptions."""
    margin = 0.06 * scale * (-2.5 if rng.random() < params.truncation else 1)
    low = margin - points[:, :2].min(axis=0)
    high = (params.width, params.height) - points[:, :2].max(axis=0) - margin
    middle = (low + high) / 2  # for a person who does not fit
    low, high = np.minimum(low, middle), np.maximum(high, middle)
    tries = rng.uniform(low, high, (1 if rng.random() < params.overlap else 8, 2))

    def crowding(spot: np.ndarray) -> float:
        gaps = [np.abs(spot[0] - o.place[0]) / (scale + o.scale) for o in others]
        return -min(gaps, default=0.0)

    return min(tries, key=crowding)


def annotate(
    figure: Figure, labels: np.ndarray, person: int, params: SceneParams, kind: Kind
) -> tuple[np.ndarray, np.ndarray] | None:
    """Keypoints (K, 3) and box (4,) of a person; None when (almost) nothing of it is visible."""
    mask = (labels // PART_CODES == person).astype(np.uint8)
    area = cv2.countNonZero(mask)
    if area < 8:
        return None
    x, y, w, h = cv2.boundingRect(mask)
    keypoints = annotate_joints(figure, labels, person, kind)
    if figure.scale < params.min_labelled or area < 0.12 * figure.area:
        keypoints[:] = 0
    labelled = keypoints[keypoints[:, 2] > 0, :2]
    low = np.min([(x, y), *labelled], axis=0)
    high = np.max([(x + w, y + h), *labelled], axis=0)
    return keypoints, np.array([*low, *(high - low)])


def annotate_joints(figure: Figure, labels: np.ndarray, person: int, kind: Kind) -> np.ndarray:
    """(K, 3). A joint hidden by others is labelled if one next to it is visible."""
    h, w = labels.shape
    joints = kind.joints
    xy = figure.points[kind.rows, :2].round(2)
    x, y = np.rint(xy).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < w) & (y < h)
    label = labels[y.clip(0, h - 1), x.clip(0, w - 1)].astype(int)
    on_person = label // PART_CODES == person
    visible = on_person & kind.shows_on[np.arange(len(joints)), label % PART_CODES]
    near_visible = np.zeros_like(visible)
    for a, b in kind.limbs:
        near_visible[joints.index(a)] |= visible[joints.index(b)]
        near_visible[joints.index(b)] |= visible[joints.index(a)]
    labelled = inside & kind.near_side(figure.points) & (on_person | near_visible)
    keypoints = np.zeros((len(joints), 3))
    keypoints[labelled, :2] = xy[labelled]
    keypoints[labelled, 2] = 1 + visible[labelled]
    return keypoints
