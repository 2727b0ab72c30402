"""Half precision: one rule for training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from yacs.config import CfgNode


def half_precision(device: torch.device, enabled: bool = True) -> torch.autocast:
    """float16 on a GPU, bfloat16 on a CPU, where `enabled`."""
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=enabled)


@dataclass
class Precision:
    """Of a training (FP16.*): half precision, on a GPU with loss scaling."""

    device: torch.device
    enabled: bool = False
    static_scale: float = 1.0
    dynamic: bool = False

    @classmethod
    def from_config(cls, cfg: CfgNode, device: torch.device) -> Precision:
        fp16 = cfg.FP16
        return cls(
            device,
            enabled=fp16.ENABLED,
            static_scale=fp16.STATIC_LOSS_SCALE,
            dynamic=fp16.DYNAMIC_LOSS_SCALE,
        )

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(
            self.device.type,
            init_scale=2.0**16 if self.dynamic else self.static_scale,
            growth_interval=2000 if self.dynamic else 2**31 - 1,
            enabled=self.enabled and self.device.type == "cuda",
        )

    def autocast(self) -> torch.autocast:
        return half_precision(self.device, self.enabled)
