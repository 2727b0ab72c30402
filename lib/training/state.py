"""The state of a training run: saved, and resumed bit for bit.

Augmentation is a function of (seed, epoch, image), the sampled architecture of (seed, step), so
neither has a generator to save. PyTorch's generators are saved in case a network uses them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lib.core.trainer import StepState
from lib.models.arch import ArchSpec
from lib.training.average import WeightAverage
from lib.training.compare import (
    ORDER,
    REMEDY,
    SCORE,
    check_same,
    check_same_meaning,
    differences,
)
from lib.utils.checkpoint import (
    check_finite,
    fit_weights,
    load_checkpoint,
    save_checkpoint,
    unwrap,
)
from lib.utils.recorded import config_of, typed
from lib.utils.text import brief, first_line

logger = logging.getLogger(__name__)

REQUIRED = ("epoch", "best_ap", "state_dict", "optimizer", "scheduler", "scaler", "random")
NODES = ("state_dict", "trained", "optimizer", "scheduler", "scaler", "random")
COUNTS = ("epoch", "step", "average_updates", "stale")
MOMENTS = {  # a setting that only one optimizer has -> what it keeps of each parameter
    "betas": ("step", "exp_avg", "exp_avg_sq"),
    "momentum": ("momentum_buffer",),
}


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
    stale: int = 0  # evaluations since the best AP

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
        stale=state.stale,
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
    """Restore `state` and PyTorch's random generators from the checkpoint at `path`.

    Weights, moments of the optimizer and the position come from the checkpoint, settings from the
    config. ValueError, in one line, if it is damaged or of a run with other outputs.
    """
    saved = load_checkpoint(path)
    _check_fields(saved, path)
    _check_fits(state, saved, path)
    fit_weights(state.model, saved, path)
    if state.average:
        state.average.restart(state.model, saved.get("average_updates", 0))
    if "trained" in saved:
        fit_weights(state.model, {"state_dict": saved["trained"]}, path)
    try:
        _restore(state, saved, path)
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        reason = first_line(error)
        raise ValueError(f"{path} is damaged, it cannot be resumed from: {reason}") from None
    within = f" and {state.step} steps" if state.step else ""
    logger.info("resumed from %s after epoch %d%s", path, state.epoch, within)


def place_schedule(state: TrainingState, step: int) -> None:
    """Set schedule and learning rate to those of `step`, counted from the start of the run."""
    scheduler = state.scheduler
    scheduler.last_epoch = step  # PyTorch's name; here it counts steps
    groups = state.optimizer.param_groups
    for group, base, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
        group["lr"] = base * factor(step)
    scheduler._last_lr = [group["lr"] for group in groups]


def _restore(state: TrainingState, saved: Mapping[str, Any], path: str | Path) -> None:
    """Everything but weights; what is no checkpoint's raises any of Python's errors."""
    state.optimizer.load_state_dict(_moments(state, saved["optimizer"], path))
    state.scheduler._step_count = _number(saved["scheduler"]["_step_count"])
    place_schedule(state, _number(saved["scheduler"]["last_epoch"]))
    if state.scaler.is_enabled():
        names = state.scaler.state_dict()
        state.scaler.load_state_dict({name: _number(saved["scaler"][name]) for name in names})
    state.epoch, state.best_ap = saved["epoch"], saved["best_ap"]
    state.step, state.stale = saved.get("step", 0), saved.get("stale", 0)
    for key, old, new in differences(SCORE, config_of(saved, path), _config_of(state)):
        logger.warning(
            "%s is %s, it was %s: best AP %.3f starts over", key, new, old, state.best_ap
        )
        state.best_ap, state.stale = -1.0, 0
        break
    random = saved["random"]
    torch.set_rng_state(random["torch"])
    if len(random["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(random["cuda"])


def _number(value: Any) -> Any:
    if type(value) not in (int, float):
        raise TypeError(f"{brief(value)} is not numeric")
    return value


def _moments(state: TrainingState, saved: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """The state of the optimizer with the settings of the config and the moments of `saved`."""
    ours = state.optimizer.state_dict()
    parameters = [one for group in state.optimizer.param_groups for one in group["params"]]
    kind = _kind(ours)
    assert kind
    names = MOMENTS[kind]
    moments = {
        index: {name: saved["state"][index][name] for name in names} for index in saved["state"]
    }
    for index, tensors in moments.items():
        for name, tensor in tensors.items():
            wanted = torch.Size() if name == "step" else parameters[index].shape
            if tensor.shape != wanted:
                raise TypeError(f"a moment {name} of shape {tuple(tensor.shape)}")
        check_finite(tensors, path)
    return {"state": moments, "param_groups": ours["param_groups"]}


def _check_fields(saved: Mapping[str, Any], path: str | Path) -> None:
    """ValueError if a part of the checkpoint is missing, or of another type than was saved."""
    if missing := [key for key in REQUIRED if key not in saved]:
        raise ValueError(f"{path} cannot be resumed from: it lacks {', '.join(missing)}")
    layout = [] if saved.get("layout") is None else saved["layout"]
    best_ap = saved["best_ap"]
    is_layout = type(layout) is list and all(type(number) is int for number in layout)
    wrong = [
        *(key for key in NODES if not isinstance(saved.get(key, {}), dict)),
        *(key for key in COUNTS if type(saved.get(key, 0)) is not int or saved.get(key, 0) < 0),
        *(["layout"] if not is_layout or len(layout) not in (0, len(Layout._fields)) else []),
        *(["best_ap"] if type(best_ap) not in (int, float) or not isfinite(best_ap) else []),
    ]
    if wrong:
        value = saved[wrong[0]]
        raise ValueError(f"{path} is damaged, it cannot be resumed from: {wrong[0]} {brief(value)}")


def _check_fits(state: TrainingState, saved: Mapping[str, Any], path: str | Path) -> None:
    """ValueError if the checkpoint is of another network, optimizer or division of the epoch."""
    recorded, current = config_of(saved, path), _config_of(state)
    check_same_meaning(recorded, current, path)
    if _arch_of(saved, path) != state.arch:
        raise ValueError(f"{path} has another architecture; {REMEDY}")
    if _kind(saved["optimizer"]) != _kind(state.optimizer.state_dict()):
        raise ValueError(
            f"{path} was trained with another optimizer; keep TRAIN.OPTIMIZER, {REMEDY}"
        )
    if not saved.get("step"):
        return
    if saved.get("layout") != list(state.layout or ()):
        layout = Layout(*saved["layout"]) if saved.get("layout") else "unknown layout"
        raise ValueError(
            f"{path} was saved within an epoch of {layout}; the config has "
            f"{state.layout}; use equal settings, or a checkpoint saved at the end of an epoch"
        )
    check_same(ORDER, recorded, current, path, where=" until the end of the epoch")


def _arch_of(saved: Mapping[str, Any], path: str | Path) -> dict[str, Any] | None:
    tree = typed(saved, "arch", dict, path)
    try:
        return ArchSpec.from_dict(tree).to_dict() if tree else None
    except ValueError as error:
        raise ValueError(f"the architecture in {path}: {error}") from None


def _config_of(state: TrainingState) -> dict[str, Any]:
    return config_of({"config": state.config}, "the config")


def _kind(optimizer: Mapping[str, Any]) -> str | None:
    """ "betas" for Adam, "momentum" for SGD: a setting that only one of them has."""
    groups = optimizer.get("param_groups")
    if not (isinstance(groups, list) and groups and isinstance(groups[0], dict)):
        return None
    return next((name for name in MOMENTS if name in groups[0]), None)
