"""Sorting channels by importance, so that a leading slice holds the most important ones.

A stage's channels pass through all its blocks, to the next stage and to the head. A permutation of
all tensors that write or read them leaves the function unchanged. For the channels of stage 1:

    written by   rows of every `point_conv` 1x1 of the stage, and their BatchNorms
    read by      columns of the `inv` 1x1 of its further blocks and of the first block of stage 2,
                 the raw half of the head: deconv_raw.2 and final_raw.0
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib.models.pose_mobilenet import LitePose


class Stream(NamedTuple):
    """The tensors that hold one stage's channels, as (tensor, dimension of the channels)."""

    holders: list[tuple[Tensor, int]]
    importance: Tensor  # (C,)


@torch.no_grad()
def sort_channels(model: LitePose) -> None:
    """Sorts the channels of the stem and of each stage by descending importance, in place.

    The importance of a channel is the sum of |w| of its first reader in the next stage: the 1x1 of
    the first block; after the last stage, the first deconv. The network's function is unchanged.
    """
    for index in range(len(model.stage) + 1):
        stream = stream_of(model, index)
        order = stream.importance.argsort(descending=True, stable=True)
        for tensor, dim in stream.holders:
            tensor.copy_(tensor.index_select(dim, order))


def stream_of(model: LitePose, index: int) -> Stream:
    """The channels of the stem (index 0) or of stage `index` (from 1)."""
    last = len(model.stage)
    holders = list(_producers(model, index))
    if index > 0:
        blocks = list(model.stage[index - 1])
        holders += [(block.inv[0].weight, 1) for block in blocks[1:]]
    reader = model.stage[index][0].inv[0] if index < last else model.deconv_refined[0]
    dim = 1 if index < last else 0
    holders.append((reader.weight, dim))
    holders += _head_readers(model, index)
    others = [d for d in range(4) if d != dim]
    return Stream(holders, reader.weight.abs().sum(dim=others))


def _producers(model: LitePose, index: int) -> Iterator[tuple[Tensor, int]]:
    """The writers of the channels: rows of 1x1 convolutions, and their BatchNorms."""
    if index == 0:
        writers = [(model.first[2], model.first[3])]
    else:
        writers = [tuple(block.point_conv) for block in model.stage[index - 1]]
    for conv, bn in writers:
        yield conv.weight, 0
        yield from _norm_tensors(bn)


def _head_readers(model: LitePose, index: int) -> list[tuple[Tensor, int]]:
    """The raw half of the head: deconv levels read stages 3, 2, 1, predictions 1 and the stem.

    Index 0 is the stem, as in `stream_of`.
    """
    holders: list[tuple[Tensor, int]] = []
    if not model.fusion:
        return holders
    level = len(model.stage) - 1 - index
    if index > 0 and 0 <= level < len(model.deconv_raw):
        holders.append((model.deconv_raw[level].weight, 0))
    if index < len(model.final_raw):
        depthwise, bn, _, pointwise = model.final_raw[len(model.final_raw) - 1 - index].conv
        holders.append((depthwise.weight, 0))
        holders += _norm_tensors(bn)
        holders.append((pointwise.weight, 1))
    return holders


def _norm_tensors(bn: Any) -> list[tuple[Tensor, int]]:
    return [(tensor, 0) for tensor in (bn.weight, bn.bias, bn.running_mean, bn.running_var)]
