"""BatchNorm over the images of all processes, at any width, on any device.

The same mathematics as one process with all images (PyTorch's SyncBatchNorm supports neither
leading slices nor CPUs). Forward, one all-reduce sums count, sum and sum of squares of each
channel; backward, one all-reduce sums two gradients.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.layers import elastic


class SyncBatchNorm2d(nn.BatchNorm2d):
    """In training, its statistics are those of the images of all processes."""

    def normalize(self, *args: Any, **kwargs: Any) -> Tensor:
        """`elastic.norm` calls it in place of F.batch_norm."""
        return batch_norm(*args, **kwargs)

    def forward(self, input: Tensor) -> Tensor:
        return elastic.norm(self, input)


def synchronize_norms(model: nn.Module) -> nn.Module:
    """`model` with every BatchNorm layer replaced by a synchronized one of the same tensors."""
    for name, layer in model.named_children():
        if isinstance(layer, nn.BatchNorm2d):
            synchronized = SyncBatchNorm2d(layer.num_features)
            synchronized.__dict__.update(layer.__dict__)  # tensors, mode and settings
            setattr(model, name, synchronized)
        else:
            synchronize_norms(layer)
    return model


class Moments(NamedTuple):
    """Statistics of each channel over all processes; float64."""

    count: Tensor  # (1,) values of a channel
    mean: Tensor  # (C,)
    var: Tensor  # (C,) divided by the count


def batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """F.batch_norm over the batch of all processes: (B, C, H, W) -> (B, C, H, W)."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    moments = shared_moments(x)
    unbiased = moments.var * moments.count / (moments.count - 1).clamp(min=1)
    with torch.no_grad():
        running_mean.lerp_(moments.mean.to(running_mean.dtype), momentum)
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return _Normalize.apply(x, weight, bias, moments, eps)


@torch.no_grad()
def shared_moments(x: Tensor) -> Moments:
    """Moments of x (B, C, H, W) over all processes, whose B may differ."""
    var, mean = torch.var_mean(_full(x), dim=(0, 2, 3), correction=0)
    var, mean = var.double(), mean.double()  # so that the difference of squares below is exact
    count = var.new_full((1,), x.numel() // x.shape[1])
    sums = torch.cat([count, count * mean, count * (var + mean.square())])
    dist.all_reduce(sums)
    count, means, squares = sums[:1], *(sums[1:] / sums[:1]).chunk(2)
    return Moments(count, means, (squares - means.square()).clamp(min=0))


class _Normalize(torch.autograd.Function):
    """x -> (x - mean) / sqrt(var + eps) * weight + bias, mean and var being functions of x."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, moments: Moments, eps: float):
        full = _full(x)
        mean = moments.mean.to(full.dtype)
        scale = (moments.var + eps).rsqrt().to(full.dtype)
        ctx.save_for_backward(x, weight, mean, scale, moments.count)
        out = (full - _wide(mean)) * _wide(scale * weight) + _wide(bias)
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight, mean, scale, count = ctx.saved_tensors
        full, standard = _full(grad), (_full(x) - _wide(mean)) * _wide(scale)
        local = torch.stack([full.sum((0, 2, 3)), (full * standard).sum((0, 2, 3))])
        total = local.to(torch.float64, copy=True)
        dist.all_reduce(total)
        shift, slope = (total / count).to(full.dtype)
        grad_x = (full - _wide(shift) - standard * _wide(slope)) * _wide(scale * weight)
        # Gradients of weight and bias are those of this process; DDP averages all gradients.
        return grad_x.to(x.dtype), local[1].to(weight.dtype), local[0].to(weight.dtype), None, None


def _full(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _wide(channels: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1)"""
    return channels[None, :, None, None]
