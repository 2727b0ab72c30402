"""Looking at the inputs of layers while a network computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn


def watch_inputs(
    model: nn.Module,
    layers: Iterable[Any],
    images: Iterable[Tensor],
    see: Callable[[Any, Tensor], None],
) -> int:
    """Call `see(layer, x)` with each input x of `layers`, in evaluation mode.

    The training mode of the model is restored. Return the number of images.
    """
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: see(layer, inputs[0]))
        for layer in layers
    ]
    training, seen = model.training, 0
    try:
        model.eval()
        for batch in images:
            model(batch)
            seen += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    return seen
