"""Rendering of people, heatmaps and groups of images with OpenCV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from lib.keypoints import KeypointSpec
from lib.utils.files import write_file
from lib.utils.text import printable

Color = tuple[int, int, int]

SHIFT = 4  # binary places of coordinates in OpenCV: a sixteenth of a pixel
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_people(
    image: np.ndarray,
    people: np.ndarray,
    spec: KeypointSpec,
    threshold: float = 0.0,
    names: Sequence[str] | None = None,
    colors: Iterable[int] | None = None,
) -> np.ndarray:
    """A copy of `image` (H, W, 3) uint8 RGB with skeletons whose lines grow with the person.

    people: (N, K or more, 3 or more), the first one in front; joints whose third number is not
    above `threshold` are left out. names: labels above the people. colors: numbers for
    `person_color`, by default 0, 1 ...
    """
    canvas = image.copy()
    numbers = range(len(people)) if colors is None else colors
    front_to_back = list(zip(people[:, : spec.num_joints], map(person_color, numbers), strict=True))
    for person, color in front_to_back[::-1]:
        _draw_skeleton(canvas, person, spec, color, threshold)
    for name, (person, color) in list(zip(names or (), front_to_back, strict=False))[::-1]:
        _draw_name(canvas, person[person[:, 2] > threshold, :2], name, color)
    return canvas


def draw_heatmaps(image: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """`image` (H, W, 3) below the maximum over `heatmaps` (K, h, w), whose values are 0 to 1."""
    highest = np.clip(heatmaps.max(axis=0), 0, 1)
    highest = cv2.resize(highest, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    color = cv2.applyColorMap((255 * highest).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    return (0.4 * image + 0.6 * color).astype(np.uint8)


def tile(images: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Images (H, W, 3) side by side, row by row; smaller ones are padded with white."""
    height = max(image.shape[0] for image in images) + gap
    width = max(image.shape[1] for image in images) + gap
    rows = -(-len(images) // columns)
    sheet = np.full((rows * height, min(columns, len(images)) * width, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def resize_to(image: np.ndarray, side: int) -> np.ndarray:
    """The image with a longer side of `side` pixels."""
    scale = side / max(image.shape[:2])
    width, height = (max(1, round(scale * length)) for length in image.shape[1::-1])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method)


def caption(image: np.ndarray, text: str) -> np.ndarray:
    """The image below a white line of text."""
    strip = np.full((16, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, printable(text), (3, 12), FONT, 0.4, BLACK, 1, cv2.LINE_AA)
    return np.concatenate([strip, image])


def save_image(path: str | Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB; the suffix of `path` chooses the format.

    ValueError where the format is unknown or the file cannot be written.
    """
    suffix = Path(path).suffix
    if not (suffix.isascii() and cv2.haveImageWriter(f"image{suffix}")):
        raise ValueError(f"cannot write {path}: its format is unknown")
    _, data = cv2.imencode(suffix, image[..., ::-1])  # imwrite crashes on names that are not UTF-8
    write_file(path, data.tobytes())


def person_color(number: int) -> Color:
    """RGB of a number: hues a golden angle apart, so that neighbors differ and none is the last."""
    hsv = np.array([[[int(number * 68.75) % 180, 220, 255]]], np.uint8)
    red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def _draw_skeleton(
    canvas: np.ndarray, person: np.ndarray, spec: KeypointSpec, color: Color, threshold: float
) -> None:
    """Limbs with a dark edge, which contrasts with any background, and light joints."""
    visible = person[:, 2] > threshold
    if not visible.any():
        return
    size = np.ptp(person[visible, :2], axis=0).max()
    width = float(np.clip(size / 60, 1.5, min(canvas.shape[:2]) / 60 + 1))
    points = np.round(person[:, :2] * 2**SHIFT).astype(int).tolist()
    limbs = [(points[a], points[b]) for a, b in spec.limb_index if visible[a] and visible[b]]
    dots = [(points[k], points[k]) for k in np.flatnonzero(visible)]
    dark = tuple(c // 4 for c in color)
    layers = ((limbs, dark, 2.2), (limbs, color, 1.1), (dots, dark, 3.0), (dots, WHITE, 1.9))
    for lines, paint, thickness in layers:
        for a, b in lines:
            cv2.line(canvas, a, b, paint, round(width * thickness), cv2.LINE_AA, SHIFT)


def _draw_name(canvas: np.ndarray, points: np.ndarray, name: str, color: Color) -> None:
    """A label above the topmost of `points` (n, 2), moved to where it fits into the image."""
    if not len(points):
        return
    height, width = canvas.shape[:2]
    scale = max(0.35, min(height, width) / 1100)
    thickness = max(1, round(1.6 * scale))
    name = printable(name)  # OpenCV crashes on lone surrogates
    (w, h), _ = cv2.getTextSize(name, FONT, scale, thickness)
    pad = round(h * 0.55)
    x, y = points[points[:, 1].argmin()]
    left = int(np.clip(x - w / 2 - pad, 0, max(0, width - w - 2 * pad)))
    bottom = int(np.clip(y - 2.5 * h, h + 2 * pad, height))
    cv2.rectangle(canvas, (left, bottom - h - 2 * pad), (left + w + 2 * pad, bottom), color, -1)
    ink = BLACK if np.dot(color, LUMINANCE) > 100 else WHITE
    place = left + pad, bottom - pad
    cv2.putText(canvas, name, place, FONT, scale, ink, thickness, cv2.LINE_AA)
