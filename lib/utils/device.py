"""The device to compute on, and what differs between kinds of devices.

The code was tried on CPUs and on CUDA GPUs. Apple's `mps` and Intel's `xpu` are untried: they are
used only by name, in one process, and people are grouped on the CPU there.
"""

from __future__ import annotations

import contextlib
import logging

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
UNTRIED = ("mps", "xpu")
KINDS = ("cpu", "cuda", *UNTRIED)


def resolve_device(device: str | int | torch.device | None, preferred: int = 0) -> torch.device:
    """The device of a name or of a GPU's number; None: GPU `preferred`, else GPU 0, else the CPU.

    A GPU's number means the CPU on a machine without CUDA GPUs. ValueError for a device that does
    not exist.
    """
    gpus = device_count("cuda")
    if device is None:
        device = preferred if preferred < gpus else 0
    if isinstance(device, int):
        device = f"cuda:{device}" if gpus else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(str(error).splitlines()[0]) from None
    if chosen.type not in KINDS:
        raise ValueError(f"cannot compute on {chosen}; possible: {', '.join(KINDS)}")
    count, index = device_count(chosen.type), chosen.index or 0
    if index >= count:
        name = "GPU" if chosen.type == "cuda" else f"device {chosen.type}"
        raise ValueError(f"there is no {name} {index}; this machine has {count}")
    if chosen.type in UNTRIED:
        logger.warning("%s is untried: compare its results with those of the CPU", chosen)
    return chosen


def device_count(kind: str) -> int:
    """How many devices of one of KINDS this machine has."""
    if kind == "cuda":
        return torch.cuda.device_count()
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return torch.xpu.device_count() if kind == "xpu" else 1


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; only a CUDA GPU copies while Python goes on.

    On mps such a copy reads a CPU tensor that may have been freed (PyTorch's issue 189690).
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def synchronize(device: torch.device) -> None:
    """Wait until `device` has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    elif device.type == "xpu":
        torch.xpu.synchronize(device)


def half_precision(
    device: torch.device, enabled: bool = True
) -> contextlib.AbstractContextManager[object]:
    """An autocast context of `half_type`; no effect unless `enabled`."""
    if not enabled:
        return contextlib.nullcontext()
    if not torch.amp.is_autocast_available(device.type):
        version = torch.__version__
        raise ValueError(f"PyTorch {version} has no half precision on {device.type}: FP16.ENABLED")
    return torch.autocast(device.type, half_type(device))


def half_type(device: torch.device) -> torch.dtype:
    """The half precision of `device`: float16 on a CUDA GPU, else bfloat16."""
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def to_float64(tensor: Tensor) -> Tensor:
    """`tensor` in float64; on the CPU if its device has none, as Apple's and some of Intel's."""
    device = tensor.device
    if device.type == "mps":
        return tensor.cpu().double()
    if device.type == "xpu" and not torch.xpu.get_device_properties(device).has_fp64:
        return tensor.cpu().double()
    return tensor.double()
