"""Pictures of people, heatmaps and whole batches."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from lib.keypoints import KeypointSpec

SHIFT = 4  # binary places of a coordinate that OpenCV draws between pixels
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_people(
    image: np.ndarray, people: np.ndarray, spec: KeypointSpec, threshold: float = 0.0
) -> np.ndarray:
    """A copy of `image` (H, W, 3) uint8 RGB with skeletons, one color per person.

    people: (N, K, 3 or more); joints whose third number is not above `threshold` are left out.
    """
    canvas = image.copy()
    width = max(1, round(max(image.shape[:2]) / 200))
    for i, person in enumerate(people):
        color = person_color(i)
        seen = person[:, 2] > threshold
        points = [tuple(int(round(float(v))) for v in xy) for xy in person[:, :2]]
        for a, b in spec.limb_index:
            if seen[a] and seen[b]:
                cv2.line(canvas, points[a], points[b], color, width, cv2.LINE_AA)
        for k in np.flatnonzero(seen):
            cv2.circle(canvas, points[k], width + 1, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(canvas, points[k], width, color, -1, cv2.LINE_AA)
    return canvas


def draw_named_people(
    image: np.ndarray,
    people: np.ndarray,
    spec: KeypointSpec,
    names: Sequence[str],
    colors: Sequence[int],
    threshold: float = 0.0,
) -> np.ndarray:
    """A copy of `image` (H, W, 3) uint8 RGB with skeletons as strong as people are large.

    people: (N, K, 3 or more), as in `draw_people`, the foremost first; each has its name above it
    and the color that belongs to a number.
    """
    canvas = image.copy()
    people = people[:, : spec.num_joints]
    for person, number in reversed(list(zip(people, colors, strict=True))):
        _draw_skeleton(canvas, person, spec, person_color(number), threshold)
    for person, name, number in reversed(list(zip(people, names, colors, strict=True))):
        _draw_name(canvas, person[person[:, 2] > threshold, :2], name, person_color(number))
    return canvas


def draw_heatmaps(image: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """`image` (H, W, 3) under the largest of `heatmaps` (K, h, w) at each pixel, 0 to 1."""
    strongest = np.clip(heatmaps.max(axis=0), 0, 1)
    strongest = cv2.resize(strongest, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    color = cv2.applyColorMap(np.uint8(255 * strongest), cv2.COLORMAP_JET)[..., ::-1]
    return np.uint8(0.4 * image + 0.6 * color)


def tile(pictures: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Pictures (H, W, 3) side by side, row by row; smaller ones are padded with white."""
    height = max(picture.shape[0] for picture in pictures) + gap
    width = max(picture.shape[1] for picture in pictures) + gap
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * height, min(columns, len(pictures)) * width, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def caption(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture under a white line of text."""
    strip = np.full((16, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, picture])


def save_image(path: str, picture: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB; the ending of `path` chooses the format."""
    if not (cv2.haveImageWriter(str(path)) and cv2.imwrite(str(path), picture[..., ::-1])):
        raise ValueError(f"cannot write the image {path}")


def person_color(index: int) -> tuple[int, int, int]:
    """Hues a golden angle apart: neighbors differ, and there is no last one."""
    hsv = np.uint8([[[int(index * 68.75) % 180, 220, 255]]])
    return tuple(int(c) for c in cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0])


def _draw_skeleton(
    canvas: np.ndarray,
    person: np.ndarray,
    spec: KeypointSpec,
    color: tuple[int, ...],
    threshold: float,
) -> None:
    """Limbs with a dark edge, which shows on anything, and light joints."""
    seen = person[:, 2] > threshold
    if not seen.any():
        return
    size = np.ptp(person[seen, :2], axis=0).max()
    width = float(np.clip(size / 60, 1.5, min(canvas.shape[:2]) / 60 + 1))
    points = np.round(person[:, :2] * 2**SHIFT).astype(int).tolist()
    limbs = [(points[a], points[b]) for a, b in spec.limb_index if seen[a] and seen[b]]
    dots = [(points[k], points[k]) for k in np.flatnonzero(seen)]
    dark = tuple(c // 4 for c in color)
    for lines, paint, thick in (
        *((limbs, dark, 2.2), (limbs, color, 1.1)),
        *((dots, dark, 3.0), (dots, WHITE, 1.9)),
    ):
        for a, b in lines:
            cv2.line(canvas, a, b, paint, round(width * thick), cv2.LINE_AA, SHIFT)


def _draw_name(canvas: np.ndarray, points: np.ndarray, name: str, color: tuple[int, ...]) -> None:
    """A tag above the topmost of `points` (n, 2), moved into the picture where it has room."""
    if not len(points):
        return
    height, width = canvas.shape[:2]
    scale = max(0.35, min(height, width) / 1100)
    thickness = max(1, round(1.6 * scale))
    (w, h), _ = cv2.getTextSize(name, FONT, scale, thickness)
    pad = round(h * 0.55)
    x, y = points[points[:, 1].argmin()]
    left = int(np.clip(x - w / 2 - pad, 0, max(0, width - w - 2 * pad)))
    bottom = int(np.clip(y - 2.5 * h, h + 2 * pad, height))
    cv2.rectangle(canvas, (left, bottom - h - 2 * pad), (left + w + 2 * pad, bottom), color, -1)
    ink = BLACK if np.dot(color, LUMINANCE) > 100 else WHITE
    place = left + pad, bottom - pad
    cv2.putText(canvas, name, place, FONT, scale, ink, thickness, cv2.LINE_AA)
