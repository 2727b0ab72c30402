"""Depthwise filters as sums of smaller ones in training, folded into one filter for all else.

Re-parameterization of large kernels: RepLKNet (Ding et al., CVPR 2022, section 3.2, guideline 3)
trains small kernels parallel to a large one, each with its BatchNorm, and adds their outputs. Here
the BatchNorm that follows the layer in any case normalizes the sum. So its statistics are those of
the folded layer, too, and a folded network can be recalibrated like any other.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.layers.conv import conv_bn

SMALLER = (5, 3)  # kernels parallel to a larger one
EPS = nn.BatchNorm2d(1).eps
PART = ".kernels."  # in the names of tensors


class DepthwiseBranches(nn.Module):
    """(B, C, H, W) -> (B, C, H / stride, W / stride): the sum of convolutions with BatchNorm."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        sizes = [kernel, *(size for size in SMALLER if size < kernel)]
        self.kernels = nn.ModuleList(
            nn.Sequential(*conv_bn(channels, channels, size, stride, depthwise=True))
            for size in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.kernels
        out = first(x)
        for branch in others:
            out = out + branch(x)
        return out


def fold_branches(state: Mapping[str, Tensor], source: object) -> dict[str, Tensor]:
    """`state` with one filter for each `DepthwiseBranches`; equal outputs in evaluation mode.

    In evaluation mode each branch is a filter plus a constant per channel. The filters are padded
    and added; the constants go into the mean of the BatchNorm that follows. ValueError names
    `source` if branches are not complete.
    """
    folded = {name: tensor for name, tensor in state.items() if PART not in name}
    for layer in sorted({name.partition(PART)[0] for name in state if PART in name}):
        try:
            weight, shift = _sum_of(state, layer)
            mean = f"{layer.removesuffix('0')}1.running_mean"  # (filter, BatchNorm, ReLU)
            folded[f"{layer}.weight"] = weight
            folded[mean] = (state[mean] - shift).to(state[mean].dtype)
        except (KeyError, IndexError, RuntimeError):
            raise ValueError(f"{source}: the branches of {layer} are damaged") from None
    return folded


def _sum_of(state: Mapping[str, Tensor], layer: str) -> tuple[Tensor, Tensor]:
    """The filters (C, 1, k, k) and constants (C,) of a layer."""
    names = {name for name in state if name.startswith(layer + PART)}
    count = len({name.removeprefix(layer + PART).partition(".")[0] for name in names})
    total, shift = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for i in range(count):
        branch = f"{layer}{PART}{i}"
        filters = state[f"{branch}.0.weight"]
        scale, bias, mean, var = (
            state[f"{branch}.1.{name}"].double()
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = scale / (var + EPS).sqrt()
        scaled = filters.double() * scale[:, None, None, None]
        border = (total.shape[-1] - filters.shape[-1]) // 2 if i else 0  # the first is the largest
        total = total + F.pad(scaled, [border] * 4)
        shift = shift + bias - mean * scale
    return total.to(state[f"{layer}{PART}0.0.weight"].dtype), shift
