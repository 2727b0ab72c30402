"""Parallel kernels in training are one kernel for everything that reads the weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

import dist_train
from lib.models.arch import uniform_arch
from lib.models.layers.branches import DepthwiseBranches, fold_branches
from lib.models.load import read_network
from lib.models.pose_mobilenet import BranchedLitePose, LitePose
from lib.models.subnet import extract_subnet, supernet_of
from lib.predictor import Predictor
from lib.utils.checkpoint import save_checkpoint
from lib.utils.complexity import count_macs, count_params
from tests.helpers import network, tiny_config
from tests.runs import CPU, train
from tools.export import __main__ as export

# Kernels of 7, 5 and 3, with strides of 1 and 2.
ARCH = uniform_arch(64, 8, (8, 8, 16, 16), (8, 8, 8), depths=(2, 1, 1, 1), block=(2, 7))
ARCH = replace(
    ARCH,
    stages=tuple(
        replace(stage, blocks=tuple((expansion, kernel) for expansion, _ in stage.blocks))
        for stage, kernel in zip(ARCH.stages, (7, 5, 3, 7), strict=True)
    ),
)
KEY = ["MODEL.KERNEL_BRANCHES", "True"]


@pytest.fixture
def cfg(coco_root, tmp_path):
    return tiny_config(coco_root, tmp_path, *KEY)


@pytest.fixture
def trained(cfg):
    """A network whose statistics and weights are those of some data."""
    torch.manual_seed(0)
    model = network(cfg, ARCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(4):
        optimizer.zero_grad()
        sum(output.square().mean() for output in model(2 + torch.randn(4, 3, 64, 64))).backward()
        assert all(p.grad.any() for name, p in model.named_parameters() if ".kernels." in name)
        optimizer.step()
    return model.eval()


@pytest.fixture
def path(cfg, trained, tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    state = trained.state_dict()
    save_checkpoint(path, state_dict=state, arch=ARCH.to_dict(), config=cfg.dump())
    return path


def assert_equal_outputs(one, other):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for a, b in zip(one(images), other(images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * a.abs().max().item())


def test_only_large_kernels_of_stages_have_branches(trained):
    assert type(trained) is BranchedLitePose
    sizes = [
        [branch[0].kernel_size[0] for branch in block.depth_conv[0].kernels]
        for block in trained.blocks()
    ]
    assert sizes == [[7, 5, 3], [7, 5, 3], [5, 3], [3], [7, 5, 3]]


@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_branched_layer_keeps_the_size(kernel, stride):
    layer = DepthwiseBranches(4, kernel, stride)
    assert layer(torch.randn(2, 4, 16, 16)).shape == (2, 4, 16 // stride, 16 // stride)


def test_the_folded_network_equals_the_trained_one(trained, path):
    read = read_network(path)
    folded = read.build(CPU)
    assert type(folded) is LitePose
    assert not read.cfg.MODEL.KERNEL_BRANCHES
    assert_equal_outputs(trained, folded)


def test_the_folded_network_has_the_size_of_one_without_branches(cfg, path, coco_root, tmp_path):
    plain = network(tiny_config(coco_root, tmp_path), ARCH)
    folded = read_network(path).build(CPU)
    assert count_macs(folded, 64) == count_macs(plain, 64)
    assert count_params(folded) == count_params(plain) < count_params(network(cfg, ARCH))
    assert list(folded.state_dict()) == list(plain.state_dict())


def test_statistics_of_the_folded_network_are_those_of_its_layers(trained, path):
    """So that it can be recalibrated: the variance after the sum does not change."""
    folded = read_network(path).build(CPU).state_dict()
    for name, tensor in trained.state_dict().items():
        if name.endswith("running_var") and ".kernels." not in name:
            assert torch.equal(folded[name], tensor)


def test_sub_networks_are_slices_of_the_folded_network(path):
    supernet = supernet_of(read_network(path).build(CPU)).eval()
    whole = extract_subnet(supernet, ARCH)
    assert_equal_outputs(whole, supernet)


def test_predictor_and_export_read_the_folded_network(path, tmp_path):
    args = export.parse_args(["--model", str(path), "--out", str(tmp_path)])
    exported = export.read_weights(args).build(CPU)
    for model in (Predictor.load(str(path)).network.model, exported):
        assert not any(isinstance(module, DepthwiseBranches) for module in model.modules())
    assert type(exported) is LitePose


def test_a_network_without_branches_starts_from_one_with_them(trained, path, coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path, "MODEL.PRETRAINED", str(path))
    model = network(cfg, ARCH)
    dist_train.load_pretrained(cfg, model)
    assert_equal_outputs(trained, model.eval())


def test_branches_continue_with_branches_and_need_them(trained, cfg, path, coco_root, tmp_path):
    opts = ["MODEL.PRETRAINED", str(path)]
    branched = tiny_config(coco_root, tmp_path, *KEY, *opts)
    model = network(branched, ARCH)
    dist_train.load_pretrained(branched, model)
    assert_equal_outputs(trained, model.eval())
    plain = network(tiny_config(coco_root, tmp_path), ARCH)
    config = tiny_config(coco_root, tmp_path).dump()
    save_checkpoint(path, state_dict=plain.state_dict(), arch=ARCH.to_dict(), config=config)
    with pytest.raises(ValueError, match="missing"):
        dist_train.load_pretrained(branched, model)


def test_damaged_branches_are_one_line(trained):
    whole = trained.state_dict()
    name = "stage.0.0.depth_conv.0.kernels.1.1.running_var"
    for value in (None, torch.ones(3), torch.ones(2, 2, 2)):
        state = copy.copy(whole)
        del state[name]
        if value is not None:
            state[name] = value
        with pytest.raises(ValueError, match=r"^x: the branches of stage\.0\.0\.depth_conv\.0 are"):
            fold_branches(state, "x")


def test_weights_without_branches_are_as_they_are(coco_root, tmp_path):
    state = network(tiny_config(coco_root, tmp_path), ARCH).state_dict()
    folded = fold_branches(state, "x")
    assert list(folded) == list(state)
    assert all(folded[name] is state[name] for name in state)


def test_a_supernet_has_none(coco_root, tmp_path):
    with pytest.raises(ValueError, match="MODEL.KERNEL_BRANCHES is for pose_mobilenet, MODEL.NAME"):
        tiny_config(coco_root, tmp_path, *KEY, "MODEL.NAME", "pose_supermobilenet")


def test_a_run_trains_resumes_and_leaves_weights_to_read(coco_root, tmp_path):
    """With an EMA, whose network is the one that is saved."""
    opts = [*KEY, "TRAIN.EMA", "0.9", "DATASET.MAX_IMAGES", "4"]
    out = tmp_path / "out"
    for epochs in ("1", "2"):
        cfg = tiny_config(coco_root, tmp_path, *opts, "TRAIN.END_EPOCH", epochs)
        assert train(cfg, out, arch=ARCH) is None
    for name in ("checkpoint.pth.tar", "final_state0.pth.tar"):
        assert type(read_network(out / name).build(CPU)) is LitePose
