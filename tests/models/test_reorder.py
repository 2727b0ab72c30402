"""Sorting channels changes their order and nothing else."""

from __future__ import annotations

import pytest
import torch

from lib.models.arch import ArchSpec, largest_arch, uniform_arch
from lib.models.pose_mobilenet import LitePose
from lib.models.pose_supermobilenet import SuperLitePose
from lib.models.reorder import sort_channels, stream_of
from tests.helpers import ROOT, fill, seeded_image


@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize("name", ["search-XS", "search-L"])
def test_a_sorted_network_is_the_same_function(name, fusion):
    arch = ArchSpec.from_json(ROOT / "mobile_configs" / f"{name}.json")
    model = LitePose(arch, [28, 14], fusion=fusion)
    fill(model, 11)
    model.double().eval()  # float64: only the order of summation differs
    image = seeded_image(11, 64).double()
    with torch.no_grad():
        before = model(image)
        sort_channels(model)
        after = model(image)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_channels_are_in_descending_importance():
    model = SuperLitePose(largest_arch(128), [28, 14])
    fill(model, 12)
    before = [stream_of(model, i).importance for i in range(5)]
    assert not any(torch.equal(x, x.sort(descending=True).values) for x in before)
    sort_channels(model)
    for old, i in zip(before, range(5), strict=True):
        # Permuting the readers of one stream permutes only the order of the others' sums.
        torch.testing.assert_close(
            stream_of(model, i).importance, old.sort(descending=True).values, rtol=1e-5, atol=0
        )


def test_sorting_twice_is_sorting_once():
    model = LitePose(uniform_arch(64, 16, (16, 32, 48, 80), (16, 24, 24)), [28, 14])
    fill(model, 13)
    sort_channels(model)
    once = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sort_channels(model)
    assert all(torch.equal(once[name], tensor) for name, tensor in model.state_dict().items())
