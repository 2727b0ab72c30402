"""The slicing rule: a network of width C is the first C channels of every tensor of a wider one.

Functions that run a layer at a smaller width. The input decides the width in, the caller the
width out; nothing is sampled or stored here. For example, a supernet's 1x1 convolution of 24 to 32
channels has a weight of (32, 24, 1, 1). For a map of 16 channels and a width of 8 it runs with
weight[:8, :16], which is the weight of the extracted sub-network of these widths.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.layers.depthwise import DepthwiseConv2d, depthwise_conv

KERNEL_MAPS = {5: "Linear5x5", 3: "Linear3x3"}  # kernel size -> the published name of its map


def conv(layer: nn.Conv2d, x: Tensor, width: int) -> Tensor:
    """(B, in, H, W) -> (B, width, H', W'); the weight is (out, in, k, k)."""
    weight = part(layer.weight, width, x.shape[1])
    return F.conv2d(x, weight, None, layer.stride, layer.padding)


def deconv(layer: nn.ConvTranspose2d, x: Tensor, width: int) -> Tensor:
    """(B, in, H, W) -> (B, width, 2H, 2W); a transposed weight is (in, out, k, k)."""
    weight = part(layer.weight, x.shape[1], width)
    assert not isinstance(layer.padding, str)
    return F.conv_transpose2d(x, weight, None, layer.stride, layer.padding, layer.output_padding)


def depthwise(layer: DepthwiseConv2d, x: Tensor, weight: Tensor | None = None) -> Tensor:
    """(B, C, H, W) -> (B, C, H', W'); `weight` (C or more, 1, k, k) replaces the layer's."""
    weight = layer.weight if weight is None else weight
    return depthwise_conv(x, part(weight, x.shape[1]), layer.stride[0], layer.training)


def norm(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """BatchNorm of the first channels; in training their running statistics change, in place."""
    channels = x.shape[1]
    mean, var, batches = layer.running_mean, layer.running_var, layer.num_batches_tracked
    assert mean is not None
    assert var is not None
    assert batches is not None
    assert layer.momentum is not None
    if layer.training and layer.track_running_stats:
        batches.add_(1)
    normalize = getattr(layer, "normalize", F.batch_norm)  # of layers/sync.py, if that is its class
    return normalize(
        x,
        mean[:channels],
        var[:channels],
        layer.weight[:channels],
        layer.bias[:channels],
        training=layer.training,
        momentum=layer.momentum,
        eps=layer.eps,
    )


def smaller_kernel(block: Any, kernel: int) -> Tensor:
    """The depthwise filters (C, 1, k, k) of an InvertedBottleneck at a kernel size.

    At full size they are the weight itself. A smaller kernel is no leading slice but the center of
    the larger one; if the block has linear maps (once-for-all), passed through that of its size.
    """
    weight = block.depth_conv[0].weight
    full = weight.shape[-1]
    if kernel == full:
        return weight
    maps = {
        size: getattr(block, name) for size, name in KERNEL_MAPS.items() if hasattr(block, name)
    }
    if kernel > full or maps and kernel not in maps:
        possible = [*sorted(maps), full]
        raise ValueError(f"kernel {kernel} of a supernet of {full}x{full}; possible: {possible}")
    inner = slice((full - kernel) // 2, (full + kernel) // 2)
    center = _Part.apply(weight, (slice(None), slice(None), inner, inner))
    return maps[kernel](center.flatten(1)).view(center.shape) if maps else center


def part(weight: Tensor, *sizes: int) -> Tensor:
    """The first entries of a weight along its first axes, as many as `sizes` say."""
    if weight.shape[: len(sizes)] == sizes:
        return weight
    return _Part.apply(weight, tuple(map(slice, sizes)))


class _Part(torch.autograd.Function):
    """`weight[index]`; the gradient has the strides of the weight, which DDP expects.

    That of a slice is contiguous, also for a weight in channels last.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, index: tuple[slice, ...]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.index = index
        return weight[index]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        [weight] = ctx.saved_tensors
        whole = torch.zeros_like(weight)
        whole[ctx.index] = gradient
        return whole, None


def leading_slice(full: Tensor, shape: torch.Size) -> Tensor:
    """The first entries of `full` along each axis, as many as `shape` has."""
    return full[tuple(slice(n) for n in shape)]
