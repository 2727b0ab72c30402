"""Checkpoints: tensors and plain values only, written as a whole or not at all."""

from __future__ import annotations

import io
import logging
import math
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.utils.archive import check_archive, plain
from lib.utils.files import atomic_write, versions_of
from lib.utils.reading import open_file
from lib.utils.safetensors_file import read_safetensors
from lib.utils.shipped import SUFFIX, check_card, find_weights
from lib.utils.text import first_line

logger = logging.getLogger(__name__)

WRAPPERS = ("module.", "1.")  # prefixes of DataParallel and of the original's nn.Sequential


def save_checkpoint(path: str | Path, keep: int = 1, **state: Any) -> None:
    """Save `state` to `path` atomically: a killed job never leaves an incomplete file.

    keep: number of files to keep; the previous one is renamed to PATH.1, that one to PATH.2, ...
    ValueError if the file cannot be written; existing files stay intact.
    """
    _save(Path(path), state, keep)


def save_weights(path: str | Path, model: nn.Module) -> None:
    """Save only the state dict of `model`, like published weights."""
    _save(Path(path), unwrap(model).state_dict())


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dict that `save_checkpoint` wrote, with its tensors on the CPU.

    path: a checkpoint, bare weights, *.safetensors, or the name of weights of the project
    (`find_weights`). Only tensors and plain values are unpickled. ValueError names a file that is
    missing, damaged or holds anything else (code in it is never executed).
    """
    path = find_weights(path)
    if path.suffix == SUFFIX:
        check_card(path)
        return read_safetensors(path)
    with open_file(path, "checkpoint") as file:
        check_archive(file, path)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise ValueError(
                f"{path} is not a checkpoint of tensors and plain values; refused to unpickle it"
            ) from None
        except Exception as error:  # a damaged pickle raises any exception
            raise ValueError(f"{path} is damaged or no checkpoint: {first_line(error)}") from None
        if not isinstance(state, dict):
            raise ValueError(f"{path} holds a {type(state).__name__}, not a checkpoint")
        return plain(state, os.fstat(file.fileno()).st_size, path)


def newest_whole(path: Path) -> Path:
    """The newest readable file among `path`, PATH.1, PATH.2, ...; ValueError if there is none.

    Newer damaged files are renamed to *.damaged and logged. Otherwise the next save would rotate
    them over an intact file.
    """
    problems: list[ValueError] = []
    candidates = versions_of(path)
    for candidate in candidates:
        try:
            load_checkpoint(candidate)
        except ValueError as error:
            problems.append(error)
            continue
        for damaged, problem in zip(candidates, problems, strict=False):
            logger.warning("%s; set aside as %s.damaged, taking %s", problem, damaged, candidate)
            damaged.replace(f"{damaged}.damaged")
        return candidate
    raise problems[0] if problems else ValueError(f"there is no checkpoint {path}")


def weights_of(saved: Mapping[str, Any], source: str | Path) -> dict[str, Tensor]:
    """The state dict, bare or in a checkpoint, without the name prefixes of wrappers."""
    state = saved["state_dict"] if isinstance(saved.get("state_dict"), Mapping) else saved
    named = all(isinstance(key, str) and isinstance(state[key], Tensor) for key in state)
    if not state or not named:
        raise ValueError(
            f"{source} holds no state dict; its keys: {', '.join(map(str, state))[:80]}"
        )
    return strip_wrappers(state)


def strip_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes that all names share: {"module.first.weight": x} -> {"first.weight": x}"""
    state = dict(state)
    while prefix := next((p for p in WRAPPERS if all(k.startswith(p) for k in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def fit_weights(
    model: nn.Module, saved: Mapping[str, Any], source: str | Path, skip: tuple[str, ...] = ()
) -> None:
    """Load the weights of a checkpoint into `model`; names that start with `skip` are left out.

    ValueError if they do not fit or are not finite; the model is unchanged then.
    """
    weights = fitting_weights(model, saved, source, skip)
    check_finite(weights, source)
    unwrap(model).load_state_dict(weights, strict=not skip)


def fitting_weights(
    model: nn.Module, saved: Mapping[str, Any], source: str | Path, skip: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The weights of a checkpoint for `load_state_dict` of `model`, which may be on "meta".

    ValueError names `source` and tensors that are missing, unexpected, or of another shape or type.
    """
    model = unwrap(model)
    expected = {name: t for name, t in model.state_dict().items() if not name.startswith(skip)}
    optional = getattr(model, "optional_weights", ())
    loaded = {
        name: tensor
        for name, tensor in weights_of(saved, source).items()
        if not name.startswith(skip)
        and (name in expected or not any(part in name for part in optional))
    }
    for name, tensor in expected.items():
        if name.endswith("num_batches_tracked"):  # missing before PyTorch 0.4.1
            loaded.setdefault(name, torch.zeros_like(tensor, device="cpu"))
    pairs = [(name, loaded[name], expected[name]) for name in expected if name in loaded]
    problems = {
        "missing": [name for name in expected if name not in loaded],
        "unexpected": [name for name in loaded if name not in expected],
        "of another shape": [
            f"{name} {tuple(ours.shape)} for {tuple(wanted.shape)}"
            for name, ours, wanted in pairs
            if ours.shape != wanted.shape
        ],
        "of another type": [
            f"{name} {ours.dtype}"
            for name, ours, wanted in pairs
            if ours.is_floating_point() != wanted.is_floating_point()
        ],
    }
    if any(problems.values()):
        message = "; ".join(
            f"{len(names)} {problem} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
            for problem, names in problems.items()
            if names
        )
        raise ValueError(f"{source} does not fit this model: {message}")
    return loaded


def check_finite(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """ValueError if one of the tensors of `source` holds NaN or infinity; takes 2 ms for 14 MB."""
    # A sum tells it in a fifth of the time of isfinite, unless it overflows.
    suspects = [name for name, tensor in tensors.items() if not math.isfinite(tensor.sum())]
    if bad := [name for name in suspects if not tensors[name].isfinite().all()]:
        raise ValueError(
            f"{source} holds values that are not finite: {bad[0]}, {len(bad)} of {len(tensors)} "
            "tensors; its training diverged, use an earlier checkpoint"
        )


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel and torch.compile, or the model itself."""
    for wrapping in ("module", "_orig_mod"):
        inner = getattr(model, wrapping, None)
        model = inner if isinstance(inner, nn.Module) else model
    return model


def _save(path: Path, state: Mapping[str, Any], keep: int | None = None) -> None:
    content = io.BytesIO()
    torch.save(state, content)
    try:
        atomic_write(path, content.getbuffer(), sync=True, keep=keep)
    except OSError as error:
        raise ValueError(
            f"cannot save {path}: {error.strerror}; earlier files are intact"
        ) from None
