"""Checkpoints: tensors and plain values only, written whole or not at all."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

RESUMED = ("epoch", "best_ap", "optimizer", "scheduler", "scaler", "random")
WRAPPERS = ("module.", "1.")  # left by DataParallel and by the original's wrapping in a Sequential


def save_checkpoint(path: str | Path, **state: Any) -> None:
    """Write beside the target, then rename: a killed job never leaves half a file."""
    _save(Path(path), state)


def save_weights(path: str | Path, model: nn.Module) -> None:
    """The bare state dict of `model`, as published ones are; written whole or not at all."""
    _save(Path(path), unwrap(model).state_dict())


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU.

    Only tensors and plain values are unpickled. ValueError names the file when it is missing,
    damaged, or holds anything else (such a file is never executed).
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {path}") from None
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} is not a checkpoint of tensors and plain values; refused to unpickle it"
        ) from None
    except Exception as error:  # a damaged pickle makes its reader stumble in any way
        raise ValueError(f"{path} is damaged or no checkpoint: {_first_line(error)}") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a checkpoint")
    return state


def hash_of(path: str | Path) -> str:
    """sha256 of a file."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in `path`, bare or inside a full checkpoint, wrappers' prefixes stripped."""
    state = load_checkpoint(path)
    if isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict; its keys: {', '.join(map(str, state))[:80]}")
    return strip_wrappers(state)


def strip_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as the bare network has them: a prefix that every name has is taken off."""
    state = dict(state)
    while prefix := next((p for p in WRAPPERS if all(k.startswith(p) for k in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def load_weights(model: nn.Module, path: str | Path, skip: tuple[str, ...] = ()) -> None:
    """Fill `model` from `path`; every tensor must fit, but for names that start with `skip`.

    Raises ValueError naming the first tensors that are missing, unexpected or of another shape.
    """
    model = unwrap(model)
    own = model.state_dict()
    optional = getattr(model, "optional_weights", ())
    loaded = {
        name: tensor
        for name, tensor in read_weights(path).items()
        if not (skip and name.startswith(skip))
        and (name in own or not any(part in name for part in optional))
    }
    wanted = [name for name in own if not (skip and name.startswith(skip))]
    missing = [name for name in wanted if name not in loaded]
    unexpected = [name for name in loaded if name not in own]
    reshaped = [
        f"{name} {tuple(loaded[name].shape)} for {tuple(own[name].shape)}"
        for name in wanted
        if name in loaded and loaded[name].shape != own[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(problems.values()):
        told = "; ".join(
            f"{len(names)} {problem} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
            for problem, names in problems.items()
            if names
        )
        raise ValueError(f"{path} does not fit this model: {told}")
    model.load_state_dict(loaded, strict=not skip)


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


def save_training(state: TrainingState, path: str | Path) -> None:
    """Write what `resume` reads; `state_dict` alone is what `load_weights` reads."""
    save_checkpoint(
        path,
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
    if lacking := [key for key in RESUMED if key not in saved]:
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
    load_weights(state.model, path)
    state.optimizer.load_state_dict(saved["optimizer"])
    # The rate itself stays as configured now; where the schedule stands is the checkpoint's.
    state.scheduler.load_state_dict({**saved["scheduler"], "base_lrs": state.scheduler.base_lrs})
    state.scaler.load_state_dict(saved["scaler"])
    state.epoch, state.best_ap = saved["epoch"], saved["best_ap"]
    torch.set_rng_state(saved["random"]["torch"])
    if len(saved["random"]["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["random"]["cuda"])


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, or the model itself."""
    inner = getattr(model, "module", None)
    return inner if isinstance(inner, nn.Module) else model


def _kind(optimizer: Mapping[str, Any]) -> set[str]:
    """What tells Adam from SGD in a state dict: a setting that only one of them has."""
    return {"betas", "momentum"} & set(optimizer["param_groups"][0])


def _save(path: Path, state: Mapping[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    partial.replace(path)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
