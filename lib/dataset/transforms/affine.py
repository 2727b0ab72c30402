"""A crop of an image: a similarity transform of pixels and joints."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from lib.utils.transforms import of_pixels


@dataclass(frozen=True)
class Affine:
    """A similarity sampled once per image, applied to image, masks and joints alike."""

    center: tuple[float, float]  # of the crop, in pixels of the image
    side: float  # of the source square, in pixels of the image
    degrees: float  # counterclockwise as seen in the image
    pixel_center: float = 0.0  # of the codec (lib/codec.py)

    def matrix(self, size: int) -> np.ndarray:
        """(2, 3): coordinates in the image -> coordinates in a size x size crop.

        Rotate about `center`, scale by size / side, and move `center` to the middle of the crop.
        """
        c, s = np.cos(np.deg2rad(self.degrees)), np.sin(np.deg2rad(self.degrees))
        linear = size / self.side * np.array([[c, s], [-s, c]])
        return np.column_stack([linear, size / 2 - linear @ np.array(self.center)])

    def warp(
        self, image: np.ndarray, size: int, full_size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """(H, W, ...) -> (size, size, ...); black where the crop leaves the image.

        full_size: width and height of the image of which `image` is a shrunk copy.
        """
        matrix = of_pixels(self.matrix(size), self.pixel_center)
        if full_size is not None and full_size != image.shape[1::-1]:
            # Pixel i of the copy covers ratio * [i, i + 1) of the full image; its middle is at
            # ratio * i + (ratio - 1) / 2. For example, at half the size pixel 0 covers 0 and 1.
            ratio = np.array(full_size) / image.shape[1::-1]
            matrix = np.column_stack(
                [matrix[:, :2] * ratio, matrix[:, 2] + matrix[:, :2] @ ((ratio - 1) / 2)]
            )
        return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)

    def move(self, joints: np.ndarray, size: int) -> np.ndarray:
        """(..., 3) x, y, visibility: pixels of the image -> coordinates in the crop."""
        matrix = self.matrix(size)
        moved = joints.copy()
        moved[..., :2] = (joints[..., :2] + self.pixel_center) @ matrix[:, :2].T + matrix[:, 2]
        return moved
