"""Geometry of the evaluation: from an image to the network's input, and back to the image.

Names and numbers are HigherHRNet's: `center` is in pixels, `scale` in units of 200 pixels, sizes
are (width, height).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

PIXEL_STD = 200.0
STRIDE = 64  # input sizes are multiples of it


def get_multi_scale_size(
    image: np.ndarray,
    input_size: int,
    current_scale: float,
    min_scale: float,
    scale_type: str = "short",
) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Input size, center and scale of an image (H, W, 3) at one scale of a multi-scale test.

    The short (scale_type "long": the long) side becomes `input_size`, a multiple of 64 at the
    smallest scale. The other side is rounded up, which leaves a margin around the image.
    """
    height, width = image.shape[:2]
    center = np.array([int(width / 2.0 + 0.5), int(height / 2.0 + 0.5)])
    by_width = width < height if scale_type == "short" else width >= height
    side, other = (width, height) if by_width else (height, width)
    side_base = _round_up(min_scale * input_size)
    # 0.3 / 0.1 is a little below 3
    side_resized = int(side_base * current_scale / min_scale + 1e-6)
    other_resized = int(_round_up(side_base / side * other) * current_scale / min_scale + 1e-6)
    side_scale = side / PIXEL_STD
    other_scale = other_resized / side_resized * side / PIXEL_STD
    if by_width:
        return (side_resized, other_resized), center, np.array([side_scale, other_scale])
    return (other_resized, side_resized), center, np.array([other_scale, side_scale])


def resize_align_multi_scale(
    image: np.ndarray,
    input_size: int,
    current_scale: float,
    min_scale: float,
    scale_type: str = "short",
    pixel_center: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image (H, W, 3) resized to the input of one scale (h, w, 3), its center and its scale.

    `pixel_center`: the codec's (lib/codec.py).
    """
    size, center, scale = get_multi_scale_size(
        image, input_size, current_scale, min_scale, scale_type
    )
    matrix = of_pixels(warp_matrix(center, scale, size), pixel_center)
    resized = cv2.warpAffine(image, matrix, size)
    return resized, center, scale


def warp_matrix(
    center: np.ndarray, scale: np.ndarray, size: Sequence[int], inverse: bool = False
) -> np.ndarray:
    """(2, 3): positions in the image -> positions on a map of `size` (width, height), or back."""
    ratio = size[0] / (scale[0] * PIXEL_STD)
    middle = np.array(size) / 2
    if inverse:
        return np.column_stack([np.eye(2) / ratio, center - middle / ratio])
    return np.column_stack([np.eye(2) * ratio, middle - center * ratio])


def of_pixels(matrix: np.ndarray, pixel_center: float) -> np.ndarray:
    """(2, 3): a transform of positions -> the same transform of pixel indices.

    Pixel i has its center at position i + `pixel_center`.
    """
    shift = matrix[:, :2] @ (pixel_center, pixel_center) - pixel_center
    return np.column_stack([matrix[:, :2], matrix[:, 2] + shift])


def get_final_preds(
    grouped_joints: Sequence[np.ndarray],
    center: np.ndarray,
    scale: np.ndarray,
    heatmap_size: Sequence[int],
    pixel_center: float = 0.0,
) -> list[np.ndarray]:
    """People on a map, [(N, K, 2 + ...)] -> each person (K, 2 + ...) in pixels of the image."""
    matrix = warp_matrix(center, scale, heatmap_size, inverse=True)
    preds = []
    for person in grouped_joints[0]:
        moved = np.array(person)
        moved[:, :2] = person[:, :2] @ matrix[:, :2].T + matrix[:, 2] - pixel_center
        preds.append(moved)
    return preds


def _round_up(length: float) -> int:
    return int((length + STRIDE - 1) // STRIDE * STRIDE)
