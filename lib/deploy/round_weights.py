"""Weights rounded to 8 bits; biases absorb the mean error (Nagel et al. 2019, section 4.2).

Rounding weights and maps changes the mean of an output, by an amount that a few images show. The
bias takes it off. In the published M this matters in the stem: some of its maps hardly vary,
weights go up to 938, and a bias cancels nearly all of the product.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.utils.watch import watch_inputs

Range = tuple[float, float]  # smallest and largest value
WEIGHT_LEVELS = 127  # of a symmetric scale
MAP_LEVELS = 255  # of a scale with a zero point
SMALLEST = 1e-12  # of a range


@torch.no_grad()
def round_weights(
    network: nn.Module, images: Sequence[Tensor], floats: Collection[str] = ()
) -> None:
    """Round the weights of all convolutions, one scale for each output channel, in place.

    network: in evaluation mode, BatchNorms folded; images: batches (B, 3, H, W), normalized;
    floats: names of layers that do not change. A
    quantizer with the same scales finds these weights on its grid, and their biases corrected for
    maps of 8 bits with the ranges of `images`. Transposed convolutions are left alone: rounding
    them costs nearly nothing.
    """
    convolutions = [
        layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d) and name not in floats
    ]
    ranges = input_ranges(network, convolutions, images)
    errors = {layer: torch.zeros_like(layer.weight[:, 0, 0, 0]) for layer in convolutions}

    def see(layer: Any, x: Tensor) -> None:
        coarse = in_8_bits(x, *ranges[layer])
        change = _products(layer, coarse, rounded(layer.weight)) - _products(layer, x, layer.weight)
        errors[layer] += change.mean(dim=(0, 2, 3)) / len(images)

    watch_inputs(network, convolutions, images, see)
    for layer, error in errors.items():
        layer.weight.copy_(rounded(layer.weight))
        layer.bias = nn.Parameter(-error if layer.bias is None else layer.bias - error)


def input_ranges(
    network: nn.Module, layers: Iterable[nn.Module], images: Iterable[Tensor]
) -> dict[nn.Module, Range]:
    """The smallest and the largest input of each layer, means over the images; 0 is within.

    Not the extremes: one image of 24 has inputs 20 times as large in the first layers of the
    published M, and all others would have 4 bits less.
    """
    seen: dict[nn.Module, list[Range]] = {layer: [] for layer in layers}

    def see(layer: nn.Module, x: Tensor) -> None:
        seen[layer].append((min(x.min().item(), 0.0), max(x.max().item(), 0.0)))

    watch_inputs(network, seen, images, see)
    return {
        layer: (mean(low for low, _ in ranges), mean(high for _, high in ranges))
        for layer, ranges in seen.items()
    }


def rounded(weight: Tensor) -> Tensor:
    """(out, in, k, k) on a grid of 255 values for each output channel."""
    step = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=SMALLEST) / WEIGHT_LEVELS
    return (weight / step).round() * step


def in_8_bits(x: Tensor, low: float, high: float) -> Tensor:
    """Maps on the grid of 256 values from `low` to `high`, of which one is 0."""
    step = max(high - low, SMALLEST) / MAP_LEVELS
    zero = round(-low / step)
    return ((x / step).round() + zero).clamp(0, MAP_LEVELS).sub(zero) * step


def _products(layer: nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    """The outputs of a convolution without its bias."""
    return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
