"""The supernet is the published one, and an extracted sub-network is the same function."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch

from arch_manager import ArchManager
from lib.models.arch import ArchSpec, largest_arch, uniform_arch
from lib.models.pieces import arch_macs, pieces_of
from lib.models.pose_supermobilenet import SuperLitePose
from lib.models.subnet import extract_subnet
from lib.utils.complexity import count_macs
from tests.helpers import GOLDEN, ROOT, fill, seeded_image

ARCHS = sorted(path.stem for path in (ROOT / "mobile_configs").glob("*.json"))
CROWD_POSE, COCO = (28, 14), (34, 17)


def supernet(channels=CROWD_POSE, elastic_kernel=False) -> SuperLitePose:
    return SuperLitePose(largest_arch(512), channels, elastic_kernel=elastic_kernel)


def arch_of(name: str) -> ArchSpec:
    return ArchSpec.from_json(ROOT / "mobile_configs" / f"{name}.json")


@pytest.mark.parametrize(("data_set", "channels"), [("crowd_pose", CROWD_POSE), ("coco", COCO)])
def test_state_dict_is_the_published_one(data_set, channels):
    manifests = json.loads(gzip.decompress((GOLDEN / "state_dict_manifests.json.gz").read_bytes()))
    model = supernet(channels, elastic_kernel=True)
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert shapes == manifests[f"pose_supermobilenet_{data_set}"]


def test_forward_equals_the_original():
    golden = np.load(GOLDEN / "forward_pose_supermobilenet_search-XS_crowd_pose.npz")
    seed, arch = int(golden["seed"]), arch_of("search-XS")
    model = supernet(elastic_kernel=True)
    fill(model, seed)
    model.eval()
    with torch.no_grad():
        outputs = model(seeded_image(seed, arch.img_size), arch)
    for i, output in enumerate(outputs):
        assert tuple(output.shape) == tuple(golden[f"out{i}_shape"])
        strided = output[..., ::4, ::4].numpy()
        np.testing.assert_allclose(strided, golden[f"out{i}_strided"], atol=1e-4, rtol=0)
        assert output.double().mean().item() == pytest.approx(golden[f"out{i}_mean"], abs=1e-5)


@pytest.mark.parametrize("name", ARCHS)
def test_subnet_equals_its_slice(name):
    model, arch = supernet(), arch_of(name)
    fill(model, 5)
    model.eval()
    image = seeded_image(5, 128)
    with torch.no_grad():
        inside, extracted = model(image, arch), extract_subnet(model, arch)(image)
    assert all(torch.equal(a, b) for a, b in zip(inside, extracted, strict=True))


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_subnet_of_smaller_kernels_equals_its_slice(kernel):
    model = supernet(elastic_kernel=True)
    fill(model, 6)
    model.eval()
    arch = uniform_arch(128, 16, (16, 32, 48, 80), (16, 24, 24), block=(4, kernel))
    image = seeded_image(6, 64)
    with torch.no_grad():
        inside, extracted = model(image, arch), extract_subnet(model, arch)(image)
    assert all(torch.equal(a, b) for a, b in zip(inside, extracted, strict=True))


@pytest.mark.parametrize("maps", [True, False], ids=["mapped", "center"])
@pytest.mark.parametrize("step", range(8))
def test_a_subnet_of_any_dimensions_equals_its_slice(step, maps):
    """Widths, expansions, kernels, and stages without their last blocks."""
    model = supernet(elastic_kernel=maps)
    fill(model, step)
    model.eval()
    space = ArchManager(
        model.arch,
        resolutions=(64,),
        ratios=(1.0, 0.75, 0.5, 0.25),
        expansions=(6, 4, 3),
        kernels=(7, 5, 3),
        depths=(1.0, 0.7, 0.4, 0.1),
    )
    arch = space.sample(step)
    assert arch.numbers.keys() < model.arch.numbers.keys()  # some blocks are skipped
    image = seeded_image(step, 64)
    with torch.no_grad():
        subnet = extract_subnet(model, arch)
        inside, extracted = model(image, arch), subnet(image)
    assert all(torch.equal(a, b) for a, b in zip(inside, extracted, strict=True))
    assert count_macs(subnet, 64)["true"] == arch_macs(pieces_of(arch, CROWD_POSE))["true"]


def test_a_block_that_adds_nothing_may_be_skipped():
    """The residual is all that is left of it."""
    model = supernet()
    fill(model, 8)
    model.eval().requires_grad_(False)
    for stage, depth in zip(model.stage, (2, 3, 1, 4), strict=True):
        for block in stage[depth:]:
            block.point_conv[1].weight.zero_()
            block.point_conv[1].bias.zero_()
    arch = uniform_arch(64, 24, (32, 64, 96, 160), (64, 48, 32), depths=(2, 3, 1, 4))
    image = seeded_image(3, 64)
    with torch.no_grad():
        whole, short = model(image), extract_subnet(model, arch)(image)
    assert all(torch.equal(a, b) for a, b in zip(whole, short, strict=True))


def test_without_an_architecture_it_is_the_complete_network():
    model = supernet()
    fill(model, 7)
    model.eval()
    image = seeded_image(1, 64)
    with torch.no_grad():
        pairs = zip(model(image), model(image, model.arch), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_every_parameter_learns_at_the_narrowest_architecture():
    model = supernet()
    narrow = uniform_arch(64, 8, (8, 16, 24, 40), (16, 16, 8))
    sum(output.square().mean() for output in model(seeded_image(0, 64), narrow)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_training_moves_the_statistics_of_the_active_channels_only():
    model = supernet()
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(seeded_image(0, 64), uniform_arch(64, 8, (8, 16, 24, 40), (16, 16, 8)))
    after = model.state_dict()
    name = "stage.0.1.point_conv.1.running_var"
    assert not torch.equal(after[name][:8], before[name][:8])
    assert torch.equal(after[name][8:], before[name][8:])


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (uniform_arch(64, 32, (32, 64, 96, 160), (64, 48, 32)), "input_channel is 32"),
        (uniform_arch(64, 24, (40, 64, 96, 160), (64, 48, 32)), "stages.0.channel is 40"),
        (uniform_arch(64, 24, (32, 64, 96, 160), (64, 48, 40)), "deconv.2 is 40"),
        (
            uniform_arch(64, 24, (8, 8, 8, 8), (8, 8, 8), depths=(7, 6, 8, 8)),
            r"stages\.0\.depth is 7",
        ),
        (uniform_arch(64, 24, (8, 8, 8, 8), (8, 8, 8), block=(7, 7)), "expansion is 7"),
        (uniform_arch(64, 24, (8, 8, 8, 8), (8, 8, 8), block=(6, 9)), "kernel is 9"),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused(arch, message):
    with pytest.raises(ValueError, match=message):
        supernet()(seeded_image(0, 64), arch)
