"""Depthwise convolution with a fast weight gradient on a CPU.

On a CPU, the gradient of 7x7 filters takes ten times as long as the forward pass: oneDNN (of torch
2.13) has fast code for kernels of at most three columns only. That gradient is a correlation of the
input with the output's gradient, and each tap of the filter has a separate sum. So it can be
computed in pieces that are fast: three columns of taps at a time and, for stride s, separately for
each of the s x s grids of pixels that the taps fall on (`weight_gradient`).
`python -m tools.benchmark depthwise` measures the speed-up.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

COLUMNS = 3  # of a kernel; wider ones are slow


class DepthwiseConv2d(nn.Conv2d):
    """One k x k filter per channel, no bias: (B, C, H, W) -> (B, C, H / stride, W / stride)."""

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            channels,
            channels,
            kernel,
            stride=stride,
            padding=kernel // 2,
            groups=channels,
            bias=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.training and in_pieces(x, self.weight):
            return _InPieces.apply(x, self.weight, self.stride[0])
        return super().forward(x)


def depthwise_conv(x: Tensor, weight: Tensor, stride: int, training: bool) -> Tensor:
    """x (B, C, H, W), weight (C, 1, k, k) -> (B, C, H / stride, W / stride)"""
    if training and in_pieces(x, weight):
        return _InPieces.apply(x, weight, stride)
    return plain_conv(x, weight, stride)


def plain_conv(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return F.conv2d(x, weight, None, stride, padding=weight.shape[-1] // 2, groups=len(weight))


def in_pieces(x: Tensor, weight: Tensor) -> bool:
    """Whether pieces are faster: a CPU, a large kernel, channels last, plain float32 autograd."""
    return (
        x.device.type == "cpu"
        and weight.shape[-1] > COLUMNS
        and x.is_contiguous(memory_format=torch.channels_last)
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class _InPieces(torch.autograd.Function):
    """The forward pass of PyTorch; the gradients of this file."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return plain_conv(x, weight, stride)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad[:2]
        return (
            input_gradient(x.shape, weight, gradient, ctx.stride) if of_x else None,
            weight_gradient(x, gradient, weight.shape[-1], ctx.stride) if of_weight else None,
            None,
        )


def input_gradient(shape: torch.Size, weight: Tensor, gradient: Tensor, stride: int) -> Tensor:
    """gradient (B, C, H / stride, W / stride) -> (B, C, H, W), the `shape` of the input.

    At stride 1 it is a convolution with the filters rotated by 180 degrees, as fast as the forward
    pass.
    """
    kernel, channels = weight.shape[-1], len(weight)
    if stride > 1:
        return conv2d_input(shape, weight, gradient, stride, kernel // 2, groups=channels)
    padding = kernel - 1 - kernel // 2
    return F.conv2d(gradient, weight.flip(2, 3), padding=padding, groups=channels)


def weight_gradient(x: Tensor, gradient: Tensor, kernel: int, stride: int = 1) -> Tensor:
    """x (B, C, H, W), gradient (B, C, H / stride, W / stride) -> (C, 1, kernel, kernel)

    It has the strides of a weight in channels last, which DDP expects.

    Tap (i, j) meets pixels (stride * y + i, stride * x + j) of the padded input, for every output
    pixel (y, x): d weight[i, j] = sum of padded[stride * y + i, stride * x + j] * gradient[y, x].

    Example, kernel 7 at stride 2: taps 0, 2, 4, 6 of a row meet the even pixels only, taps 1, 3, 5
    the odd ones. On either grid of pixels the stride is 1, and the row has 4 or 3 taps, which take
    2 pieces or 1. Rows alike: 2 x 2 grids, of 2 + 1 + 2 + 1 = 6 pieces.
    """
    channels, (height, width) = x.shape[1], gradient.shape[2:]
    padded = F.pad(x, [kernel // 2] * 4)
    shape = (channels, 1, kernel, kernel)
    whole = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
    for top in range(stride):
        for left in range(stride):
            # The pixels of one grid, and the taps that meet them; both are views.
            grid = padded[..., top::stride, left::stride]
            taps = whole[..., top::stride, left::stride]
            rows = taps.shape[2]
            for first in range(0, taps.shape[3], COLUMNS):
                columns = min(COLUMNS, taps.shape[3] - first)
                # A filter of rows x columns taps slides over this part to height x width places.
                part = grid[..., : height + rows - 1, first : first + width + columns - 1]
                size = (channels, 1, rows, columns)
                piece = conv2d_weight(part, size, gradient, groups=channels)
                taps[..., first : first + columns] = piece
    return whole
