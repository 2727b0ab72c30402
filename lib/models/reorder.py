"""Sorting channels by importance, so that a leading slice holds the most important ones.

A stream is a set of channels that can only be permuted together: all tensors that write or read
them, so the function of the network is unchanged. The streams of a LitePose, each independent of
the others:

    stem            1             read by stage 1 and the raw half of the head
    stage           1 a stage     one order for all its blocks, tied by their residuals; also with
                                  the stage before, if a residual ties them
    hidden          1 a block     the expanded channels, which nothing else reads
    deconv level    1 a level     one order for deconv_refined and deconv_raw, tied by their sum

For example, a block of stage 1 returns x + y, so channel 5 of y is added to channel 5 of x, and
every block of the stage has to agree on what channel 5 is. Its hidden channels are read by its last
1x1 alone:

    written by   rows of inv.0, BatchNorm inv.1, filters depth_conv.0, BatchNorm depth_conv.1
    read by      columns of point_conv.0

BatchNorms (parameters and statistics) and depthwise filters hold one entry per channel, which moves
with it. A LitePose concatenates nothing. The first two convolutions have STEM_WIDTH channels in
every network, and the channels of predictions are joints: neither is sliced or sorted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib.models.head import FIRST_PREDICTION, SepConv2d
from lib.models.pose_mobilenet import InvertedBottleneck, LitePose
from lib.utils.device import to_float64
from lib.utils.watch import watch_inputs

Holder = tuple[Tensor, int]  # a tensor and the dimension of the stream's channels


class Stream(NamedTuple):
    """Channels that are permuted together."""

    name: str  # "stem", "stage.0", "stage.0.block.3.hidden", "deconv.1"
    written: list[Holder]  # tensors with an entry per channel
    readers: list[tuple[Any, int]]  # layers that mix the channels, and their dimension in `weight`

    @property
    def holders(self) -> list[Holder]:
        """Every tensor that a permutation of the channels changes."""
        return [*self.written, *((layer.weight, dim) for layer, dim in self.readers)]


class Ends(NamedTuple):
    """The layers at the two ends of a stream."""

    writers: list[tuple[Any, Any]]  # convolutions and their BatchNorms
    readers: list[tuple[Any, int]]  # layers that mix the channels, and their dimension in `weight`
    prediction: SepConv2d | None  # reads them, too; depthwise at first


@torch.no_grad()
def sort_channels(model: LitePose, images: Iterable[Tensor] | None = None) -> None:
    """Sorts channels by descending importance, in place; the network's function is unchanged.

    images: batches (B, 3, H, W) of normalized training images, for the importance by activation of
    every stream. None: importance by weights, of the stem and the stages alone; sorting the others
    by it lost nearly all AP of a published network's slice at .75 of the widths.
    """
    streams = independent_streams(model)
    if images is None:
        names = {"stem", *(f"stage.{index}" for index in range(len(model.stage)))}
        backbone = [stream for stream in streams if stream.name in names]
        ranked = {stream.name: weight_importance(stream) for stream in backbone}
    else:
        variances = _input_variances(model, streams, images)
        ranked = {stream.name: activation_importance(stream, variances) for stream in streams}
    for stream in streams:
        if stream.name in ranked:
            order = ranked[stream.name].argsort(descending=True, stable=True)
            for tensor, dim in stream.holders:
                tensor.copy_(tensor.index_select(dim, order))


def weight_importance(stream: Stream) -> Tensor:
    """(C,) sum of |w| of the first reader: the next stage's first 1x1, or the first deconv."""
    layer, dim = stream.readers[0]
    return layer.weight.abs().sum(dim=[d for d in range(4) if d != dim])


def activation_importance(stream: Stream, variances: dict[Any, Tensor]) -> Tensor:
    """(C,) mean share of the variance of a reader's outputs that comes from each channel.

    variances: (C,) of the inputs of each reader. As if channels were independent, output o has the
    variance sum_c w[o, c]^2 variance[c]. BatchNorm gives all outputs one scale, so each counts
    alike, and so does each reader. A channel that is constant on the images is worth 0.
    """
    total = torch.zeros_like(variances[stream.readers[0][0]])
    for layer, dim in stream.readers:
        weight = layer.weight if dim == 1 else layer.weight.transpose(0, 1)  # (out, C, k, k)
        parts = weight.square().sum(dim=(2, 3)) * variances[layer]
        total += (parts / parts.sum(dim=1, keepdim=True).clamp(min=1e-20)).mean(dim=0)
    return total / len(stream.readers)


def _input_variances(
    model: LitePose, streams: list[Stream], images: Iterable[Tensor]
) -> dict[Any, Tensor]:
    """(C,) variance over images and pixels of the inputs of each reader, in evaluation mode."""
    moments: dict[Any, list[Any]] = {}

    def add(layer: Any, x: Tensor) -> None:
        x = to_float64(x)
        new = [x.numel() // x.shape[1], x.sum(dim=(0, 2, 3)), x.square().sum(dim=(0, 2, 3))]
        moments[layer] = [a + b for a, b in zip(moments.get(layer, [0, 0, 0]), new, strict=True)]

    readers = [layer for stream in streams for layer, _ in stream.readers]
    watch_inputs(model, readers, images, add)
    return {
        layer: (squares / count - (total / count).square()).clamp(min=0).to(layer.weight)
        for layer, (count, total, squares) in moments.items()
    }


def streams_of(model: LitePose) -> list[Stream]:
    """Every stream of the network: stem, each stage, then hidden channels and deconv levels."""
    backbone = [_backbone_stream(model, index) for index in range(len(model.stage) + 1)]
    hidden = [
        _hidden_stream(block, f"stage.{i}.block.{j}.hidden")
        for i, stage in enumerate(model.stage)
        for j, block in enumerate(stage)
    ]
    deconv = [_deconv_stream(model, level) for level in range(len(model.deconv_refined))]
    return [*backbone, *hidden, *deconv]


def independent_streams(model: LitePose) -> list[Stream]:
    """`streams_of`, where a stage that a residual ties to the one before is one stream with it."""
    streams = streams_of(model)
    for index in reversed(range(1, len(model.stage) + 1)):
        if is_tied(model, index):
            one, other = streams[index - 1 : index + 1]
            written, readers = [*one.written, *other.written], [*one.readers, *other.readers]
            streams[index - 1 : index + 1] = [Stream(one.name, written, readers)]
    return streams


def is_tied(model: LitePose, index: int) -> bool:
    """Whether a residual adds the stream before to that of stage `index` (from 1).

    Its first block has a residual if the stage has stride 1 and the width of the stage before.
    """
    return index > 0 and model.stage[index - 1][0].residual


def backbone_ends(model: LitePose, index: int) -> Ends:
    """What writes and reads the stem (index 0) or stage `index` (from 1)."""
    blocks = list(model.stage[index - 1]) if index else []
    writers = [tuple(block.point_conv) for block in blocks] or [tuple(model.first[2:4])]
    is_last = index == len(model.stage)
    first = (model.deconv_refined[0], 0) if is_last else (model.stage[index][0].inv[0], 1)
    readers, prediction = [first, *((block.inv[0], 1) for block in blocks[1:])], None
    if model.fusion and not is_last:
        level = len(model.stage) - 1 - index  # of the head: its raw maps are the backbone's
        if level < len(model.deconv_raw):
            readers.append((model.deconv_raw[level], 0))
        if level > FIRST_PREDICTION:
            prediction = model.final_raw[level - FIRST_PREDICTION - 1]
    return Ends(writers, readers, prediction)


def deconv_ends(model: LitePose, level: int) -> Ends:
    """What writes and reads a deconv level: the sum of its refined and its raw half."""
    halves = [model.deconv_refined, model.deconv_raw] if model.fusion else [model.deconv_refined]
    norm = model.deconv_bnrelu[level][0]
    readers = [(layer, 0) for layer in model.deconv_refined[level + 1 : level + 2]]
    prediction = None
    if level >= FIRST_PREDICTION:
        prediction = model.final_refined[level - FIRST_PREDICTION]
    return Ends([(half[level], norm) for half in halves], readers, prediction)


def _backbone_stream(model: LitePose, index: int) -> Stream:
    """The channels of the stem (index 0) or of stage `index` (from 1)."""
    ends = backbone_ends(model, index)
    written = [holder for conv, bn in ends.writers for holder in _conv_bn(conv, bn)]
    return _to_prediction(
        Stream(f"stage.{index - 1}" if index else "stem", written, ends.readers), ends
    )


def _hidden_stream(block: InvertedBottleneck, name: str) -> Stream:
    """The expanded channels of a block."""
    inv, depthwise = list(block.inv)[:2], list(block.depth_conv)[:2]
    written = [*_conv_bn(*inv), *_conv_bn(*depthwise)]
    return Stream(name, written, [(block.point_conv[0], 1)])


def _deconv_stream(model: LitePose, level: int) -> Stream:
    """The channels of a deconv level."""
    ends = deconv_ends(model, level)
    written = [(conv.weight, 1) for conv, _ in ends.writers]  # transposed: (in, out, k, k)
    written += _norm(ends.writers[0][1])
    return _to_prediction(Stream(f"deconv.{level}", written, ends.readers), ends)


def _to_prediction(stream: Stream, ends: Ends) -> Stream:
    """`stream` and the part of a prediction that is channelwise: filters and BatchNorm."""
    if ends.prediction is None:
        return stream
    conv, bn, _, last = ends.prediction.conv
    written, readers = [*stream.written, *_conv_bn(conv, bn)], [*stream.readers, (last, 1)]
    return stream._replace(written=written, readers=readers)


def _conv_bn(conv: Any, bn: Any) -> list[Holder]:
    return [(conv.weight, 0), *_norm(bn)]


def _norm(bn: Any) -> list[Holder]:
    return [(tensor, 0) for tensor in (bn.weight, bn.bias, bn.running_mean, bn.running_var)]
