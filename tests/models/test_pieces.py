"""A network costs what its pieces cost."""

from __future__ import annotations

import pytest
import torch

from lib.config import load_config
from lib.models import build_model
from lib.models.arch import ArchSpec, uniform_arch
from lib.models.pieces import arch_macs, build_piece, pieces_from_config, pieces_of
from lib.models.pose_mobilenet import LitePose
from lib.utils.complexity import count_macs, count_params
from tests.helpers import ROOT, TINY, YAMLS

PUBLISHED = sorted((ROOT / "mobile_configs").glob("*.json"))
CROWD_POSE = (28, 14)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_macs_of_the_pieces_are_those_of_the_network(path):
    arch = ArchSpec.from_json(path)
    with torch.device("meta"):
        network = LitePose(arch, CROWD_POSE)
    assert arch_macs(pieces_of(arch, CROWD_POSE)) == count_macs(network, arch.img_size)


def test_the_meta_device_counts_what_a_forward_pass_does():
    arch = ArchSpec.from_json(ROOT / "mobile_configs/search-XS.json")
    pieces = pieces_of(arch, CROWD_POSE)
    assert arch_macs(pieces) == count_macs(LitePose(arch, CROWD_POSE), arch.img_size)


@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize("kernels", [(4, 4, 4), (3, 4, 2)])
def test_the_pieces_are_the_network_whatever_its_head(fusion, kernels):
    arch = uniform_arch(128, 8, (8, 16, 24, 40), (16, 8, 24), (1, 2, 1, 3), (3, 5))
    network = LitePose(arch, CROWD_POSE, kernels, fusion)
    pieces = pieces_of(arch, CROWD_POSE, kernels, fusion)
    assert arch_macs(pieces) == count_macs(network, arch.img_size)
    assert sum(count_params(build_piece(piece)) for piece in pieces) == count_params(network)


@pytest.mark.parametrize("data_set", YAMLS)
def test_the_config_gives_the_pieces_of_the_network_it_builds(data_set):
    cfg = load_config(YAMLS[data_set], ["MODEL.FUSION_HEAD", "False"], img_size=TINY.img_size)
    pieces = pieces_from_config(cfg)(TINY)
    assert arch_macs(pieces) == count_macs(build_model(cfg, TINY), TINY.img_size)


def test_a_piece_takes_the_map_it_says():
    for piece in set(pieces_of(TINY, CROWD_POSE)):
        out = build_piece(piece).eval()(torch.zeros(1, piece.in_channels, piece.size, piece.size))
        assert out.shape[1] == piece.out_channels
