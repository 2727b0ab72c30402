"""What several tests need: the recorded numbers and the inputs they were recorded on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / "golden"


def fill(model: nn.Module, seed: int) -> None:
    """Weights that anyone can draw again (tests/golden/README.md)."""
    rng = np.random.default_rng(seed)
    state = model.state_dict()
    for name in sorted(state):
        state[name].copy_(torch.from_numpy(_draw(rng, name, tuple(state[name].shape))))


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith(".weight")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) == 4:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return (rng.standard_normal(shape) * 0.1).astype(np.float32)


def seeded_image(seed: int, size: int) -> Tensor:
    """(1, 3, size, size)"""
    noise = np.random.default_rng(seed + 1).standard_normal((1, 3, size, size))
    return torch.from_numpy(noise.astype(np.float32))
