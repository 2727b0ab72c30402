"""Which layers lose most in 8 bits: they stay in floats."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.deploy.round_weights import in_8_bits, input_ranges


class Damage(NamedTuple):
    """What 8-bit inputs of one layer do to the outputs of the network."""

    layer: str
    share: float  # mean squared change over mean square; the largest over outputs


@torch.no_grad()
def layer_damage(
    network: nn.Module,
    images: Sequence[Tensor],
    joints: int,
    names: Collection[str] | None = None,
) -> list[Damage]:
    """The damage of each convolution, the largest first; only its inputs are in 8 bits.

    joints: of the heatmaps, the first channels of each output; the others are tags, and count
    separately. Ranges are those of `images`, batches (B, 3, H, W), normalized. names: these layers
    alone; default: all.
    """
    layers = {
        layer: name
        for name, layer in network.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and (names is None or name in names)
    }
    ranges = input_ranges(network, layers, images)
    expected = [_parts(network(batch), joints) for batch in images]
    result = []
    for layer, name in layers.items():
        hook = layer.register_forward_pre_hook(
            lambda _, inputs, limits=ranges[layer]: (in_8_bits(inputs[0], *limits),)
        )
        changed = [_parts(network(batch), joints) for batch in images]
        hook.remove()
        result.append(Damage(name, _largest_share(changed, expected)))
    return sorted(result, key=lambda one: -one.share)


def _parts(outputs: Sequence[Tensor], joints: int) -> list[Tensor]:
    """Heatmaps of each output, and its tags where it has some."""
    parts = [part for output in outputs for part in (output[:, :joints], output[:, joints:])]
    return [part for part in parts if part.shape[1]]


def _largest_share(
    changed: Sequence[Sequence[Tensor]], expected: Sequence[Sequence[Tensor]]
) -> float:
    """Over the parts of the outputs; each list holds the parts of one batch."""
    shares = []
    for ours, theirs in zip(zip(*changed, strict=True), zip(*expected, strict=True), strict=True):
        change = sum((a - b).square().mean().item() for a, b in zip(ours, theirs, strict=True))
        shares.append(change / sum(b.square().mean().item() for b in theirs))
    return max(shares)
