"""Refits the layers of a slice, so that each computes nearly what it does in the complete network.

A layer that mixes channels, a 1x1 or a transposed convolution with weights W, reads x of C
channels. In a slice it reads y, the leading c of them, and dropping the columns of the others drops
what they add. But channels depend on each other. The best linear guess of x from y is, by least
squares over the pixels of some images, with the second moments G = E[x x^T] (C, C):

    x ~ P y,    P = G[:, :c] G[:c, :c]^-1    (C, c)

So the slice gets W P in place of the leading columns of W. For example, with c = 1 and x1 = 2 x0 at
every pixel, P is (1, 2)^T, and w0 x0 + w1 x1 becomes (w0 + 2 w1) x0: nothing is lost. As there is
no constant term, the guess is right in the mean where a channel of y is never 0, and the statistics
of the BatchNorms stay nearly true. (Reconstruction of layers after channel pruning: He et al.
2017, section 3.1. There the input of each layer comes from the pruned layers before it; here from
the complete network, so that one pass over the images is enough.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lib.models.pose_mobilenet import LitePose
from lib.models.reorder import streams_of
from lib.utils.device import to_float64
from lib.utils.watch import watch_inputs

RIDGE = 1e-4  # of the mean second moment, added to the diagonal: channels may be equal, or 0


@torch.no_grad()
def refit(subnet: LitePose, complete: LitePose, images: Iterable[Tensor]) -> int:
    """Refit all layers of `subnet` that read fewer channels than in `complete`, in place.

    Return the number of images used.

    subnet: a leading slice of `complete`. Blocks that it skips are not made up for.
    images: batches (B, 3, H, W) of normalized images, at the resolution of the sub-network.
    """
    layers = [whole for _, whole, _ in sliced_readers(subnet, complete)]
    moments, seen = second_moments(complete, layers, images)
    refit_by(moments, subnet, complete)
    return seen


@dataclass
class Refitting:
    """Refits many slices of `complete`; `images(size)` are read once for each resolution."""

    complete: LitePose
    images: Callable[[int], Iterable[Tensor]]  # batches (B, 3, size, size)
    _moments: dict[int, dict[Any, Tensor]] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, subnet: LitePose, size: int) -> None:
        if size not in self._moments:
            layers = [layer for stream in streams_of(self.complete) for layer, _ in stream.readers]
            self._moments[size], _ = second_moments(self.complete, layers, self.images(size))
        refit_by(self._moments[size], subnet, self.complete)


def refit_by(moments: Mapping[Any, Tensor], subnet: LitePose, complete: LitePose) -> None:
    """Refit `subnet` with the second moments of the inputs of layers of `complete`."""
    for layer, whole, dim in sliced_readers(subnet, complete):
        guess = linear_guess(moments[whole], layer.weight.shape[dim])  # (C, c)
        fitted = (to_float64(whole.weight).movedim(dim, -1) @ guess).movedim(-1, dim)
        rows = tuple(slice(size) for size in layer.weight.shape)
        layer.weight.copy_(fitted[rows])


def sliced_readers(subnet: LitePose, complete: LitePose) -> list[tuple[Any, Any, int]]:
    """The layers of `subnet` that read fewer channels, those of `complete`, and the dimension."""
    names: dict[Any, str] = {layer: name for name, layer in subnet.named_modules()}
    triples = []
    for stream in streams_of(subnet):
        for layer, dim in stream.readers:
            whole: Any = complete.get_submodule(names[layer])
            if layer.weight.shape[dim] < whole.weight.shape[dim]:
                triples.append((layer, whole, dim))
    return triples


def second_moments(
    model: LitePose, layers: list[Any], images: Iterable[Tensor]
) -> tuple[dict[Any, Tensor], int]:
    """(C, C) sum over images and pixels of x x^T, x the input of each layer; and the images."""
    sums: dict[Any, Tensor] = {}

    def add(layer: Any, x: Tensor) -> None:
        x = x.transpose(0, 1).flatten(1)  # (C, pixels)
        product = to_float64(x @ x.T)
        sums[layer] = sums[layer] + product if layer in sums else product

    seen = watch_inputs(model, layers, images, add)
    return sums, seen


def linear_guess(moments: Tensor, count: int) -> Tensor:
    """P (C, c): the least squares guess P y of x from its leading `count` channels y."""
    known = moments[:count, :count]
    ridge = RIDGE * known.diagonal().mean().clamp(min=1e-20)
    regular = known + ridge * torch.eye(count, dtype=known.dtype, device=known.device)
    return torch.linalg.solve(regular, moments[:count]).T
