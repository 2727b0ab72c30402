"""Devices that this machine does not have, for tests.

PyTorch's `meta` device has gradients, fake tensors of `FakeTensorMode` can be on `cuda`, `mps` and
`xpu`. Neither has values: reading one, or a shape that follows from values, is an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib.models import place

META = torch.device("meta")
CUDA, MPS, XPU = PRETENDED = [torch.device(kind, 0) for kind in ("cuda", "mps", "xpu")]
on_each = pytest.mark.parametrize("device", PRETENDED, ids=lambda device: device.type)
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Watch(TorchDispatchMode):
    """Refuses operations that mix devices, read from a device or, on mps, make float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        wide = {one.device for one in tensors if one.dim()}  # a number of the CPU may meet any
        result = func(*args, **(kwargs or {}))
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        if func in COPIES:
            to = args[0].device if func is COPIES[1] else made[0].device
            assert to.type != "cpu" or wide <= {to}, f"{func} reads from the device"
        elif func is not torch.ops.aten.index.Tensor:  # its index may be on the CPU
            assert len(wide) < 2, f"{func} of tensors on {wide}"
        for one in made:
            assert (one.device.type, one.dtype) != ("mps", torch.float64), f"{func} makes float64"
        return result


def indexed(x: Tensor, index: Any) -> Tensor:
    """x[index], for all but masks."""
    every = list(index) if isinstance(index, tuple) else [index]
    if any(one is ... for one in every):
        place = next(i for i, one in enumerate(every) if one is ...)
        given = sum(one is not None for one in every) - 1
        every[place : place + 1] = [slice(None)] * (x.dim() - given)
    dim, tensors = 0, []
    for one in every:
        if isinstance(one, int):
            x = x.select(dim, one)
            continue
        if one is None:
            x = x.unsqueeze(dim)
        elif isinstance(one, slice):
            x = torch.ops.aten.slice(x, dim, one.start, one.stop, one.step or 1)
        is_list = isinstance(one, (list, Tensor))
        tensors.append(torch.as_tensor(one, device=x.device) if is_list else None)
        dim += 1
    return torch.ops.aten.index(x, tensors) if any(t is not None for t in tensors) else x


OPERATIONS = {
    Tensor.__getitem__: indexed,
    Tensor.__invert__: torch.bitwise_not,
    Tensor.contiguous: torch.ops.aten.contiguous.default,
}


class Operations(TorchFunctionMode):
    """Calls operations themselves where the methods of a tensor need a driver of its device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return OPERATIONS.get(func, func)(*args, **(kwargs or {}))


@contextlib.contextmanager
def pretended(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The frozen network on fake `device`, in a context where tensors are fake."""
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode, Operations():
        model = place(model.requires_grad_(False).eval(), device, channels_last=True)
        mode.allow_non_fake_inputs = False
        yield model
