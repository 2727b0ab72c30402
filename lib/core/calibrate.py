"""Recalibration of BatchNorm statistics for an extracted sub-network.

An extracted sub-network starts with the supernet's running statistics, which mix those of all
widths. The narrower the sub-network, the less they fit its activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.core.images import normalize
from lib.dataset.mixed import TrainingSet
from lib.dataset.samples import Batch
from lib.utils.device import to_float64


@dataclass(frozen=True)
class Calibration:
    """The training images that sub-networks are recalibrated on."""

    dataset: TrainingSet
    make_loader: Callable[[TrainingSet], Iterable[Batch]]  # the same order each time
    num_images: int

    def __call__(self, model: nn.Module, size: int) -> int:
        """Recalibrate `model` on `size` x `size` crops. Return the number of images used."""
        device = next(model.parameters()).device
        return recalibrate(model, self.batches(size, device), self.num_images)

    def batches(self, size: int, device: torch.device) -> Iterator[Tensor]:
        """The first `num_images` as normalized (B, 3, size, size)."""
        seen = 0
        for batch in self.make_loader(self.dataset.at_size(size)):
            images = batch.images[: self.num_images - seen]
            yield normalize(images.to(device))
            seen += len(images)
            if seen >= self.num_images:
                return


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor], num_images: int) -> int:
    """Set the mean and variance of every BatchNorm layer to those of its inputs.

    batches: (B, 3, H, W) normalized images at the resolution of the network; only the first
    `num_images` are used. The statistics are exact over all images and pixels, not a moving
    average. The training mode of the model is restored. Return the number of images used.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    moments = {layer: Moments(layer) for layer in layers}
    hooks = [layer.register_forward_pre_hook(moments[layer].add) for layer in layers]
    training = model.training
    seen = 0
    try:
        model.train()
        for layer in layers:
            layer.track_running_stats = False  # normalize by the batch, do not update the buffers
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
    """Count, sum and sum of squares of a BatchNorm layer's inputs, per channel, in float64."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.count = 0
        self.total = to_float64(torch.zeros_like(layer.running_mean))
        self.squares = torch.zeros_like(self.total)

    def add(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = to_float64(inputs[0])
        self.count += x.numel() // x.shape[1]
        self.total += x.sum(dim=(0, 2, 3))
        self.squares += x.square().sum(dim=(0, 2, 3))

    def write(self) -> None:
        """Write mean and unbiased variance to the layer's running statistics."""
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        self.running_mean.copy_(mean)
        self.running_var.copy_(variance * self.count / max(1, self.count - 1))
