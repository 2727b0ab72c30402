"""The moving average of a network's weights, which often evaluates better than the last ones."""

from __future__ import annotations

import copy

import torch
from torch import nn

from lib.utils.checkpoint import unwrap


class WeightAverage:
    """Exponential moving average of parameters and of BatchNorm statistics alike.

    Statistics belong to the weights that made them, so both follow with the same delay; counters
    are copied. In the first steps the decay rises as (1 + updates) / (10 + updates), so that the
    random beginning is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.network = copy.deepcopy(unwrap(model)).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Call after each step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        means, latest = self.network.state_dict(), unwrap(model).state_dict()
        real = [name for name, mean in means.items() if mean.is_floating_point()]
        torch._foreach_lerp_([means[n] for n in real], [latest[n] for n in real], 1 - decay)
        for name in means.keys() - set(real):
            means[name].copy_(latest[name])

    def restart(self, model: nn.Module, updates: int = 0) -> None:
        """Let the average be `model`, as after so many updates."""
        self.network.load_state_dict(unwrap(model).state_dict())
        self.updates = updates
