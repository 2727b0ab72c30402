"""Optimizer, learning rate schedule and loss scaler."""

from __future__ import annotations

import math

import torch
from torch import nn
from yacs.config import CfgNode

INITIAL_SCALE = 2.0**16  # of the loss, where it is dynamic


def get_optimizer(cfg: CfgNode, model: nn.Module, world_size: int = 1) -> torch.optim.Optimizer:
    """Adam without weight decay (as in the paper), or SGD; LR is scaled to the total batch.

    Fused optimizers update all weights in one pass. With loss scaling they read nothing from the
    device. On untried devices PyTorch chooses, since not all releases have them there.
    """
    train = cfg.TRAIN
    fused = True if next(model.parameters()).device.type in ("cpu", "cuda") else None
    batch = train.IMAGES_PER_GPU * train.ACCUMULATE * world_size
    lr = train.LR * batch / train.LR_BATCH if train.LR_BATCH else train.LR
    if train.OPTIMIZER == "adam":
        return torch.optim.Adam(model.parameters(), lr=lr, fused=fused)
    return torch.optim.SGD(
        model.parameters(),
        lr=lr,
        momentum=train.MOMENTUM,
        weight_decay=train.WD,
        nesterov=train.NESTEROV,
        fused=fused,
    )


def get_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """TRAIN.LR_SCHEDULE with a warm-up; call its `step` after every training step."""
    train = cfg.TRAIN

    def factor(step: int) -> float:
        epoch = train.BEGIN_EPOCH + step / steps_per_epoch
        warmup = warmup_factor(epoch, train.WARMUP_EPOCHS)
        if train.LR_SCHEDULE == "cosine":
            return warmup * cosine_factor(epoch, train.WARMUP_EPOCHS, train.END_EPOCH)
        return warmup * train.LR_FACTOR ** sum(epoch >= milestone for milestone in train.LR_STEP)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def warmup_factor(epoch: float, warmup: float) -> float:
    """Factor of the learning rate that rises linearly from almost 0 to 1 over `warmup` epochs."""
    return min(1.0, (epoch + 1e-3) / warmup) if warmup > 0 else 1.0


def cosine_factor(epoch: float, start: float, end: float) -> float:
    """Factor of the learning rate: half a cosine from 1 at epoch `start` to 0 at epoch `end`."""
    done = min(1.0, max(0.0, (epoch - start) / max(end - start, 1e-9)))
    return 0.5 * (1 + math.cos(math.pi * done))


def get_scaler(cfg: CfgNode, device: torch.device) -> torch.amp.GradScaler:
    """The loss scaler, enabled for float16 (FP16.ENABLED on a GPU); bfloat16 needs no scaling."""
    fp16 = cfg.FP16
    return torch.amp.GradScaler(
        device.type,
        init_scale=INITIAL_SCALE if fp16.DYNAMIC_LOSS_SCALE else fp16.STATIC_LOSS_SCALE,
        growth_interval=2000 if fp16.DYNAMIC_LOSS_SCALE else 2**31 - 1,
        enabled=fp16.ENABLED and device.type == "cuda",
    )
