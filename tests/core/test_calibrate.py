"""Recalibration gives BatchNorm the statistics of its inputs, and changes nothing else."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from lib.core.calibrate import Calibration, recalibrate
from lib.dataset.build import build_dataset, make_dataloader
from lib.models.arch import uniform_arch
from lib.models.pose_mobilenet import LitePose
from tests.helpers import fill, tiny_config

ARCH = uniform_arch(64, 8, (8, 8, 16, 16), (8, 8, 8), depths=(1, 2, 1, 1), block=(2, 3))
STATISTICS = ("running_mean", "running_var")


def network(seed: int = 0) -> LitePose:
    model = LitePose(ARCH, (28, 14))
    fill(model, seed)
    return model


def images_of(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 3 + 2 * torch.randn(count, 3, 64, 64, generator=generator)


def norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}


def test_statistics_are_mean_and_variance_of_all_inputs():
    model, images = network(), images_of(12)
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in norms(model)}
    for name, layer in norms(model).items():
        layer.register_forward_pre_hook(lambda _, x, name=name: seen[name].append(x[0].clone()))
    assert recalibrate(model, images.split(4), 12) == 12
    for name, layer in norms(model).items():
        inputs = torch.cat(seen[name]).double().transpose(0, 1).flatten(1)  # (C, N)
        torch.testing.assert_close(
            layer.running_mean.double(), inputs.mean(1), rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(layer.running_var.double(), inputs.var(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [64, 96])
def test_a_sub_network_is_calibrated_at_its_resolution(size, coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path)
    dataset = build_dataset(cfg)
    shapes = []
    model = network()
    model.register_forward_pre_hook(lambda _, x: shapes.append(tuple(x[0].shape)))
    assert Calibration(dataset, partial(make_dataloader, cfg), 6)(model, size) == 6
    assert shapes == [(4, 3, size, size), (2, 3, size, size)]
    assert [mask.shape for mask in dataset.at_size(size)[0, 0].masks] == [
        (size // 4, size // 4),
        (size // 2, size // 2),
    ]
    assert dataset[0, 0].image.shape[0] == cfg.DATASET.INPUT_SIZE


def test_a_layer_that_sees_the_images_does_not_care_for_the_size_of_batches():
    """Deeper ones do, a little: what they get was normalized batch by batch."""
    images = images_of(12)
    results = []
    for size in (1, 5, 12):
        model = network()
        recalibrate(model, images.split(size), 12)
        results.append(model.first[0][1])
    for other in results[1:]:
        for name in STATISTICS:
            torch.testing.assert_close(getattr(other, name), getattr(results[0], name))


def test_statistics_far_from_the_old_ones_are_reached():
    model = network()
    layer = model.first[0][1]
    layer.running_mean.fill_(1e3)
    images = images_of(4)
    recalibrate(model, [images], 4)
    expected = model.first[0][0](images).mean(dim=(0, 2, 3))
    torch.testing.assert_close(layer.running_mean, expected.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_but_statistics_changes(training):
    model = network().train(training)
    norms(model)["first.3"].momentum = 0.3
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = [(m.momentum, m.track_running_stats, m.training) for m in norms(model).values()]
    hooks = [len(m._forward_pre_hooks) for m in model.modules()]
    recalibrate(model, [images_of(4)], 4)
    for name, tensor in model.state_dict().items():
        if name.endswith(STATISTICS):
            assert not torch.equal(tensor, before[name]), name
        else:
            assert torch.equal(tensor, before[name]), name
    assert model.training == training
    after = [(m.momentum, m.track_running_stats, m.training) for m in norms(model).values()]
    assert after == settings
    assert [len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_more_images_are_read_than_asked_for():
    taken = []

    def batches():
        for batch in images_of(12).split(4):
            taken.append(len(batch))
            yield batch

    few, same = network(), network()
    assert recalibrate(few, batches(), 6) == 6
    assert taken == [4, 4]
    recalibrate(same, [images_of(12)[:4], images_of(12)[4:6]], 6)
    for name, tensor in few.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name]), name


def test_fewer_images_than_asked_for_are_all_used():
    assert recalibrate(network(), [images_of(3)], 100) == 3


def test_without_images_the_statistics_stay():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert recalibrate(model, [], 10) == 0
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_network_that_fails_is_left_as_it_was():
    model = network().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RuntimeError):
        recalibrate(model, [images_of(2), torch.zeros(2, 5, 64, 64)], 4)
    assert not model.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in norms(model).values())
