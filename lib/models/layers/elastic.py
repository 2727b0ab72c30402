"""The slicing rule: a network of width C is the first C channels of every tensor of a wider one.

Functions that run a layer at a smaller width. The input decides the width in, the caller the
width out; nothing is drawn or stored here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.layers.depthwise import DepthwiseConv2d, depthwise_conv

KERNEL_MAPS = {5: "Linear5x5", 3: "Linear3x3"}  # kernel size -> the published name of its map


def conv(layer: nn.Conv2d, x: Tensor, width: int) -> Tensor:
    """(B, in, H, W) -> (B, width, H', W')"""
    weight = layer.weight[:width, : x.shape[1]]
    return F.conv2d(x, weight, None, layer.stride, layer.padding)


def deconv(layer: nn.ConvTranspose2d, x: Tensor, width: int) -> Tensor:
    """(B, in, H, W) -> (B, width, 2H, 2W)"""
    weight = layer.weight[: x.shape[1], :width]
    return F.conv_transpose2d(x, weight, None, layer.stride, layer.padding, layer.output_padding)


def depthwise(layer: DepthwiseConv2d, x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Each channel by its own filter; `weight` (C or more, 1, k, k) stands in for the layer's."""
    weight = layer.weight if weight is None else weight
    return depthwise_conv(x, weight[: x.shape[1]], layer.stride[0], layer.training)


def norm(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """BatchNorm of the first channels; in training their running statistics move, in place."""
    channels = x.shape[1]
    if layer.training and layer.track_running_stats:
        layer.num_batches_tracked.add_(1)
    normalize = getattr(layer, "normalize", F.batch_norm)  # a layer of layers/sync.py has its own
    return normalize(
        x,
        layer.running_mean[:channels],
        layer.running_var[:channels],
        layer.weight[:channels],
        layer.bias[:channels],
        layer.training,
        layer.momentum,
        layer.eps,
    )


def smaller_kernel(block: nn.Module, kernel: int) -> Tensor:
    """The block's depthwise filters (C, 1, k, k) at `kernel`: whole, or their mapped center."""
    weight = block.depth_conv[0].weight
    full = weight.shape[-1]
    if kernel == full:
        return weight
    if kernel not in KERNEL_MAPS or not hasattr(block, KERNEL_MAPS[kernel]):
        maps = sorted(k for k, name in KERNEL_MAPS.items() if hasattr(block, name))
        raise ValueError(
            f"kernel {kernel} of a supernet of {full}x{full}; possible: {maps + [full]}"
        )
    edge = (full - kernel) // 2
    center = weight[:, :, edge : full - edge, edge : full - edge].flatten(1)  # (C, k * k)
    mapped = getattr(block, KERNEL_MAPS[kernel])(center)
    return mapped.view(len(weight), 1, kernel, kernel)


def leading_slice(full: Tensor, shape: torch.Size) -> Tensor:
    """The part of `full` that a tensor of `shape` shares with it."""
    return full[tuple(slice(n) for n in shape)]
