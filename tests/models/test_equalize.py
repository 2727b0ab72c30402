"""Channels are equalized, and the network's function stays the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lib.models import build_model
from lib.models.arch import ArchSpec
from lib.models.equalize import equalize
from lib.models.pose_mobilenet import LitePose
from tests.helpers import OTHER, TINY, fill, tiny_config

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 4 - 2


def network(tmp_path, arch: ArchSpec, *opts: str) -> LitePose:
    """Random weights, with a large and a constant channel in the stem and in a stage."""
    model = build_model(tiny_config(tmp_path, tmp_path, *opts), arch).eval()
    assert isinstance(model, LitePose)
    fill(model, 3)
    with torch.no_grad():
        for norm in (model.first[3], model.stage[1][0].point_conv[1]):
            norm.weight[1] *= 50
            norm.bias[1] *= 50
            norm.weight[2] = norm.bias[2] = 0
    return model


def inputs_of(layer: nn.Module, model: nn.Module) -> Tensor:
    """(C,) the largest absolute input of a layer."""
    seen = []
    hook = layer.register_forward_pre_hook(lambda _, x: seen.append(x[0].abs().amax((0, 2, 3))))
    with torch.no_grad():
        model(IMAGES)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("arch", [TINY, OTHER], ids=["tiny", "other"])
@pytest.mark.parametrize("fusion", ["True", "False"])
def test_the_function_stays_and_ranges_become_alike(tmp_path, arch, fusion):
    model = network(tmp_path, arch, "MODEL.FUSION_HEAD", fusion)
    equalized = copy.deepcopy(model)
    equalize(equalized, IMAGES.split(1))
    with torch.no_grad():
        for one, other in zip(model(IMAGES), equalized(IMAGES), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * one.abs().max().item())
    for reader in ("stage.0.0.inv.0", "stage.2.0.inv.0"):
        before, after = (inputs_of(net.get_submodule(reader), net) for net in (model, equalized))
        alive = before > 0
        assert not alive.all()
        assert before.max() > 10 * before[alive].median()
        assert (
            after[alive].max() < before.max() / before[alive].median() * after[alive].median() / 3
        )
        assert not after[~alive].any()


def test_eight_bits_are_nearer_to_floats(tmp_path):
    """The stem's maps in 8 bits of one scale, as in an int8 model."""
    model = network(tmp_path, TINY)
    equalized = copy.deepcopy(model)
    equalize(equalized, IMAGES.split(1))

    def in_8_bits(_, inputs: tuple[Tensor]) -> tuple[Tensor]:
        step = (inputs[0].max() - inputs[0].min()) / 255
        return ((inputs[0] / step).round() * step,)

    errors = []
    with torch.no_grad():
        expected = model(IMAGES)[1]
        for net in (model, equalized):
            hook = net.stage[0][0].inv[0].register_forward_pre_hook(in_8_bits)
            errors.append((net(IMAGES)[1] - expected).square().mean().item())
            hook.remove()
    assert errors[1] < errors[0] / 2
