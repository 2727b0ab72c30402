"""Parameters and multiply-adds (MACs) of a network; MACs by two rules.

`true` counts every convolution where it is evaluated (transposed ones at their input positions).
`paper` is the rule behind the paper's figures: transposed convolutions at output positions, plus
2 per output element of BatchNorm and 1 per output element of ReLU and ReLU6.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def count_params(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_macs(model: nn.Module, size: int) -> dict[str, int]:
    """{"true": ..., "paper": ...} MACs of one image of `size` x `size` pixels."""
    parameter = next(model.parameters())
    image = torch.zeros(1, 3, size, size, dtype=parameter.dtype, device=parameter.device)
    return count_macs_of(model, image)


def count_macs_of(model: nn.Module, x: Tensor) -> dict[str, int]:
    """{"true": ..., "paper": ...} MACs of a forward pass of `x`; fast on the meta device."""
    total = {"true": 0, "paper": 0}

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        true, paper = _macs(module, inputs[0], output)
        total["true"] += true
        total["paper"] += paper

    watch_layers(model, x, add)
    return total


@torch.no_grad()
def watch_layers(
    model: nn.Module, x: Tensor, visit: Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]
) -> None:
    """Call `visit(layer, inputs, output)` for each layer of a forward pass of `x`, in order."""
    hooks = [m.register_forward_hook(visit) for m in model.modules() if not list(m.children())]
    training = model.training
    model.eval()
    try:
        model(x)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()


def _macs(module: nn.Module, x: Tensor, output: Tensor) -> tuple[int, int]:
    """(true, paper) MACs of one layer."""
    if isinstance(module, nn.ConvTranspose2d):
        per_position = module.weight.numel()
        return per_position * x.shape[2:].numel(), per_position * output.shape[2:].numel()
    if isinstance(module, nn.Conv2d):
        macs = module.weight.numel() * output.shape[2:].numel()
        return macs, macs
    if isinstance(module, nn.BatchNorm2d):
        return 0, 2 * output.numel()
    if isinstance(module, (nn.ReLU, nn.ReLU6)):
        return 0, output.numel()
    return 0, 0
