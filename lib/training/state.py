"""The state of a training run: saved, and resumed bit for bit.

Augmentation is a function of (seed, epoch, image), the sampled architecture of (seed, step), so
neither has a generator to save. PyTorch's generators are saved in case a network uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lib.core.trainer import StepState
from lib.training.average import WeightAverage
from lib.utils.checkpoint import fit_weights, load_checkpoint, save_checkpoint, unwrap

REQUIRED = ("epoch", "best_ap", "state_dict", "optimizer", "scheduler", "scaler", "random")


class Layout(NamedTuple):
    """How an epoch is divided into steps; a resume within an epoch needs an equal layout."""

    images: int
    processes: int
    images_per_gpu: int
    accumulate: int

    def __str__(self) -> str:
        return (
            f"{self.images} images, {self.processes} processes x TRAIN.IMAGES_PER_GPU "
            f"{self.images_per_gpu} x TRAIN.ACCUMULATE {self.accumulate}"
        )


@dataclass
class TrainingState(StepState):
    """Everything that a checkpoint stores."""

    arch: dict[str, Any] | None = None  # None: MODEL.EXTRA describes the network
    config: str = ""  # as YAML text
    layout: Layout | None = None
    average: WeightAverage | None = None
    best_ap: float = -1.0

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and saved as weights: the EMA, if there is one."""
        return self.average.network if self.average else unwrap(self.model)


def save_training(state: TrainingState, path: str | Path, keep: int = 1) -> None:
    """Write a checkpoint for `resume`; `fit_weights` reads its `state_dict`.

    keep: as in `save_checkpoint`. With an EMA, the key `state_dict` is the EMA and `trained` the
    trained weights.
    """
    ema = {}
    if state.average:
        ema = {
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
        state_dict=state.evaluated.state_dict(),
        optimizer=state.optimizer.state_dict(),
        scheduler=state.scheduler.state_dict(),
        scaler=state.scaler.state_dict(),
        random={"torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()},
        **ema,
    )


def resume(state: TrainingState, path: str | Path) -> None:
    """Restore `state` and PyTorch's random generators from the checkpoint at `path`."""
    saved = load_checkpoint(path)
    _check_fits(state, saved, path)
    fit_weights(state.model, saved["state_dict"], str(path))
    if state.average:
        state.average.restart(state.model, saved.get("average_updates", 0))
    if "trained" in saved:
        fit_weights(state.model, saved["trained"], str(path))
    state.optimizer.load_state_dict(saved["optimizer"])
    # The learning rate comes from the config, the position in the schedule from the checkpoint.
    state.scheduler.load_state_dict({**saved["scheduler"], "base_lrs": state.scheduler.base_lrs})
    place_schedule(state, state.scheduler.last_epoch)
    state.scaler.load_state_dict(saved["scaler"])
    state.epoch, state.best_ap = saved["epoch"], saved["best_ap"]
    state.step = saved.get("step", 0)
    torch.set_rng_state(saved["random"]["torch"])
    if len(saved["random"]["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["random"]["cuda"])


def place_schedule(state: TrainingState, step: int) -> None:
    """Set schedule and learning rate to those of `step`, counted from the start of the run."""
    scheduler = state.scheduler
    scheduler.last_epoch = step  # PyTorch's name; here it counts steps
    groups = state.optimizer.param_groups
    for group, base, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
        group["lr"] = base * factor(step)


def _check_fits(state: TrainingState, saved: Mapping[str, Any], path: str | Path) -> None:
    if missing := [key for key in REQUIRED if key not in saved]:
        raise ValueError(f"{path} cannot be resumed from: it lacks {', '.join(missing)}")
    if saved.get("arch") != state.arch:
        raise ValueError(
            f"{path} has another architecture; choose another OUTPUT_DIR, "
            "or set AUTO_RESUME False to start over"
        )
    if _kind(saved["optimizer"]) != _kind(state.optimizer.state_dict()):
        raise ValueError(
            f"{path} was trained with another optimizer; keep TRAIN.OPTIMIZER, choose another "
            "OUTPUT_DIR, or set AUTO_RESUME False to start over"
        )
    if saved.get("step", 0) and saved["layout"] != list(state.layout or ()):
        raise ValueError(
            f"{path} was saved within an epoch of {Layout(*saved['layout'])}; the config has "
            f"{state.layout}; use equal settings, or a checkpoint saved at the end of an epoch"
        )


def _kind(optimizer: Mapping[str, Any]) -> set[str]:
    """{"betas"} for Adam, {"momentum"} for SGD: settings that only one of them has."""
    return {"betas", "momentum"} & set(optimizer["param_groups"][0])
