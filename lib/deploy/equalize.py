"""Channels of equal ranges before a layer (Nagel et al. 2019, section 4.1).

8 bits have one scale for all channels of a map, so that channels of small values keep few of its
256 steps. A channel may be divided by s where it is computed, if the weights that read it are
multiplied by s: the network stays the same, where nothing but a ReLU is between. For example,
channels of ranges 100 and 2, with s of 1 and .02, both have a range of 100.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from lib.deploy.fold import Convolution
from lib.utils.watch import watch_inputs

LEAST = 0.01  # of the largest range: channels of less, as dead ones, are taken to have this


class Place(NamedTuple):
    """A map whose channels can be multiplied: the convolution that computes it, and its readers."""

    source: nn.Conv2d
    readers: list[nn.Conv2d]


@torch.no_grad()
def equalize(network: fx.GraphModule, name: str, images: Sequence[Tensor]) -> bool:
    """Give the input channels of the layer `name` equal ranges, in place; False if impossible.

    network: in evaluation mode, BatchNorms folded; its outputs stay, up to rounding. The input must
    be that of a convolution, perhaps after a ReLU, and only convolutions may read it. images:
    batches (B, 3, H, W), normalized.
    """
    modules = dict(network.named_modules())
    place = find_place(network.graph, modules, name)
    if place is None:
        return False
    ranges = channel_ranges(network, modules[name], images)
    factors = (ranges / ranges.max()).clamp(min=LEAST)
    place.source.weight /= factors[:, None, None, None]
    if place.source.bias is not None:
        place.source.bias /= factors
    for reader in place.readers:
        depthwise = reader.groups > 1  # (C, 1, k, k), otherwise (out, C, k, k)
        reader.weight *= factors[:, None, None, None] if depthwise else factors[:, None, None]
    return True


def find_place(graph: fx.Graph, modules: Mapping[str, Any], name: str) -> Place | None:
    """Where the input of the layer `name` is computed and read; None where it cannot be scaled."""

    def is_a(kind: Any, node: Any) -> bool:
        return node.op == "call_module" and isinstance(modules[node.target], kind)

    calls = [node for node in graph.nodes if is_a(Convolution, node)]
    if len(calls) > len({node.target for node in calls}):  # one layer reads two maps
        return None
    [layer] = [node for node in calls if node.target == name]
    source = layer.args[0]
    if is_a(nn.ReLU, source):
        source = source.args[0]
    if not is_a(nn.Conv2d, source):
        return None
    readers, users = [], list(source.users)
    while users:
        user = users.pop()
        if is_a(nn.ReLU, user):
            users += user.users
        elif is_a(nn.Conv2d, user):
            readers.append(modules[user.target])
        else:
            return None
    return Place(modules[source.target], readers)


def channel_ranges(network: nn.Module, layer: nn.Module, images: Sequence[Tensor]) -> Tensor:
    """(C,): the largest absolute value of each input channel of `layer`, the mean over images."""
    seen = []
    watch_inputs(network, [layer], images, lambda _, x: seen.append(x.abs().amax(dim=(0, 2, 3))))
    return torch.stack(seen).mean(dim=0)
