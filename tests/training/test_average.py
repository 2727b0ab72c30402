"""The EMA follows weights and statistics alike."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib.training.average import WeightAverage


def network(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    for tensor in model.state_dict().values():
        tensor.fill_(value)
    return model


def test_an_ema_is_its_formula():
    decay, values = 0.3, [5.0, 1.0, 7.0, 2.0]
    average = WeightAverage(network(3.0), decay)
    expected = 3.0
    for i, value in enumerate(values):
        now = min(decay, (1 + i) / (10 + i))
        expected = now * expected + (1 - now) * value
        average.update(network(value))
    state = average.network.state_dict()
    for name in ("0.weight", "0.bias", "1.running_mean", "1.running_var"):
        assert state[name].flatten().tolist() == pytest.approx([expected] * state[name].numel())
    assert state["1.num_batches_tracked"] == 2


def test_an_ema_is_a_copy_that_is_not_trained():
    model = network(1.0)
    average = WeightAverage(model, 0.9)
    model[0].weight.data.fill_(9)
    assert torch.equal(average.network[0].weight, torch.ones(3, 2))
    assert not any(p.requires_grad for p in average.network.parameters())
    assert not average.network.training
