"""A network without its BatchNorms is the same network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib.config import load_config
from lib.deploy.fold import fold_norms
from lib.models.arch import ArchSpec
from tests.helpers import ROOT, TINY, YAMLS, fill, network

ARCHS = sorted((ROOT / "mobile_configs").glob("*.json"))
OTHERS = ("higher_hrnet/shrink_3.yaml", "efficient_hrnet/H-4.yaml")
PIXELS = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@torch.no_grad()
def assert_folded(model: nn.Module) -> None:
    """Random weights and statistics, in double precision: rounding leaves little to hide behind."""
    fill(model, 1)
    model = model.double().eval()
    expected, count = model(PIXELS), len(norms(model))
    folded = fold_norms(model)
    assert norms(folded) == []
    for whole, other in zip(expected, folded(PIXELS), strict=True):
        assert whole.abs().max() > 0.01
        assert (whole - other).abs().max() < 1e-12 * whole.abs().max()
    assert len(norms(model)) == count  # and the network itself is as it was
    for before, after in zip(expected, model(PIXELS), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("path", ARCHS, ids=lambda path: path.stem)
def test_every_published_architecture_is_the_same_without_batchnorms(path):
    arch = ArchSpec.from_json(path)
    assert_folded(network(load_config(YAMLS["crowd_pose"], img_size=arch.img_size), arch))


@pytest.mark.parametrize("name", OTHERS)
def test_so_are_other_families(name):
    assert_folded(network(load_config(ROOT / "experiments/crowd_pose" / name), None))


@pytest.mark.parametrize("kernels", ["[4, 3, 2]", "[2, 2, 2]"])
@pytest.mark.parametrize("fusion", ["True", "False"])
def test_so_is_every_head(kernels, fusion):
    opts = ["MODEL.EXTRA.NUM_DECONV_KERNELS", kernels, "MODEL.FUSION_HEAD", fusion]
    assert_folded(network(load_config(YAMLS["coco"], opts), TINY))


class ReadTwice(nn.Module):
    """What the BatchNorm reads is read by something else too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x + self.norm(x)


@torch.no_grad()
def test_a_batchnorm_stays_where_its_convolution_is_read_twice():
    model = ReadTwice()
    fill(model, 1)
    model = model.double().eval()
    folded = fold_norms(model)
    assert len(norms(folded)) == 1
    assert torch.equal(model(PIXELS), folded(PIXELS))
