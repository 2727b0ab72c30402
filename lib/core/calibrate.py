"""BatchNorm statistics of a network as it is, not as the supernet around it was.

A cut sub-network keeps the supernet's running statistics, which mix those of all widths; the
narrower it is, the further they are from its own.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor], num_images: int) -> int:
    """Set every BatchNorm's mean and variance to those over the images; how many were seen.

    batches: (B, 3, H, W) normalized images at the resolution the network is for; read until
    `num_images` are seen. Exact over all images and pixels, not a moving average. The model is
    left in the mode it came in.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    moments = {layer: Moments(layer) for layer in layers}
    hooks = [layer.register_forward_pre_hook(moments[layer].add) for layer in layers]
    training = model.training
    seen = 0
    try:
        model.train()
        for layer in layers:
            layer.track_running_stats = False  # batches are normalized by their own
        for images in batches:
            images = images[: num_images - seen]
            model(images)
            seen += len(images)
            if seen >= num_images:
                break
    finally:
        for layer in layers:
            layer.track_running_stats = True
        for hook in hooks:
            hook.remove()
        model.train(training)
    if seen:
        for moment in moments.values():
            moment.write()
    return seen


class Moments:
    """Count, sum and sum of squares of what a BatchNorm layer gets, per channel, in float64."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.count = 0
        self.total = torch.zeros_like(layer.running_mean, dtype=torch.float64)
        self.squares = torch.zeros_like(self.total)

    def add(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double()
        self.count += x.numel() // x.shape[1]
        self.total += x.sum(dim=(0, 2, 3))
        self.squares += x.square().sum(dim=(0, 2, 3))

    def write(self) -> None:
        """Mean and unbiased variance, as BatchNorm keeps them."""
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        self.layer.running_mean.copy_(mean)
        self.layer.running_var.copy_(variance * self.count / max(1, self.count - 1))
