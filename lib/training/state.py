"""The whole state of a training run: saved, and put back.

Nothing that a step draws comes from a generator whose state would have to be kept: crops are a
function of (seed, epoch, picture), architectures of (seed, step). PyTorch's generators are saved
all the same, for whatever a network may draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lib.training.average import WeightAverage
from lib.utils.checkpoint import fit_weights, load_checkpoint, save_checkpoint, unwrap

REQUIRED = ("epoch", "best_ap", "state_dict", "optimizer", "scheduler", "scaler", "random")


class Layout(NamedTuple):
    """What the steps of an epoch are made of; a place within it means nothing in another one."""

    pictures: int
    processes: int
    images_per_gpu: int
    accumulate: int

    def __str__(self) -> str:
        return (
            f"{self.pictures} pictures, {self.processes} processes x TRAIN.IMAGES_PER_GPU "
            f"{self.images_per_gpu} x TRAIN.ACCUMULATE {self.accumulate}"
        )


@dataclass
class TrainingState:
    """Everything that a run needs to go on where it stopped."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler
    arch: dict[str, Any] | None = None
    config: str = ""  # yaml, for the reader of the file
    epoch: int = 0  # epochs done
    step: int = 0  # steps done in the epoch after them
    layout: Layout | None = None
    average: WeightAverage | None = None
    best_ap: float = -1.0

    @property
    def shown(self) -> nn.Module:
        """The network that is evaluated and handed out: the average, where there is one."""
        return self.average.network if self.average else unwrap(self.model)


def save_training(state: TrainingState, path: str | Path, keep: int = 1) -> None:
    """Write what `resume` reads; `state_dict` alone is what `load_weights` reads.

    `keep`: as in `save_checkpoint`. With an average, `state_dict` is the average, and the weights
    that are trained are in `trained`.
    """
    averaged = {}
    if state.average:
        averaged = {
            "trained": unwrap(state.model).state_dict(),
            "average_updates": state.average.updates,
        }
    save_checkpoint(
        path,
        keep,
        epoch=state.epoch,
        step=state.step,
        layout=list(state.layout or ()),
        best_ap=state.best_ap,
        arch=state.arch,
        config=state.config,
        state_dict=state.shown.state_dict(),
        optimizer=state.optimizer.state_dict(),
        scheduler=state.scheduler.state_dict(),
        scaler=state.scaler.state_dict(),
        random={"torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()},
        **averaged,
    )


def resume(state: TrainingState, path: str | Path) -> None:
    """Put `state` where the checkpoint at `path` was saved, random numbers included."""
    saved = load_checkpoint(path)
    _check_fits(state, saved, path)
    fit_weights(state.model, saved["state_dict"], str(path))
    if state.average:
        state.average.restart(state.model, saved.get("average_updates", 0))
    if "trained" in saved:
        fit_weights(state.model, saved["trained"], str(path))
    state.optimizer.load_state_dict(saved["optimizer"])
    # The rate itself stays as configured now; where the schedule stands is the checkpoint's.
    state.scheduler.load_state_dict({**saved["scheduler"], "base_lrs": state.scheduler.base_lrs})
    place_schedule(state, state.scheduler.last_epoch)
    state.scaler.load_state_dict(saved["scaler"])
    state.epoch, state.best_ap = saved["epoch"], saved["best_ap"]
    state.step = saved.get("step", 0)
    torch.set_rng_state(saved["random"]["torch"])
    if len(saved["random"]["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["random"]["cuda"])


def place_schedule(state: TrainingState, step: int) -> None:
    """Let the next step have the learning rate of `step`, counted from the start of the run."""
    scheduler = state.scheduler
    scheduler.last_epoch = step  # PyTorch's name, whatever is counted
    for group, base, factor in zip(
        *(state.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas), strict=True
    ):
        group["lr"] = base * factor(step)


def _check_fits(state: TrainingState, saved: Mapping[str, Any], path: str | Path) -> None:
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
    if saved.get("step", 0) and saved["layout"] != list(state.layout or ()):
        raise ValueError(
            f"{path} was saved within an epoch of {Layout(*saved['layout'])}; now there are "
            f"{state.layout}; go on with what it was, or from a checkpoint between epochs"
        )


def _kind(optimizer: Mapping[str, Any]) -> set[str]:
    """What tells Adam from SGD in a state dict: a setting that only one of them has."""
    return {"betas", "momentum"} & set(optimizer["param_groups"][0])
