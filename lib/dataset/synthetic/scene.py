"""Pictures of cartoon people, or of another `Kind`, with known joints: `draw_scene(seed, params)`.

A scene is a textured background, shapes that are no people, people from far to near, and now
and then something in front of them. It is a pure function of its seed and parameters, and
its truth is exact: a joint is labelled where it was painted, and visible when the pixel that
shows it belongs to the right part of the right person.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from lib.dataset.synthetic.paint import (
    HAIRS,
    PART_CODES,
    SHOWS_ON,
    SKINS,
    Canvas,
    Color,
    fill,
    fill_label,
    hull,
    paint_person,
    sample_look,
    seen,
    shade,
    vivid,
)
from lib.dataset.synthetic.people import JOINTS, ROW, joints_of, sample_pose
from lib.keypoints import COCO

CROWD = 255  # in Scene.people: the pixels of a far-away group
LIMBS = (
    *(*COCO.limbs, ("head", "neck")),
    *(("neck", f"{side}_shoulder") for side in ("left", "right")),
)


@dataclass(frozen=True)
class SceneParams:
    """How pictures are drawn. Sizes in pixels, heights relative to the picture's height."""

    width: int = 320
    height: int = 240
    min_people: int = 0
    max_people: int = 6
    min_height: float = 0.35  # of a person standing upright; with more than two
    max_height: float = 0.95  # people in the picture, the tallest are less tall
    back: float = 0.25  # probability that a person is seen from behind
    overlap: float = 0.3  # ... is put anywhere rather than where there is room
    truncation: float = 0.15  # ... may stick out of the picture
    occlusion: float = 0.12  # ... has some thing standing in front
    tiny: float = 0.08  # probability of a far-away person, too small for joints
    crowd: float = 0.04  # probability of a far-away group, annotated as a region
    clutter: float = 0.4  # 0: plain background; 1: busy, colorful, many shapes
    min_labelled: float = 24.0  # people shorter than this (pixels) have no labelled joints

    def __post_init__(self) -> None:
        if not 0 <= self.min_people <= self.max_people <= 100:
            raise ValueError(
                f"people are {self.min_people}-{self.max_people}; wanted 0 <= min <= max <= 100"
            )
        if not 0 < self.min_height <= self.max_height:
            raise ValueError(
                f"heights are {self.min_height}-{self.max_height}; wanted 0 < min <= max"
            )
        if min(self.width, self.height) < 32:
            raise ValueError(f"pictures are {self.width}x{self.height}; wanted at least 32x32")
        for name in ("back", "overlap", "truncation", "occlusion", "tiny", "crowd", "clutter"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; wanted 0..1")


class Scene(NamedTuple):
    """A picture and its truth; P people, K joints in the order of their kind."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    keypoints: np.ndarray  # (P, K, 3): x, y, v; v 2 visible, 1 hidden, 0 not labelled
    boxes: np.ndarray  # (P, 4): x, y, w, h around what is visible and what is labelled
    people: np.ndarray  # (H, W) uint8: 0 nobody, p + 1 person p, CROWD a far-away group


class Figure(NamedTuple):
    """A painted person, before we know what of it stays visible."""

    points: np.ndarray  # (N, 3), pixels
    place: np.ndarray  # (2,), pixels: of the points' origin
    scale: float  # standing height, pixels
    area: int  # pixels painted


class Kind(NamedTuple):
    """Who is drawn: how they stand, what they look like, and where their K joints show.

    A figure's points (N, 3) are x right, y down and z towards the camera, in its heights.
    """

    joints: tuple[str, ...]
    rows: Sequence[int]  # of the joints among the points
    limbs: Sequence[tuple[str, str]]  # a hidden joint is labelled where one next to it is visible
    shows_on: np.ndarray  # (K, parts) bool: the parts of the label map on which a joint shows
    pose: Callable[[np.random.Generator, SceneParams], np.ndarray]  # points
    paint: Callable[[Canvas, np.ndarray, float, np.random.Generator, int], None]
    faces_us: Callable[[np.ndarray], np.ndarray]  # points -> (K,) bool: not on the far side


def paint_somebody(
    canvas: Canvas, points: np.ndarray, scale: float, rng: np.random.Generator, person: int
) -> None:
    """`paint_person` in random clothes."""
    paint_person(canvas, points, scale, sample_look(rng), person)


def face_is_seen(points: np.ndarray) -> np.ndarray:
    """(len(JOINTS),) bool: eyes, ears and nose as the head is turned, all others."""
    at = {name: points[row] for name, row in ROW.items()}
    radius = np.linalg.norm(at["face"] - at["skull"])
    return np.array([seen(at, j, radius) for j in JOINTS[:5]] + [True] * (len(JOINTS) - 5))


PEOPLE = Kind(
    joints=JOINTS,
    rows=[ROW[joint] for joint in JOINTS],
    limbs=LIMBS,
    shows_on=SHOWS_ON,
    pose=lambda rng, params: joints_of(sample_pose(rng, params.back)),
    paint=paint_somebody,
    faces_us=face_is_seen,
)


def draw_scene(seed: int, params: SceneParams, kind: Kind = PEOPLE) -> Scene:
    """The picture number `seed`: same arguments, same bytes."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((params.height, params.width), np.uint16)
    canvas = Canvas(draw_background(rng, params), labels)
    for _ in range(rng.poisson(5 * params.clutter)):
        draw_thing(canvas, rng, rng.uniform(0, 1, 2) * (params.width, params.height), 0.35)
    if rng.random() < params.crowd:
        draw_crowd(canvas, rng, params)
    figures = draw_figures(canvas, rng, params, kind)
    image = add_light(canvas.image, rng)

    truths = [
        find_truth(figure, labels, n, params, kind) for n, figure in enumerate(figures, start=1)
    ]
    shown = [truth for truth in truths if truth is not None]
    new_number = np.zeros(CROWD + 1, np.uint8)  # who is quite hidden counts as nobody
    new_number[[n for n, truth in enumerate(truths, start=1) if truth]] = np.arange(len(shown)) + 1
    new_number[CROWD] = CROWD
    return Scene(
        image=image,
        keypoints=np.array([keypoints for keypoints, _ in shown]).reshape(-1, len(kind.joints), 3),
        boxes=np.array([box for _, box in shown]).reshape(-1, 4),
        people=new_number[labels // PART_CODES],
    )


# --- what is in the picture -------------------------------------------------------------


def draw_background(rng: np.random.Generator, params: SceneParams) -> np.ndarray:
    """(H, W, 3) uint8: a gradient, noise of several grain sizes, perhaps stripes, polygons."""
    w, h, busy = params.width, params.height, params.clutter
    corners = np.array([vivid(rng, 0.15 + 0.5 * busy) for _ in range(4)], np.float32)
    mix = np.float32(0.35 + 0.4 * busy)
    image = (mix * corners + (1 - mix) * corners.mean(axis=0)).reshape(2, 2, 3)
    for grain, strength in ((5, 22), (17, 14), (60, 10), (w // 2, 6)):  # ever finer
        image = cv2.resize(image, (grain, max(2, grain * h // w)))
        noise = rng.random(image.shape, np.float32) - np.float32(0.5)
        image += noise * np.float32(2 * strength * (0.4 + busy) * rng.random())
    image = cv2.resize(image.clip(0, 255).astype(np.uint8), (w, h))
    if rng.random() < 0.15 + 0.3 * busy:
        image = draw_stripes(image, rng, depth=rng.uniform(5, 12 + 20 * busy))
    for _ in range(rng.poisson(1 + 4 * busy)):
        center, size = rng.uniform(0, 1, 2) * (w, h), rng.uniform(0.1, 0.4) * h
        corners = center + rng.normal(0, size, (rng.integers(3, 6), 2))
        outline = cv2.convexHull(corners.astype(np.float32))[:, 0]
        fill(image, outline, vivid(rng, 0.1 + 0.5 * busy))
    return image


def draw_stripes(image: np.ndarray, rng: np.random.Generator, depth: float) -> np.ndarray:
    """`image` with a wave of brightness over it; `depth` in gray levels."""
    h, w = image.shape[:2]
    angle = rng.uniform(0, np.pi)
    x, y = np.ogrid[:h, :w][::-1]
    phase = (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / rng.uniform(8, 60))
    wave = (depth * (1 + np.sin(phase, dtype=np.float32, casting="same_kind"))).astype(np.uint8)
    return cv2.addWeighted(image, 1, cv2.merge([wave] * 3), 1, -depth)


def draw_thing(canvas: Canvas, rng: np.random.Generator, center: np.ndarray, size: float) -> None:
    """A shape in the colors of people that is no person; `size` relative to the picture."""
    reach = size * rng.uniform(0.3, 1) * canvas.image.shape[0]
    palette = (vivid(rng), tuple(SKINS[rng.integers(5)]), tuple(HAIRS[rng.integers(5)]))
    color: Color = tuple(float(c) for c in palette[rng.choice(3, p=(0.6, 0.25, 0.15))])
    angle = rng.uniform(0, np.pi)
    step = reach * np.array([np.cos(angle), np.sin(angle)])
    kind = rng.choice(("ellipse", "bar", "stick", "lamp"))
    if kind == "ellipse":
        blobs = [[(*center, 0.3 * reach), (*(center + 0.3 * step), 0.25 * reach)]]
    elif kind == "bar":
        blobs = [[(*(center - step), 0.05 * reach), (*(center + step), 0.05 * reach)]]
    elif kind == "stick":  # bent like an arm or a leg
        bent = center + step[::-1] * (1, -1)
        blobs = [[(*center, 0.1 * reach), (*(center + step), 0.08 * reach)]]
        blobs += [[(*center, 0.1 * reach), (*bent, 0.08 * reach)]]
    else:  # a pole with a ball: almost a head
        blobs = [[(*center, 0.04 * reach), (*(center + (0, 2 * reach)), 0.05 * reach)]]
        blobs += [[(*center, 0.2 * reach)]]
    for blob in blobs:
        outline = hull(np.array(blob))
        fill(canvas.image, hull(np.array(blob), 1.0), shade(color, 0.5))
        fill(canvas.image, outline, color)
        fill_label(canvas.labels, outline, 0)


def draw_crowd(canvas: Canvas, rng: np.random.Generator, params: SceneParams) -> None:
    """A group of small people, standing close together."""
    center = rng.uniform((0.15, 0.2), (0.85, 0.5)) * (params.width, params.height)
    for _ in range(rng.integers(6, 13)):
        scale = rng.uniform(0.1, 0.16) * params.height
        foot = center + rng.normal(0, 1, 2) * (0.1 * params.width, 0.01 * params.height)
        points = joints_of(sample_pose(rng, params.back)) * scale
        points[:, :2] += foot
        paint_person(canvas, points, scale, sample_look(rng), CROWD)


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
        area = np.count_nonzero(canvas.labels // PART_CODES == person)
        figures.append(Figure(points, place, scale, area))
        if rng.random() < params.occlusion:
            spot = points[rng.integers(len(points)), :2]
            draw_thing(canvas, rng, spot, 0.5 * scale / params.height)
    return figures


def find_room(
    points: np.ndarray,
    scale: float,
    others: list[Figure],
    rng: np.random.Generator,
    params: SceneParams,
) -> np.ndarray:
    """(2,) pixels: where the origin goes; inside the picture and away from others, or not."""
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


def add_light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft light and shadow over the whole picture (H, W, 3), then grain."""
    h, w = image.shape[:2]
    light = cv2.resize(rng.integers(102, 148, (2, 3), np.uint8), (w, h))  # 0.8..1.15, in 1/128
    image = cv2.multiply(image, cv2.merge([light] * 3), scale=1 / 128)
    depth = rng.integers(4, 16)
    grain = rng.integers(0, depth, (h, w), np.uint8)
    return cv2.addWeighted(image, 1, cv2.merge([grain] * 3), 1, -(depth - 1) / 2)


# --- what is true about it --------------------------------------------------------------


def find_truth(
    figure: Figure, labels: np.ndarray, person: int, params: SceneParams, kind: Kind
) -> tuple[np.ndarray, np.ndarray] | None:
    """Keypoints (K, 3) and box (4,) of a person; None when nothing of it shows."""
    mine = (labels // PART_CODES == person).astype(np.uint8)
    area = cv2.countNonZero(mine)
    if area < 8:
        return None
    x, y, w, h = cv2.boundingRect(mine)
    keypoints = find_keypoints(figure, labels, person, kind)
    if figure.scale < params.min_labelled or area < 0.12 * figure.area:
        keypoints[:] = 0
    labelled = keypoints[keypoints[:, 2] > 0, :2]
    low = np.min([(x, y), *labelled], axis=0)
    high = np.max([(x + w, y + h), *labelled], axis=0)
    return keypoints, np.array([*low, *(high - low)])


def find_keypoints(figure: Figure, labels: np.ndarray, person: int, kind: Kind) -> np.ndarray:
    """(K, 3). A joint hidden by others is labelled if one next to it is visible."""
    h, w = labels.shape
    joints = kind.joints
    xy = figure.points[kind.rows, :2].round(2)
    x, y = np.rint(xy).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < w) & (y < h)
    label = labels[y.clip(0, h - 1), x.clip(0, w - 1)].astype(int)
    own = label // PART_CODES == person
    visible = own & kind.shows_on[np.arange(len(joints)), label % PART_CODES]
    near_visible = np.zeros_like(visible)
    for a, b in kind.limbs:
        near_visible[joints.index(a)] |= visible[joints.index(b)]
        near_visible[joints.index(b)] |= visible[joints.index(a)]
    labelled = inside & kind.faces_us(figure.points) & (own | near_visible)
    keypoints = np.zeros((len(joints), 3))
    keypoints[labelled, :2] = xy[labelled]
    keypoints[labelled, 2] = 1 + visible[labelled]
    return keypoints
