"""The whole state of a training run: saved, and put back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.utils.checkpoint import fit_weights, load_checkpoint, save_checkpoint, unwrap

REQUIRED = ("epoch", "best_ap", "state_dict", "optimizer", "scheduler", "scaler", "random")


@dataclass
class TrainingState:
    """Everything that a run needs to go on where it stopped."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    arch: dict[str, Any] | None = None
    config: str = ""  # yaml, for the reader of the file
    epoch: int = 0  # epochs done
    best_ap: float = -1.0


def save_training(state: TrainingState, path: str | Path, keep: int = 1) -> None:
    """Write what `resume` reads; `state_dict` alone is what `load_weights` reads.

    `keep`: as in `save_checkpoint`.
    """
    save_checkpoint(
        path,
        keep,
        epoch=state.epoch,
        best_ap=state.best_ap,
        arch=state.arch,
        config=state.config,
        state_dict=unwrap(state.model).state_dict(),
        optimizer=state.optimizer.state_dict(),
        scheduler=state.scheduler.state_dict(),
        scaler=state.scaler.state_dict(),
        random={"torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()},
    )


def resume(state: TrainingState, path: str | Path) -> None:
    """Put `state` where the checkpoint at `path` was saved, random numbers included."""
    saved = load_checkpoint(path)
    if lacking := [key for key in REQUIRED if key not in saved]:
        raise ValueError(f"{path} cannot be resumed from: it lacks {', '.join(lacking)}")
    if saved.get("arch") != state.arch:
        raise ValueError(
            f"{path} is of another architecture; choose another OUTPUT_DIR, "
            "or set AUTO_RESUME False to start anew"
        )
    if _kind(saved["optimizer"]) != _kind(state.optimizer.state_dict()):
        raise ValueError(
            f"{path} was trained with another optimizer; keep TRAIN.OPTIMIZER, choose another "
            "OUTPUT_DIR, or set AUTO_RESUME False to start anew"
        )
    fit_weights(state.model, saved["state_dict"], str(path))
    state.optimizer.load_state_dict(saved["optimizer"])
    # The rate itself stays as configured now; where the schedule stands is the checkpoint's.
    state.scheduler.load_state_dict({**saved["scheduler"], "base_lrs": state.scheduler.base_lrs})
    state.scaler.load_state_dict(saved["scaler"])
    state.epoch, state.best_ap = saved["epoch"], saved["best_ap"]
    torch.set_rng_state(saved["random"]["torch"])
    if len(saved["random"]["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["random"]["cuda"])


def _kind(optimizer: Mapping[str, Any]) -> set[str]:
    """What tells Adam from SGD in a state dict: a setting that only one of them has."""
    return {"betas", "momentum"} & set(optimizer["param_groups"][0])
