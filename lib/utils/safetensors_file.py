"""Weights as a *.safetensors file: tensors and text, nothing that could be executed.

Its metadata "litepose" is JSON of what else a checkpoint records: "arch", and "config" as YAML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.utils.files import atomic_write
from lib.utils.reading import open_file

KEY = "litepose"
INSTALL = "reading *.safetensors needs safetensors: pip install safetensors"


def read_safetensors(path: Path) -> dict[str, Any]:
    """{"state_dict", "arch", "config"}, like a checkpoint; tensors of floats in float32. A file
    without our metadata gives the weights alone.

    ValueError, in one line, names a file that cannot be read.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ValueError(INSTALL) from None
    open_file(path, "checkpoint").close()  # a pipe or a folder is refused in our words
    try:
        with safe_open(str(path), framework="pt") as file:
            state = {name: _in_float32(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is damaged or no file of weights: {reason}") from None
    try:
        record = json.loads(metadata.get(KEY, "{}"))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ValueError(f"the metadata {KEY!r} in {path} are no JSON object")
    return {"state_dict": state, "arch": record.get("arch"), "config": record.get("config")}


def write_safetensors(path: Path, state: Mapping[str, Tensor], arch: Any, config: str) -> None:
    """Write weights in half precision, but for vectors: norms and biases stay as they are.

    The variances of a BatchNorm can leave the range of half precision. OSError where the file
    cannot be written.
    """
    from safetensors.torch import save

    tensors = {
        name: (tensor.half() if tensor.is_floating_point() and tensor.dim() > 1 else tensor)
        .detach()
        .contiguous()
        for name, tensor in state.items()
    }
    # One key: several would be written in a random order.
    metadata = {KEY: json.dumps({"arch": arch, "config": config})}
    atomic_write(path, save(tensors, metadata), sync=True)


def _in_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor
