"""The weight gradient in pieces is the gradient, and only training on a CPU takes it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lib.models.arch import ArchSpec, uniform_arch
from lib.models.layers import depthwise
from lib.models.layers.depthwise import DepthwiseConv2d, depthwise_conv, weight_gradient
from tests.helpers import network, tiny_config
from tests.runs import SMALL, SUPERNET

CASES = [(3, 1), (4, 1), (5, 1), (5, 2), (7, 1), (7, 2), (9, 1), (9, 2), (7, 3)]


def channels_last(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return noise.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("kernel", "stride"), CASES)
@pytest.mark.parametrize("size", [(12, 12), (11, 6), (1, 13)])
def test_gradients_are_those_of_a_plain_convolution(kernel, stride, size):
    if kernel % 2 == 0:
        size = (12, 12)
    x = channels_last(2, 3, *size).requires_grad_()
    weight = channels_last(3, 1, kernel, kernel, seed=1).requires_grad_()
    plain = F.conv2d(x, weight, None, stride, kernel // 2, groups=3)
    ours = depthwise_conv(x, weight, stride, training=True)
    away = channels_last(*plain.shape, seed=2)
    assert torch.equal(ours, plain)
    for got, wanted in zip(
        torch.autograd.grad(ours, (x, weight), away),
        torch.autograd.grad(plain, (x, weight), away),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_a_gradient_that_nobody_needs_is_not_computed(monkeypatch):
    x, weight = channels_last(1, 2, 8, 8), channels_last(2, 1, 5, 5).requires_grad_(False)
    called = []
    monkeypatch.setattr(depthwise, "input_gradient", lambda *_: called.append("x"))
    monkeypatch.setattr(depthwise, "weight_gradient", lambda *_: called.append("weight"))
    depthwise_conv(x.requires_grad_(), weight, 1, training=True).sum().backward()
    assert called == ["x"]


@pytest.fixture
def pieces(monkeypatch) -> list[int]:
    """The kernel of each weight gradient that is taken in pieces."""
    kernels = []

    def spy(x, gradient, kernel, stride):
        kernels.append(kernel)
        return weight_gradient(x, gradient, kernel, stride)

    monkeypatch.setattr(depthwise, "weight_gradient", spy)
    return kernels


def test_only_training_on_large_kernels_in_channels_last_takes_pieces(pieces):
    layer = DepthwiseConv2d(4, 7)
    x = channels_last(1, 4, 8, 8, dtype=torch.float32)
    layer(x.contiguous()).sum().backward()
    layer.eval()(x).sum().backward()
    DepthwiseConv2d(4, 3)(x).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        layer.train()(x).sum().backward()
    assert pieces == []
    layer(x).sum().backward()
    assert pieces == [7]


def test_a_supernet_takes_pieces_too(pieces, coco_root, tmp_path):
    supernet = network(tiny_config(coco_root, tmp_path, *SUPERNET), SMALL).train()
    images = torch.rand(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    supernet.to(memory_format=torch.channels_last)
    sum(output.sum() for output in supernet(images, SMALL)).backward()
    assert pieces == [5] * 4  # the head's; the blocks of this one have kernels of 3


def arch_of(width: int, kernel: int) -> ArchSpec:
    widths = (width, width, width + 8, width + 16)
    return uniform_arch(64, width, widths, (width,) * 3, depths=(1, 1, 2, 1), block=(2, kernel))


@pytest.mark.parametrize("sampled", [None, arch_of(16, 7), arch_of(8, 7), arch_of(8, 3)])
def test_gradients_have_the_strides_of_their_weights(coco_root, tmp_path, sampled):
    """Else DDP warns. sampled: the sub-network of a supernet; None: another network."""
    opts = [] if sampled is None else [*SUPERNET, "MODEL.ELASTIC_KERNEL", "True"]
    model = network(tiny_config(coco_root, tmp_path, *opts), arch_of(16, 7)).train()
    model.to(memory_format=torch.channels_last)
    images = channels_last(1, 3, 64, 64, dtype=torch.float32)
    outputs = model(images) if sampled is None else model(images, sampled)
    sum(output.sum() for output in outputs).backward()
    weights = {name: p for name, p in model.named_parameters() if p.grad is not None}
    assert len(weights) > 50
    assert not [name for name, p in weights.items() if p.grad.stride() != p.stride()]
