"""A refitted slice does what it can of what the complete network does."""

from __future__ import annotations

import pytest
import torch

from lib.models.arch import uniform_arch
from lib.models.pose_mobilenet import LitePose
from lib.models.refit import Refitting, linear_guess, refit
from lib.models.reorder import sort_channels, streams_of
from lib.models.subnet import extract_subnet, supernet_of
from tests.helpers import fill

WHOLE = uniform_arch(64, 16, (16, 16, 32, 32), (16, 16, 16), depths=(1, 2, 2, 1), block=(2, 3))
NARROW = uniform_arch(64, 8, (8, 8, 16, 16), (8, 8, 8), depths=(1, 2, 2, 1), block=(2, 3))


def images_of(count: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 64, 64, generator=generator)


@pytest.fixture
def complete():
    network = LitePose(WHOLE, (28, 14))
    fill(network, 3)
    return supernet_of(network).eval()


def test_the_guess_is_the_one_of_least_squares():
    """By hand: x1 = 2 x0; and against NumPy's solver on 50 correlated channels."""
    pair = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(linear_guess(pair, 1), pair[:, :1], rtol=1e-3, atol=0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 400, generator=generator).double()
    x = x + x.mean(dim=0)
    expected = torch.linalg.lstsq(x[:30].T, x.T).solution.T
    torch.testing.assert_close(linear_guess(x @ x.T, 30), expected, rtol=0.01, atol=1e-3)


def test_channels_that_are_never_active_are_no_problem():
    guess = linear_guess(torch.zeros(6, 6, dtype=torch.float64), 4)
    assert torch.equal(guess, torch.zeros(6, 4, dtype=torch.float64))


@torch.no_grad()
def test_copies_of_channels_can_be_dropped_without_loss(complete):
    """In every stream, the second half of the channels repeats the first."""
    for stream in streams_of(complete):
        for tensor, dim in stream.written:
            first, second = tensor.chunk(2, dim)
            second.copy_(first)
    sliced = extract_subnet(complete, NARROW).eval()
    images = images_of(8)
    goals = complete(images)
    assert refit(sliced, complete, images.split(3)) == 8
    for output, goal in zip(sliced(images), goals, strict=True):
        assert (output - goal).square().mean() < 1e-5 * goal.square().mean()


def test_a_refitted_slice_is_nearer_to_the_complete_network_on_other_images(complete):
    sort_channels(complete, images_of(8).split(4))
    sliced = extract_subnet(complete, NARROW).eval()
    other = images_of(8, seed=2)

    def distance() -> float:
        pairs = zip(sliced(other), complete(other), strict=True)
        return sum((a - b).square().mean().item() for a, b in pairs)

    before = distance()
    refit(sliced, complete, images_of(16).split(4))
    assert distance() < 0.7 * before


def test_weights_of_mixing_layers_change_and_nothing_else(complete):
    sliced, again = (extract_subnet(complete, NARROW) for _ in range(2))
    refit(sliced, complete, images_of(4).split(2))
    mixing = {layer for stream in streams_of(sliced) for layer, _ in stream.readers}
    names = {name for name, module in sliced.named_modules() if module in mixing}
    changed = {
        name
        for name, tensor in sliced.state_dict().items()
        if not torch.equal(tensor, again.state_dict()[name])
    }
    assert changed == {f"{name}.weight" for name in names}


def test_the_complete_network_is_not_touched(complete):
    before = {name: tensor.clone() for name, tensor in complete.state_dict().items()}
    whole = extract_subnet(complete, WHOLE)
    assert refit(whole, complete, images_of(2).split(2)) == 2
    for name, tensor in complete.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert torch.equal(whole.state_dict()[name], tensor)  # no channel was dropped
    assert not [m for m in complete.modules() if m._forward_pre_hooks]


def test_many_slices_are_refitted_from_one_look_at_the_images(complete):
    looks = []

    def images(size: int) -> list[torch.Tensor]:
        looks.append(size)
        return list(images_of(4).split(2))

    refitting = Refitting(complete, images)
    narrow = NARROW.with_numbers({"stages.0.channel": 16, "deconv.1": 16})
    for arch in (NARROW, narrow, WHOLE):
        many, one = (extract_subnet(complete, arch) for _ in range(2))
        refitting(many, 64)
        refit(one, complete, images_of(4).split(2))
        for name, tensor in one.state_dict().items():
            assert torch.equal(many.state_dict()[name], tensor), name
    assert looks == [64]


def test_the_blocks_that_a_slice_keeps_are_refitted(complete):
    shallow = NARROW.with_numbers({"stages.2.depth": 1})
    one, other = (extract_subnet(complete, arch) for arch in (shallow, NARROW))
    assert refit(one, complete, images_of(4).split(2)) == 4
    refit(other, complete, images_of(4).split(2))
    assert all(torch.equal(other.state_dict()[name], t) for name, t in one.state_dict().items())


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_of_the_complete_network_is_restored(complete, mode):
    complete.train(mode)
    refit(extract_subnet(complete, NARROW), complete, images_of(2).split(2))
    assert complete.training is mode
