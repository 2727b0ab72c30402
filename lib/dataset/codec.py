"""Between joints and heatmaps, both ways: where a Gaussian stands, and where a peak says it stood.

Coordinates on a map are continuous: pixel i covers [i, i + 1). A codec says five things, and
training targets, augmentation, evaluation and export ask the same one:

- `pixel_center`: where in its pixel an annotated joint lies. 0.5: annotations name pixels, pictures
  are warped and mirrored so that joints stay on what they mark. 0: coordinates and pixels are taken
  for one another, as the original does, which is off by up to a pixel of the crop.
- `centers`: where on the pixel grid the Gaussian of a joint has its center.
- `reach`: how far around it a peak must be the largest value.
- `offsets`: where in the pixel around a peak the joint is.
- `native`: peaks are looked for on the network's finest map instead of an enlarged one, and of
  equal neighbors only the first is a peak: a joint on the border of two pixels is one joint.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from torch import Tensor
from yacs.config import CfgNode


class Codec(Protocol):
    """What a codec answers."""

    pixel_center: float
    native: bool

    def reach(self, radius: int) -> int:
        """`radius` pixels of an input, in pixels of the map that is decoded; at least one."""

    def centers(self, xy: Tensor) -> Tensor:
        """(..., 2) on the map -> (..., 2) center of the Gaussian; pixel i is at i."""

    def offsets(self, windows: np.ndarray) -> np.ndarray:
        """(N, 3, 3) values around peaks -> (N, 2): x, y of the joint, from the pixel's corner."""


class ReferenceCodec:
    """HigherHRNet's: Gaussians on whole pixels, peaks moved a quarter pixel. Published weights."""

    pixel_center = 0.0
    native = False

    def reach(self, radius: int) -> int:
        return radius

    def centers(self, xy: Tensor) -> Tensor:
        return xy.trunc()

    def offsets(self, windows: np.ndarray) -> np.ndarray:
        """Each coordinate moves toward its higher neighbor (down when they are equal)."""
        toward = _after(windows) > _before(windows)
        return np.where(toward, 0.75, 0.25)


class UnbiasedCodec:
    """Gaussians where the joints are; peaks where a Gaussian through three values has its top.

    The logarithm of a Gaussian is a parabola, so three values along an axis give its center (after
    Zhang et al. 2020, "Distribution-aware coordinate representation").
    """

    pixel_center = 0.5
    native = True

    def reach(self, radius: int) -> int:
        return max(1, radius // 2)  # the finest map is half as large as the input

    def centers(self, xy: Tensor) -> Tensor:
        return xy - 0.5

    def offsets(self, windows: np.ndarray) -> np.ndarray:
        windows = windows.clip(min=1e-6)
        before, after = (np.log(side(windows) / windows[:, 1:2, 1]) for side in (_before, _after))
        bend = -(before + after)  # above 0, but on a plateau
        shift = np.divide(0.5 * (after - before), bend, out=np.zeros_like(bend), where=bend > 0)
        return 0.5 + shift.clip(-0.5, 0.5)


REFERENCE = ReferenceCodec()
CODECS: dict[str, Codec] = {"reference": REFERENCE, "unbiased": UnbiasedCodec()}


def codec_of(cfg: CfgNode) -> Codec:
    """The codec of MODEL.CODEC."""
    return CODECS[cfg.MODEL.CODEC]


def _before(windows: np.ndarray) -> np.ndarray:
    """(N, 3, 3) -> (N, 2): the values left of and above the middle."""
    return np.stack([windows[:, 1, 0], windows[:, 0, 1]], axis=1)


def _after(windows: np.ndarray) -> np.ndarray:
    return np.stack([windows[:, 1, 2], windows[:, 2, 1]], axis=1)
