"""Sorting channels changes their order and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib.models.arch import ArchSpec, largest_arch, uniform_arch
from lib.models.pose_mobilenet import STEM_WIDTH, LitePose
from lib.models.pose_supermobilenet import SuperLitePose
from lib.models.reorder import (
    Stream,
    activation_importance,
    independent_streams,
    sort_channels,
    streams_of,
    weight_importance,
)
from tests.helpers import ROOT, fill, seeded_image

SMALL = uniform_arch(64, 16, (16, 32, 48, 80), (16, 24, 24), depths=(2, 1, 2, 2))


@pytest.mark.parametrize("by_activation", [True, False])
@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize("name", ["search-XS", "search-L"])
def test_a_sorted_network_is_the_same_function(name, fusion, by_activation):
    arch = ArchSpec.from_json(ROOT / "mobile_configs" / f"{name}.json")
    model = LitePose(arch, [28, 14], fusion=fusion)
    assert_sorting_keeps_the_function(model, 11, by_activation)


def assert_sorting_keeps_the_function(model: LitePose, seed: int, by_activation: bool) -> None:
    fill(model, seed)
    model.double().eval()  # float64: only the order of summation differs
    image = seeded_image(seed, 64).double()
    with torch.no_grad():
        before = model(image)
        sort_channels(model, [image] if by_activation else None)
        after = model(image)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("by_activation", [True, False])
def test_stages_that_a_residual_ties_are_sorted_together(by_activation):
    """The last stage has stride 1; with the width of the one before, its first block adds to it."""
    arch = uniform_arch(64, 16, (16, 32, 48, 48), (16, 24, 24), depths=(2, 1, 2, 2))
    model = LitePose(arch, [28, 14])
    assert [stage[0].residual for stage in model.stage] == [False, False, False, True]
    assert len(independent_streams(model)) == len(streams_of(model)) - 1
    assert_sorting_keeps_the_function(model, 16, by_activation)


def test_trained_weights_give_the_same_maps_after_sorting():
    """In float32, with the statistics and the decaying BatchNorm weights of a training."""
    model = LitePose(SMALL, [28, 14])
    fill(model, 14)
    generator = torch.Generator().manual_seed(14)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1 and name.endswith("weight"):  # many channels are almost off
            tensor.mul_(torch.rand(len(tensor), generator=generator) ** 4)
        elif name.endswith("running_var"):
            tensor.mul_(10 ** (2 * torch.rand(len(tensor), generator=generator) - 1))
    model.eval()
    image = seeded_image(14, 128)
    with torch.no_grad():
        before = model(image)
        sort_channels(model, [image])
        after = model(image)
    for a, b in zip(before, after, strict=True):
        assert a.abs().max() > 0.1
        torch.testing.assert_close(a, b, atol=1e-5 * float(a.abs().max()), rtol=0)


@pytest.mark.parametrize("fusion", [True, False])
def test_every_stream_can_be_permuted_on_its_own(fusion):
    model = LitePose(SMALL, [28, 14], fusion=fusion)
    fill(model, 15)
    model.double().eval()
    image = seeded_image(15, 64).double()
    with torch.no_grad():
        before = torch.cat([out.flatten() for out in model(image)])
        for stream in streams_of(model):
            for tensor, dim in stream.holders:
                tensor.copy_(tensor.flip(dim))
            after = torch.cat([out.flatten() for out in model(image)])
            torch.testing.assert_close(after, before, atol=1e-12, rtol=0, msg=stream.name)


def test_every_width_that_a_subnetwork_slices_is_sorted():
    """The tensors that no stream holds have the same shape in every sub-network."""
    model = LitePose(SMALL, [28, 14])
    held = {(tensor.data_ptr(), dim) for s in streams_of(model) for tensor, dim in s.holders}
    narrow = uniform_arch(64, 8, (8, 16, 24, 40), (8, 8, 8), depths=(2, 1, 2, 2))
    small = LitePose(narrow, [28, 14]).state_dict()
    for name, tensor in model.state_dict().items():
        sliced = {d for d in range(tensor.ndim) if tensor.shape[d] != small[name].shape[d]}
        assert sliced == {d for d in range(tensor.ndim) if (tensor.data_ptr(), d) in held}, name
    assert model.first[2].weight.shape[1] == STEM_WIDTH


def test_weights_sort_stem_and_stages():
    model = SuperLitePose(largest_arch(128), [28, 14])
    fill(model, 12)
    streams = streams_of(model)
    before = [weight_importance(stream) for stream in streams]
    assert len(before) == 1 + 4 + 34 + 3
    assert not any(torch.equal(x, x.sort(descending=True).values) for x in before)
    sort_channels(model)
    for old, stream in zip(before[:5], streams[:5], strict=True):
        # Permuting the readers of one stream permutes only the order of the others' sums.
        torch.testing.assert_close(
            weight_importance(stream), old.sort(descending=True).values, rtol=1e-5, atol=0
        )


def test_importance_is_the_share_of_the_variance():
    layer = nn.Conv2d(2, 2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 1.0], [0.0, 2.0]]).view(2, 2, 1, 1)
    stream = Stream("of two", [], [(layer, 1)])
    share = activation_importance(stream, {layer: torch.tensor([3.0, 1.0])})
    assert share.tolist() == [(0.75 + 0) / 2, (0.25 + 1) / 2]
    # A transposed weight is (in, out, k, k).
    layer.weight.data = layer.weight.data.transpose(0, 1)
    again = activation_importance(Stream("", [], [(layer, 0)]), {layer: torch.tensor([3.0, 1.0])})
    assert torch.equal(again, share)


def test_channels_that_are_constant_on_the_images_are_not_kept():
    model = LitePose(SMALL, [28, 14])
    fill(model, 17)
    norms = [block.depth_conv[1] for block in model.blocks()]
    for norm in norms:
        norm.weight.data[:3] = norm.bias.data[:3] = 0
    sort_channels(model, [seeded_image(17, 64), seeded_image(18, 64)])
    for norm in norms:
        assert norm.weight.eq(0).sum() == 3
        assert norm.weight[: len(norm.weight) // 4].ne(0).all()


def test_sorting_twice_is_sorting_once():
    model = LitePose(SMALL, [28, 14])
    fill(model, 13)
    images = [seeded_image(13, 64)]
    for _ in range(2):
        once = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        sort_channels(model, images)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(once[name], tensor, rtol=1e-6, atol=0)
