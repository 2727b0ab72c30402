"""BatchNorms folded into the convolutions before them: the same function with fewer operations."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping

import torch
from torch import fx, nn


@torch.no_grad()
def fold_norms(model: nn.Module) -> fx.GraphModule:
    """`model` in evaluation mode, less every BatchNorm that follows a convolution or a sum of some.

    In evaluation mode a BatchNorm multiplies each channel with one number and adds another; both
    go into weights and biases. The same function but for rounding; `model` stays as it is.
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
    """Convolutions stay modules, our own kinds too."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Conv2d) or super().is_leaf_module(module, name)


def summands(node: fx.Node, modules: Mapping[str, nn.Module]) -> list[nn.Module]:
    """The convolutions that `node` is the sum of; none where it is anything else or read twice."""
    if len(node.users) > 1:
        return []
    if node.op == "call_module":
        module = modules[node.target]
        return [module] if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) else []
    if node.target is not operator.add:
        return []
    one, other = (summands(part, modules) for part in node.args)
    return one + other if one and other else []


def fold(norm: nn.BatchNorm2d, convolutions: list[nn.Module]) -> None:
    """Change `convolutions` so that their sum is what `norm` made of it."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    for convolution in convolutions:
        transposed = isinstance(convolution, nn.ConvTranspose2d)  # (in, out, k, k)
        convolution.weight *= scale[:, None, None] if transposed else scale[:, None, None, None]
        bias = torch.zeros_like(scale) if convolution.bias is None else convolution.bias * scale
        convolution.bias = nn.Parameter(bias)
    convolutions[0].bias += norm.bias - norm.running_mean * scale
