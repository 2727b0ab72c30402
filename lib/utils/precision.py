"""Half precision: one rule for training and evaluation."""

from __future__ import annotations

import torch


def half_precision(device: torch.device, enabled: bool = True) -> torch.autocast:
    """float16 on a GPU, bfloat16 on a CPU, where `enabled`."""
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=enabled)
