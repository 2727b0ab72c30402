"""Lightweight OpenPose costs what the paper's table says of it."""

from __future__ import annotations

import pytest
import torch

from lib.models import MODELS
from lib.models.baselines.lightweight_openpose import LightweightOpenPose
from lib.utils.complexity import count_macs, count_params


def test_published_size():
    with torch.device("meta"):
        model = LightweightOpenPose()
        macs = count_macs(model, 368)
    assert count_params(model) / 1e6 == pytest.approx(4.1, rel=0.01)
    assert macs["paper"] / 1e9 == pytest.approx(9.0, rel=0.01)
    assert macs["true"] / 1e9 == pytest.approx(8.88, abs=6e-3)


def test_maps_are_an_eighth_of_the_image():
    model = LightweightOpenPose().eval()
    with torch.no_grad():
        outputs = model(torch.randn(2, 3, 64, 96))
    assert [tuple(output.shape) for output in outputs] == [(2, 19, 8, 12), (2, 38, 8, 12)]


def test_every_parameter_learns():
    model = LightweightOpenPose()
    sum(output.square().mean() for output in model(torch.randn(2, 3, 32, 32))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_no_script_can_train_it_with_the_losses_of_tags():
    assert not [name for name in MODELS if "openpose" in name]
