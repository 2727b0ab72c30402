"""Checkpoints: tensors and plain values only, written as a whole or not at all."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.keypoints import keypoints_of
from lib.utils.files import atomic_write, versions_of

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

    Only tensors and plain values are unpickled. ValueError names a file that is missing, damaged
    or holds anything else (code in it is never executed).
    """
    check_sums(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {path}") from None
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} is not a checkpoint of tensors and plain values; refused to unpickle it"
        ) from None
    except Exception as error:  # a damaged pickle raises any exception
        raise ValueError(f"{path} is damaged or no checkpoint: {_first_line(error)}") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a checkpoint")
    return state


def config_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings stored in a checkpoint or sub-network, as plain values; {} if there are none."""
    config = saved.get("config") or (saved.get("provenance") or {}).get("config")
    return yaml.safe_load(config) if isinstance(config, str) else {}


def check_same_joints(
    config: Mapping[str, Any], source: str | Path, cfg: CfgNode, is_train: bool
) -> None:
    """ValueError if the network in `source` predicts other joints than those of `cfg`.

    config: the settings it was saved with; {} if they are unknown, which passes the check.
    """
    if "DATASET" not in config:
        return
    spec, saved_spec = keypoints_of(cfg, is_train), keypoints_of(CfgNode(dict(config)), False)
    if saved_spec.joints != spec.joints:
        raise ValueError(
            f"{source} predicts the {saved_spec.num_joints} joints of {saved_spec.name}, not the "
            f"{spec.num_joints} of {spec.name}; to fine-tune it for these, set "
            "MODEL.PRETRAINED_PARTS not_final"
        )


def check_sums(path: str | Path) -> None:
    """ValueError if a checksum of the archive is wrong; PyTorch does not check them."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return  # missing, truncated or in PyTorch's old format: torch.load reports it
    if bad is not None:
        raise ValueError(f"{path} is damaged: the checksum of {bad} does not fit")


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


def hash_of(path: str | Path) -> str:
    """sha256 of a file."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def weights_of(saved: Mapping[str, Any], source: str | Path) -> dict[str, Tensor]:
    """The state dict, bare or in a checkpoint, without the name prefixes of wrappers."""
    state = saved["state_dict"] if isinstance(saved.get("state_dict"), Mapping) else saved
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
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

    ValueError names `source` and tensors that are missing, unexpected or of another shape.
    """
    weights = weights_of(saved, source)
    model = unwrap(model)
    expected = model.state_dict()
    optional = getattr(model, "optional_weights", ())
    loaded = {
        name: tensor
        for name, tensor in weights.items()
        if not (skip and name.startswith(skip))
        and (name in expected or not any(part in name for part in optional))
    }
    wanted = [name for name in expected if not (skip and name.startswith(skip))]
    problems = {
        # Weights from before PyTorch 0.4.1 do not count batches; torch loads them too.
        "missing": [
            name
            for name in wanted
            if name not in loaded and not name.endswith("num_batches_tracked")
        ],
        "unexpected": [name for name in loaded if name not in expected],
        "of another shape": [
            f"{name} {tuple(loaded[name].shape)} for {tuple(expected[name].shape)}"
            for name in wanted
            if name in loaded and loaded[name].shape != expected[name].shape
        ],
    }
    if any(problems.values()):
        message = "; ".join(
            f"{len(names)} {problem} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
            for problem, names in problems.items()
            if names
        )
        raise ValueError(f"{source} does not fit this model: {message}")
    model.load_state_dict(loaded, strict=not skip)


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


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
