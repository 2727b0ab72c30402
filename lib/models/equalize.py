"""Equalized channels, so that 8 bits are enough for all of them (Nagel et al. 2019, section 4.1).

Channel c of a stream can be divided by a factor s[c] where it is written, in a BatchNorm, and
multiplied by it where it is read: the function of the network stays the same. So it does with a
ReLU in between, but not with a ReLU6. The stem, the stages, the deconv levels and the predictions
are such streams, the expanded channels of the blocks are not.

8-bit maps share one scale for all channels, and the weights of a layer one for each output channel.
In the published M, one channel of the stem goes up to 116, the median to 10.6: the others had five
bits left. Their weights have the opposite problem: those of the small channels are large.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lib.models.pose_mobilenet import LitePose
from lib.models.reorder import Ends, backbone_ends, deconv_ends, is_tied
from lib.utils.watch import watch_inputs

# BatchNorms that write a stream; what reads it, and the dimension of the stream in its weights.
StreamEnds = tuple[list[Any], list[tuple[Any, int]]]
SMALLEST = 1e-6  # of a range: a channel may be constant
MAX_FACTOR = 2.0**10


@torch.no_grad()
def equalize(model: LitePose, images: Iterable[Tensor]) -> None:
    """Scale the channels of all streams without a ReLU6, in place.

    images: batches (B, 3, H, W) of normalized images, for the ranges of the channels.
    """
    streams = _streams(model)
    highest: dict[Any, Tensor] = {}

    def see(layer: Any, x: Tensor) -> None:
        largest = x.abs().amax(dim=(0, 2, 3))
        highest[layer] = torch.maximum(highest.get(layer, largest), largest)

    watch_inputs(model, [layer for _, readers in streams for layer, _ in readers], images, see)
    for norms, readers in streams:
        of_maps = torch.stack([highest[layer] for layer, _ in readers]).amax(dim=0)
        of_maps = of_maps.clamp(min=SMALLEST)
        of_weights = torch.stack([_column_ranges(layer.weight, dim) for layer, dim in readers])
        factor = (of_maps / of_weights.amax(dim=0).clamp(min=SMALLEST)).sqrt()
        factor = (factor / factor.log().mean().exp()).clamp(1 / MAX_FACTOR, MAX_FACTOR)
        for norm in norms:
            norm.weight /= factor
            norm.bias /= factor
        for layer, dim in readers:
            shape = [1] * layer.weight.ndim
            shape[dim] = -1
            layer.weight *= factor.view(shape)


def _streams(model: LitePose) -> list[StreamEnds]:
    """Every stream that can be scaled; a residual may tie two stages (`lib.models.reorder`)."""
    streams: list[StreamEnds] = []
    for index in range(len(model.stage) + 1):
        norms, readers = _scaled(backbone_ends(model, index))
        if is_tied(model, index):
            norms_before, readers_before = streams.pop()
            norms, readers = norms_before + norms, readers_before + readers
        streams.append((norms, readers))
    for level in range(len(model.deconv_refined)):
        norms, readers = _scaled(deconv_ends(model, level))
        streams.append((norms[:1], readers))  # the BatchNorm of the sum
    for prediction in [*model.final_refined, *(model.final_raw if model.fusion else [])]:
        _, norm, _, last = prediction.conv
        streams.append(([norm], [(last, 1)]))
    return streams


def _scaled(ends: Ends) -> StreamEnds:
    """A prediction reads with depthwise filters, which take the factors of their channels."""
    depthwise = [(ends.prediction.conv[0], 0)] if ends.prediction else []
    return [norm for _, norm in ends.writers], [*ends.readers, *depthwise]


def _column_ranges(weight: Tensor, dim: int) -> Tensor:
    """(C,) the largest weight of each input channel, relative to the largest of its output channel.

    dim: of the input channels.
    """
    if weight.shape[1] == 1 and dim == 0:  # depthwise: each channel has a scale of its own
        return torch.full_like(weight[:, 0, 0, 0], SMALLEST)
    by_input = weight.abs().transpose(0, dim)  # (in, out, k, k)
    rows = by_input.amax(dim=(0, 2, 3), keepdim=True).clamp(min=SMALLEST)
    return (by_input / rows).amax(dim=(1, 2, 3))
