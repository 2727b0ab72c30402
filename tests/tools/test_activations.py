"""Memory is counted while something holds it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import network, tiny_config
from tools.benchmark.activations import PeakActivations

MAP = 4 * 16 * 16  # bytes of one channel


def peak_of(model: nn.Module, size: int) -> int:
    """Of one forward pass."""
    device = next(model.parameters()).device
    with torch.no_grad(), PeakActivations() as memory:
        model.eval()(torch.zeros(1, 3, size, size, device=device))
    return memory.peak


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


@pytest.mark.parametrize(
    ("model", "channels"),
    [
        (nn.Conv2d(3, 5, 1), 3 + 5),
        (nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU()), 3 + 5 + 5),  # the caller holds the image
        (nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(inplace=True)), 3 + 5),
        (nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1), nn.Conv2d(2, 3, 1)), 3 + 5 + 2),
        (Residual(), 3 + 5 + 3),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Unflatten(1, (8, 16, 16))), 3 + 8),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_map_counts_while_it_is_needed(model, channels, device):
    copied = copy.deepcopy(model).to(device)  # a model on "meta" has no way back
    assert peak_of(copied, 16) == channels * MAP


def test_twice_the_side_is_four_times_the_memory(tmp_path):
    cfg = tiny_config(tmp_path, tmp_path)
    with torch.device("meta"):
        model = network(cfg)
        small, large = (peak_of(model, size) for size in (64, 128))
    assert large == pytest.approx(4 * small, rel=0.01)  # statistics of BatchNorms do not grow


def test_weights_are_none_of_it():
    wide = nn.Conv2d(3, 1, 15, padding=7)
    assert peak_of(wide, 16) == peak_of(nn.Conv2d(3, 1, 1), 16) == (3 + 1) * MAP
