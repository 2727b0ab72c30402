"""Half precision: one rule for training and evaluation."""

from __future__ import annotations

import torch


def half_precision(device: torch.device, enabled: bool = True) -> torch.autocast:
    """An autocast context: float16 on a GPU, bfloat16 on a CPU; no effect unless `enabled`."""
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=enabled)
