"""How images fit into a fixed input size, and which size fits them best (`tools.export --size`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lib.utils.transforms import STRIDE

WORTH_IT = 1.02  # a better size is suggested if people become 2 % larger in it


class Fit(NamedTuple):
    """Images in an input of one size, with their aspect ratios kept."""

    scale: np.ndarray  # (N,) pixels of the input per pixel of the image
    filled: float  # share of the input's pixels, mean over the images; the others are black


def fit(images: np.ndarray, size: Sequence[int]) -> Fit:
    """images: (N, 2) widths and heights; size: width and height of the input."""
    scale = (np.array(size) / images).min(axis=1)
    covered = images.prod(axis=1) * scale**2 / np.prod(size)
    return Fit(scale, float(covered.mean()))


def without_borders(image: np.ndarray, rules: Mapping[str, Any]) -> np.ndarray:
    """The center of `image` (H, W, 3) that fills the network's input, with nothing black around.

    rules: the entry "input" of the card. For example, 640 x 480 pixels in an input of 640 x 448
    lose a few rows; with a free size of 448 on the short side, 640 x 480 become 448 x 576.
    """
    sides = np.array(image.shape[1::-1])
    size = rules["size"]
    if not size:
        side = sides.min() if rules["scale_type"] == "short" else sides.max()
        ratio, multiple = rules["side"] / side, rules["multiple_of"]
        size = np.maximum((ratio * sides + 1e-6) // multiple, 1) * multiple
    ratio = (np.array(size) / sides).max()
    width, height = np.clip((np.array(size) / ratio + 1e-6).astype(int), 1, sides)
    left, top = (sides - (width, height)) // 2
    return image[top : top + height, left : left + width]


def best_size(images: np.ndarray, pixels: int) -> tuple[int, int]:
    """The size of at most `pixels` in which the images are largest on average.

    Its sides are multiples of 64. The average is geometric: an image that becomes twice as large
    outweighs one that becomes half as large.
    """
    steps = range(STRIDE, pixels // STRIDE + 1, STRIDE)
    sizes = [(width, pixels // width // STRIDE * STRIDE) for width in steps]
    possible = [size for size in sizes if size[1] > 0]
    return max(possible, key=lambda size: np.log(fit(images, size).scale).mean())


def describe_fit(images: np.ndarray, size: tuple[int, int], free_scale: np.ndarray) -> str:
    """What `size` costs images (N, 2) of these widths and heights, and a better size, if any.

    free_scale: (N,) pixels of the input per pixel of the image with a free size.
    """
    here = fit(images, size)
    relative = here.scale / free_scale
    text = (
        f"{len(images)} images in {size[0]}x{size[1]}, aspect ratios kept: scale {middle(relative)}"
        f" of that with a free size; {max(0, 1 - here.filled):.0%} of the input is black"
    )
    better = best_size(images, size[0] * size[1])
    gain = np.exp(np.log(fit(images, better).scale / here.scale).mean())
    if gain < WORTH_IT:
        return text
    better_scale = middle(fit(images, better).scale / free_scale)
    return f"{text}\n--size {better[0]}x{better[1]}, of no more pixels, has scale {better_scale}"


def middle(values: np.ndarray) -> str:
    """ "0.75 (0.50 to 0.80)": median, smallest and largest."""
    return f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"
