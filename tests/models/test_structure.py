"""The names and shapes of a state dict say which network it belongs to."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from yacs.config import CfgNode

from lib.config import load_config
from lib.keypoints import COCO, CROWD_POSE
from lib.models import build_model
from lib.models.arch import ArchSpec, largest_arch, uniform_arch
from lib.models.pose_mobilenet import LitePose
from lib.models.structure import Outputs, read_structure, same_network, split_channels
from tests.helpers import GOLDEN, ROOT, TINY, network, tiny_config

MANIFESTS = json.loads(gzip.decompress((GOLDEN / "state_dict_manifests.json.gz").read_bytes()))
LITEPOSE = [name for name in MANIFESTS if name.startswith("pose_mobilenet")]


def zeros(manifest: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in manifest.items()}


@pytest.mark.parametrize("name", LITEPOSE)
def test_published_weights_are_of_their_architecture_file(name):
    _, _, arch, *data_set = name.split("_")
    structure = read_structure(zeros(MANIFESTS[name]), name)
    expected = ArchSpec.from_json(ROOT / f"mobile_configs/{arch}.json")
    assert structure.kind == "pose_mobilenet"
    assert structure.arch.deconv == expected.deconv
    assert structure.arch.stages == expected.stages
    assert same_network(structure.arch, expected)
    others = [ArchSpec.from_json(path) for path in (ROOT / "mobile_configs").glob("*.json")]
    assert sum(same_network(structure.arch, other) for other in others) == 1
    joints = (COCO if data_set == ["coco"] else CROWD_POSE).num_joints
    assert structure.channels == (2 * joints, joints)


@pytest.mark.parametrize("data_set", ["coco", "crowd_pose"])
def test_published_supernets_have_maps_to_smaller_kernels(data_set):
    structure = read_structure(zeros(MANIFESTS[f"pose_supermobilenet_{data_set}"]), data_set)
    assert structure.kind == "pose_supermobilenet"
    assert structure.model["ELASTIC_KERNEL"]
    assert same_network(structure.arch, largest_arch(512))


@pytest.mark.parametrize("name", ["w16", "w24", "shrink_1", "shrink_2"])
def test_a_higher_hrnet_is_read_as_its_yaml_describes_it(name):
    cfg = load_config(ROOT / f"experiments/crowd_pose/higher_hrnet/{name}.yaml")
    with torch.device("meta"):
        structure = read_structure(build_model(cfg).state_dict(), name)
    assert structure.kind == "pose_higher_hrnet"
    assert structure.channels == (28, 14)
    assert_describes(structure.model["EXTRA"], cfg)


@pytest.mark.parametrize("name", [name for name in MANIFESTS if "hrnet" in name])
def test_published_hrnets_are_read_as_their_yaml_describes_them(name):
    structure = read_structure(zeros(MANIFESTS[name]), name)
    folder, yaml_name = name.removeprefix("pose_").split("hrnet_")
    yaml_name = yaml_name.split("_")[0].replace("w16", "shrink_3")  # recorded under that name
    [path, *_] = (ROOT / "experiments").glob(f"*/{folder}hrnet/{yaml_name}.yaml")
    cfg = load_config(path)
    assert structure.kind == cfg.MODEL.NAME
    assert_describes(structure.model["EXTRA"], cfg)


def assert_describes(extra: dict, cfg: CfgNode) -> None:
    for key, value in extra.items():
        assert cfg.MODEL.EXTRA.get(key, 1) == value, key  # FINAL_CONV_KERNEL is 1 by default


def test_odd_multipliers_of_an_efficient_hrnet_give_the_same_tensors():
    path = ROOT / "experiments/coco/efficient_hrnet/H-4.yaml"
    with torch.device("meta"):
        opts = ["MODEL.EXTRA.WIDTH_MULT", "1.3", "MODEL.EXTRA.DEPTH_MULT", "0.6"]
        state = build_model(load_config(path, opts)).state_dict()
        extra = read_structure(state, path).model["EXTRA"]
        opts = ["MODEL.EXTRA.WIDTH_MULT", str(extra["WIDTH_MULT"])]
        opts += ["MODEL.EXTRA.DEPTH_MULT", str(extra["DEPTH_MULT"])]
        again = build_model(load_config(path, opts)).state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in again.items()}


@pytest.mark.parametrize("kernels", [(4, 3, 2), (2, 2, 4)])
@pytest.mark.parametrize("fusion", [True, False])
def test_blocks_kernels_and_the_raw_half_are_read(kernels, fusion):
    arch = uniform_arch(64, 16, (8, 24, 16, 40), (8, 16, 24), depths=(1, 3, 2, 1), block=(3, 5))
    state = LitePose(arch, (34, 17), kernels, fusion).state_dict()
    structure = read_structure(state, "these")
    assert structure.arch.stages == arch.stages
    assert same_network(structure.arch, arch)
    assert structure.model["FUSION_HEAD"] is fusion
    assert structure.model["EXTRA"]["NUM_DECONV_KERNELS"] == list(kernels)


def test_expansions_that_round_to_the_same_width_are_the_same_network():
    narrow = [uniform_arch(64, 4, (8,) * 4, (8,) * 3, (1,) * 4, (e, 3)) for e in (1, 2, 3)]
    first = read_structure(LitePose(narrow[0], (34, 17)).state_dict(), "these").arch
    assert same_network(first, narrow[0])
    assert not same_network(first, narrow[2])


@pytest.mark.parametrize(
    ("channels", "joints", "tag_per_joint", "flags"),
    [
        ((34, 17), 17, True, (True, False)),
        ((28, 14), 14, True, (True, False)),
        ((17, 34), 17, True, (False, True)),
        ((18, 17), 17, False, (True, False)),
        ((34, 34), 17, True, (True, True)),
        ((18, 18), 17, False, (True, True)),
        ((36, 18), 18, True, (True, False)),
        ((40, 40), 20, True, (True, True)),
        ((34, 17, 17), 17, True, (True, False, False)),
    ],
)
def test_channels_are_heatmaps_and_tag_maps(channels, joints, tag_per_joint, flags):
    assert split_channels(channels, (14, 17)) == Outputs(joints, tag_per_joint, flags)


@pytest.mark.parametrize(
    ("channels", "flags", "dims"),
    [((51, 17), (True, False), 2), ((17, 85), (False, True), 4), ((42, 14), (True, False), 2)],
)
def test_more_tag_maps_than_joints_are_dimensions(channels, flags, dims):
    assert split_channels(channels, (14, 17)) == Outputs(min(channels), True, flags, dims)


def test_channels_without_tags_are_refused():
    with pytest.raises(ValueError, match=r"outputs of \[17, 20\] channels are no heatmaps"):
        split_channels((17, 20), (14, 17))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stage.2.0.point_conv.0.weight", "these lacks a tensor of its network: 'stage.2.0.point"),
        ("final_refined.0.conv.3.weight", "the tensors of these match no known network"),
    ],
)
def test_a_state_dict_with_a_gap_is_refused(tmp_path, name, message):
    state = network(tiny_config(tmp_path, tmp_path), TINY).state_dict()
    del state[name]
    with pytest.raises(ValueError, match=message):
        read_structure(state, Path("these"))


def test_a_width_that_is_no_multiple_is_refused(tmp_path):
    state = network(tiny_config(tmp_path, tmp_path), TINY).state_dict()
    state["stage.1.0.depth_conv.0.weight"] = torch.zeros(20, 1, 3, 3)
    with pytest.raises(ValueError, match="these: 20 channels inside a block of 8"):
        read_structure(state, "these")
