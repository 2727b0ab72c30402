"""EMA: the exponential moving average of a network's weights, often more accurate than the last."""

from __future__ import annotations

import copy

import torch
from torch import nn

from lib.utils.checkpoint import unwrap


class WeightAverage:
    """The EMA of parameters and BatchNorm statistics, as a network in evaluation mode.

    BatchNorm statistics fit the weights they were computed with, so both use the same decay;
    integer counters are copied. The decay is at most (1 + updates) / (10 + updates), so that the
    initial weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.network = copy.deepcopy(unwrap(model)).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the weights of `model` to the EMA; call it after each step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        means, latest = self.network.state_dict(), unwrap(model).state_dict()
        real = [name for name, mean in means.items() if mean.is_floating_point()]
        old, new = [means[name] for name in real], [latest[name] for name in real]
        torch._foreach_lerp_(old, new, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for name in means.keys() - set(real):
            means[name].copy_(latest[name])

    def restart(self, model: nn.Module, updates: int = 0) -> None:
        """Set the EMA to the weights of `model`, and the number of updates."""
        self.network.load_state_dict(unwrap(model).state_dict())
        self.updates = updates
