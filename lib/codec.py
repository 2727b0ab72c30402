"""Codecs: how joints are encoded as Gaussians on heatmaps, and how peaks are decoded to joints.

Coordinates on a map are continuous: pixel i covers [i, i + 1). For example, the reference codec
centers the Gaussian of a joint at x = 5.7 on pixel 5 and decodes its peak to 5.25 or 5.75; the
unbiased codec centers it at 5.7 and decodes 5.7.

Training targets, augmentation, evaluation and export use the codec of MODEL.CODEC. To add a codec,
write a class here and list it in `CODECS`; the config then accepts its name.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode


class Codec:
    """Interface of a codec, and the reference codec (HigherHRNet, published weights).

    Reference: Gaussians are centered on whole pixels, peaks are moved by a quarter pixel.
    """

    # Position of an annotated joint within its pixel. 0.5: at the center; images are warped and
    # flipped together with their joints. 0: at the corner, as in the original, so images and joints
    # differ by up to one pixel of the crop.
    pixel_center = 0.0
    # Whether peaks are searched on the network's finest map instead of an upsampled one.
    native = False

    def reach(self, radius: int) -> int:
        """Window radius of a peak, in pixels of the decoded map, for `radius` input pixels."""
        return radius

    def centers(self, xy: Tensor) -> Tensor:
        """Joints (..., 2) on the map -> centers (..., 2) of their Gaussians, in pixel indices."""
        return xy.trunc()

    def offsets(self, windows: np.ndarray) -> np.ndarray:
        """Values (N, 3, 3) around peaks -> x, y (N, 2) of the joints from the pixel's corner.

        Reference: a quarter pixel from the center toward the higher neighbor; if both are equal,
        toward the lower coordinate.
        """
        return np.where(_after(windows) > _before(windows), 0.75, 0.25)

    def axis_offset(self, before: Tensor, middle: Tensor, after: Tensor) -> Tensor:
        """`offsets` along one axis for exported networks: three values -> offset, in any shape."""
        return torch.where(after > before, 0.75, 0.25)


class UnbiasedCodec(Codec):
    """Gaussians centered on the joints; a peak is refined by the Gaussian through three values.

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
        bend = -(before + after)  # curvature; on a plateau it is 0, as is the shift
        shift = np.divide(0.5 * (after - before), bend, out=np.zeros_like(bend), where=bend > 0)
        return 0.5 + shift.clip(-0.5, 0.5)

    def axis_offset(self, before: Tensor, middle: Tensor, after: Tensor) -> Tensor:
        before, middle, after = (value.clamp(min=1e-6) for value in (before, middle, after))
        before, after = (before / middle).log(), (after / middle).log()
        bend = -(before + after)
        shift = torch.where(bend > 0, 0.5 * (after - before) / bend, 0.0)
        return 0.5 + shift.clamp(-0.5, 0.5)


REFERENCE = Codec()
CODECS = {"reference": REFERENCE, "unbiased": UnbiasedCodec()}


def codec_of(cfg: CfgNode) -> Codec:
    """The codec of MODEL.CODEC."""
    return CODECS[cfg.MODEL.CODEC]


def _before(windows: np.ndarray) -> np.ndarray:
    """(N, 3, 3) -> (N, 2): the values left of and above the middle."""
    return np.stack([windows[:, 1, 0], windows[:, 0, 1]], axis=1)


def _after(windows: np.ndarray) -> np.ndarray:
    return np.stack([windows[:, 1, 2], windows[:, 2, 1]], axis=1)
