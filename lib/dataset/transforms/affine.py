"""The one geometric augmentation: a random similarity, and perhaps a mirror image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from lib.utils.transforms import of_pixels


@dataclass(frozen=True)
class Affine:
    """A similarity drawn once per sample, applied to image, masks and joints alike."""

    center: tuple[float, float]  # of the crop, in pixels of the picture
    side: float  # of the source square, in pixels of the picture
    degrees: float  # counterclockwise as seen in the picture
    flipped: bool = False
    pixel_center: float = 0.0  # of joints and pictures (lib/codec.py)

    def matrix(self, size: int) -> np.ndarray:
        """(2, 3): places in the picture -> places in a size x size crop, before mirroring."""
        c, s = np.cos(np.deg2rad(self.degrees)), np.sin(np.deg2rad(self.degrees))
        linear = size / self.side * np.array([[c, s], [-s, c]])
        return np.column_stack([linear, size / 2 - linear @ np.array(self.center)])

    def warp(
        self, picture: np.ndarray, size: int, full: tuple[int, int] | None = None
    ) -> np.ndarray:
        """(H, W, ...) -> (size, size, ...); black where the crop leaves the picture.

        full: width and height of the picture of which `picture` is a shrunk copy.
        """
        matrix = of_pixels(self.matrix(size), self.pixel_center)
        if full is not None and full != picture.shape[1::-1]:
            ratio = np.array(full) / picture.shape[1::-1]  # pixel i covers ratio * [i, i + 1)
            matrix = np.column_stack(
                [matrix[:, :2] * ratio, matrix[:, 2] + matrix[:, :2] @ ((ratio - 1) / 2)]
            )
        crop = cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR)
        return cv2.flip(crop, 1) if self.flipped else crop

    def move(self, joints: np.ndarray, size: int) -> np.ndarray:
        """(..., 3) x, y, visibility: pixels of the picture -> places in the crop.

        A place mirrors to size - x, or to size - x - 1 where it is its pixel's corner. Left and
        right joints keep their slots; swapping them is the caller's, who knows the names.
        """
        matrix = self.matrix(size)
        moved = joints.copy()
        moved[..., :2] = (joints[..., :2] + self.pixel_center) @ matrix[:, :2].T + matrix[:, 2]
        if self.flipped:
            moved[..., 0] = size - moved[..., 0] - (1 - 2 * self.pixel_center)
        return moved


@dataclass(frozen=True)
class AffineRange:
    """What to draw from (DATASET.* keys of the same names)."""

    scale_type: str = "short"
    min_scale: float = 0.75
    max_scale: float = 1.5
    max_rotation: float = 30.0  # degrees
    max_translate: float = 40.0  # pixels, times the crop's scale
    flip: float = 0.5  # probability
    pixel_center: float = 0.0  # of the codec

    def draw(self, rng: np.random.Generator, width: int, height: int) -> Affine:
        """A crop of a width x height picture."""
        side = min(width, height) if self.scale_type == "short" else max(width, height)
        side *= rng.uniform(self.min_scale, self.max_scale)
        reach = int(self.max_translate * side / 200)
        shift = rng.integers(-reach, reach, size=2, endpoint=True)
        return Affine(
            center=(width / 2 + shift[0], height / 2 + shift[1]),
            side=side,
            degrees=rng.uniform(-self.max_rotation, self.max_rotation),
            flipped=bool(rng.random() < self.flip),
            pixel_center=self.pixel_center,
        )
