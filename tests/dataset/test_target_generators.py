"""Targets equal the original's, and stand on the joints they are made from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.dataset.target_generators import (
    HeatmapGenerator,
    JointsGenerator,
    heatmap_targets,
    joint_nodes,
    make_targets,
    map_joints,
)
from tests.helpers import GOLDEN

RECORDED = np.load(GOLDEN / "targets.npz")
CASES = sorted(name.removeprefix("joints_") for name in RECORDED.files if "joints" in name)


@pytest.mark.parametrize("case", CASES)
def test_heatmaps_equal_the_original(case):
    _, size, sigma = case.split("_")
    generator = HeatmapGenerator(int(size), 17, int(sigma))
    heatmaps = generator(RECORDED[f"joints_{case}"])
    np.testing.assert_allclose(heatmaps, RECORDED[f"heatmaps_{case}"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("tag_per_joint", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_tag_addresses_equal_the_original(case, tag_per_joint):
    _, size, _ = case.split("_")
    generator = JointsGenerator(30, 17, int(size), tag_per_joint)
    nodes = generator(RECORDED[f"joints_{case}"])
    np.testing.assert_array_equal(nodes, RECORDED[f"nodes_{case}_{tag_per_joint}"])


def random_joints(seed: int, batch: int, people: int, size: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    joints = rng.uniform(-5, size + 5, (batch, people, 14, 3))
    joints[..., 2] = rng.integers(0, 3, (batch, people, 14))
    return torch.from_numpy(joints)


def test_a_batch_equals_its_samples():
    joints = random_joints(0, 4, 6, 96)
    sigmas = torch.full((4, 6), 2.0)
    batch = heatmap_targets(joints, sigmas, 96)
    for i in range(4):
        assert torch.equal(batch[i : i + 1], heatmap_targets(joints[i : i + 1], sigmas[:1], 96))


def test_every_person_may_have_its_own_sigma():
    joints = random_joints(1, 1, 3, 64)
    sigmas = torch.tensor([[1.0, 2.5, 4.0]])
    together = heatmap_targets(joints, sigmas, 64)
    alone = [heatmap_targets(joints[:, i : i + 1], sigmas[:, i : i + 1], 64) for i in range(3)]
    assert torch.equal(together, torch.stack(alone).amax(dim=0))


def test_absent_people_do_not_crowd_one_address(monkeypatch):
    """The threads of a GPU that write to one address wait for each other."""
    addresses = []
    scatter = torch.Tensor.scatter_reduce_

    def record(target, dim, address, *args, **kwargs):
        addresses.append(address)
        return scatter(target, dim, address, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "scatter_reduce_", record)
    heatmap_targets(torch.zeros(2, 30, 17, 3), torch.ones(2, 30), 64)
    assert addresses[0].bincount().max() < len(addresses[0]) / 50


def test_a_gaussian_of_fractional_sigma_peaks_on_its_joint():
    joints = torch.tensor([[[[10.4, 21.9, 2.0]]]])
    heatmap = heatmap_targets(joints, torch.tensor([[1.75]]), 64)[0, 0]
    assert heatmap[21, 10] == 1
    assert torch.equal(heatmap[21, 10 - 6 : 10], heatmap[21, 11 : 11 + 6].flip(0))


def test_a_batch_without_people_has_empty_targets():
    for joints in (torch.zeros(2, 3, 14, 3), torch.zeros(2, 0, 14, 3), torch.zeros(0, 1, 14, 3)):
        assert not heatmap_targets(joints, torch.zeros(joints.shape[:2]), 32).any()
        assert not joint_nodes(joints, 32).any()


@pytest.mark.parametrize("size", [256, 320, 384, 448, 512])
def test_a_tag_address_is_on_its_joint_at_every_size(size):
    crop = random_joints(size, 3, 4, 512)
    flipped = torch.tensor([True, False, True])
    masks = [torch.ones(3, size // 4, size // 4), torch.ones(3, size // 2, size // 2)]
    targets = make_targets(crop, flipped, torch.full((3, 4), 2.0), masks, 512)
    for stage, out in enumerate((size // 4, size // 2)):
        on_map = map_joints(crop, flipped, out / 512)
        for b in range(3):
            for p in range(4):
                seen = [
                    (k, int(y), int(x))
                    for k, (x, y, v) in enumerate(on_map[b, p].tolist())
                    if v > 0 and -1 < x < out and -1 < y < out
                ]
                nodes = targets.nodes[stage][b, p]
                read = [
                    (a // out**2, a % out**2 // out, a % out) for a, one in nodes.tolist() if one
                ]
                assert read == seen
                assert all(targets.heatmaps[stage][b, k, y, x] == 1 for k, y, x in seen)


def test_more_people_than_slots_are_an_error_that_says_so():
    with pytest.raises(ValueError, match="3 people for 2 slots"):
        JointsGenerator(2, 14, 64)(np.zeros((3, 14, 3)))
