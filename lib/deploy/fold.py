"""BatchNorm folding: the same network with fewer operations."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

Convolution = nn.Conv2d | nn.ConvTranspose2d


@torch.no_grad()
def fold_norms(model: nn.Module) -> fx.GraphModule:
    """A copy of `model` in evaluation mode without the BatchNorms that follow convolutions.

    In evaluation mode a BatchNorm multiplies each channel by a constant and adds another: both go
    into the weights and biases of the convolution before it, or of the convolutions whose sum it
    normalizes. The outputs are equal up to rounding.
    """
    model = copy.deepcopy(model).eval()
    traced = fx.GraphModule(model, Tracer().trace(model))
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        norm = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        convolutions = summands(node.args[0], modules)
        if convolutions:
            fold(norm, convolutions)
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


class Tracer(fx.Tracer):
    """Traces convolutions of our classes as modules, like PyTorch's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


def summands(node: Any, modules: Mapping[str, nn.Module]) -> list[Convolution]:
    """The convolutions whose sum `node` is; none where it is anything else, or read twice."""
    if len(node.users) > 1:
        return []
    if node.op == "call_module":
        module = modules[node.target]
        return [module] if isinstance(module, Convolution) else []
    if node.target is not operator.add:
        return []
    one, other = (summands(part, modules) for part in node.args)
    return one + other if one and other else []


def fold(norm: nn.BatchNorm2d, convolutions: list[Convolution]) -> None:
    """Change `convolutions` so that their sum is the output of `norm`."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    for i, convolution in enumerate(convolutions):
        transposed = isinstance(convolution, nn.ConvTranspose2d)  # (in, out, k, k)
        convolution.weight *= scale[:, None, None] if transposed else scale[:, None, None, None]
        bias = torch.zeros_like(scale) if convolution.bias is None else convolution.bias * scale
        convolution.bias = nn.Parameter(bias + shift if i == 0 else bias)
