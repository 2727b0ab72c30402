"""Everything in a synthetic image but its people: background, shapes, light."""

from __future__ import annotations

import cv2
import numpy as np

from lib.dataset.synthetic.paint import (
    HAIRS,
    SKINS,
    Canvas,
    as_color,
    fill,
    hull,
    shade,
    vivid,
)


def draw_background(
    rng: np.random.Generator, width: int, height: int, clutter: float
) -> np.ndarray:
    """(H, W, 3) uint8: a gradient, noise of several grain sizes, perhaps stripes, polygons."""
    corners = np.array([vivid(rng, 0.15 + 0.5 * clutter) for _ in range(4)], np.float32)
    mix = np.float32(0.35 + 0.4 * clutter)
    image = (mix * corners + (1 - mix) * corners.mean(axis=0)).reshape(2, 2, 3)
    for grain, strength in ((5, 22), (17, 14), (60, 10), (width // 2, 6)):  # ever finer
        image = cv2.resize(image, (grain, max(2, grain * height // width)))
        noise = rng.random(image.shape, np.float32) - np.float32(0.5)
        image += noise * np.float32(2 * strength * (0.4 + clutter) * rng.random())
    image = cv2.resize(image.clip(0, 255).astype(np.uint8), (width, height))
    if rng.random() < 0.15 + 0.3 * clutter:
        image = draw_stripes(image, rng, depth=rng.uniform(5, 12 + 20 * clutter))
    for _ in range(rng.poisson(1 + 4 * clutter)):
        center, size = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0.1, 0.4) * height
        corners = center + rng.normal(0, size, (rng.integers(3, 6), 2))
        outline = cv2.convexHull(corners.astype(np.float32))[:, 0]
        fill(image, outline, vivid(rng, 0.1 + 0.5 * clutter))
    return image


def draw_stripes(image: np.ndarray, rng: np.random.Generator, depth: float) -> np.ndarray:
    """`image` with a wave of brightness over it; `depth` in gray levels."""
    h, w = image.shape[:2]
    angle = rng.uniform(0, np.pi)
    x, y = np.ogrid[:h, :w][::-1]
    phase = (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / rng.uniform(8, 60))
    wave = (depth * (1 + np.sin(phase, dtype=np.float32, casting="same_kind"))).astype(np.uint8)
    return cv2.addWeighted(image, 1, cv2.merge([wave] * 3), 1, -depth)


def draw_distractor(
    canvas: Canvas, rng: np.random.Generator, center: np.ndarray, size: float
) -> None:
    """Paint a shape in the colors of people that is no person.

    center: pixels; size: relative to the height of the image.
    """
    reach = size * rng.uniform(0.3, 1) * canvas.image.shape[0]
    palette = (vivid(rng), SKINS[rng.integers(5)], HAIRS[rng.integers(5)])
    color = as_color(palette[rng.choice(3, p=(0.6, 0.25, 0.15))])
    angle = rng.uniform(0, np.pi)
    step = reach * np.array([np.cos(angle), np.sin(angle)])
    kind = rng.choice(("ellipse", "bar", "stick", "lamp"))

    def blob(*ends: tuple[np.ndarray, float]) -> np.ndarray:
        """Circles (N, 3) at places, their radii relative to `reach`."""
        return np.array([(x, y, radius * reach) for (x, y), radius in ends])

    if kind == "ellipse":
        blobs = [blob((center, 0.3), (center + 0.3 * step, 0.25))]
    elif kind == "bar":
        blobs = [blob((center - step, 0.05), (center + step, 0.05))]
    elif kind == "stick":  # bent like an arm or a leg
        bent = center + step[::-1] * (1, -1)
        blobs = [blob((center, 0.1), (end, 0.08)) for end in (center + step, bent)]
    else:  # a pole with a ball: almost a head
        blobs = [blob((center, 0.04), (center + (0, 2 * reach), 0.05)), blob((center, 0.2))]
    for circles in blobs:
        outline = hull(circles)
        fill(canvas.image, hull(circles, 1.0), shade(color, 0.5))
        fill(canvas.image, outline, color)
        fill(canvas.labels, outline, 0)


def add_light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft light and shadow over the whole image (H, W, 3), then grain."""
    h, w = image.shape[:2]
    light = cv2.resize(rng.integers(102, 148, (2, 3), np.uint8), (w, h))  # 0.8..1.15, in 1/128
    image = cv2.multiply(image, cv2.merge([light] * 3), scale=1 / 128)
    depth = rng.integers(4, 16)
    grain = rng.integers(0, depth, (h, w), np.uint8)
    return cv2.addWeighted(image, 1, cv2.merge([grain] * 3), 1, -(depth - 1) / 2)
