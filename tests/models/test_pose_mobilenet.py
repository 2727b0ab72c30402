"""The network is the published one: names, shapes, sizes and numbers."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch

from lib.models.arch import ArchSpec, uniform_arch
from lib.models.pose_mobilenet import LitePose, output_channels
from lib.utils.complexity import count_macs, count_params
from tests.helpers import GOLDEN, ROOT, fill, seeded_image

JOINTS = {"crowd_pose": 14, "coco": 17}
ARCHS = ("search-XS", "search-S", "search-M", "search-L", "prune-S", "prune-M", "prune-L")


def build(name: str, data_set: str) -> tuple[LitePose, ArchSpec]:
    arch = ArchSpec.from_json(ROOT / "mobile_configs" / f"{name}.json")
    channels = output_channels(JOINTS[data_set], (True, False), tag_per_joint=True)
    return LitePose(arch, channels), arch


@pytest.mark.parametrize("data_set", JOINTS)
@pytest.mark.parametrize("name", ARCHS)
def test_state_dict_is_the_published_one(name, data_set):
    manifests = json.loads(gzip.decompress((GOLDEN / "state_dict_manifests.json.gz").read_bytes()))
    model, _ = build(name, data_set)
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert shapes == manifests[f"pose_mobilenet_{name}_{data_set}"]


@pytest.mark.parametrize(("name", "data_set"), [("search-XS", "crowd_pose"), ("search-S", "coco")])
def test_forward_equals_the_original(name, data_set):
    golden = np.load(GOLDEN / f"forward_pose_mobilenet_{name}_{data_set}.npz")
    seed = int(golden["seed"])
    model, arch = build(name, data_set)
    fill(model, seed)
    model.eval()
    with torch.no_grad():
        outputs = model(seeded_image(seed, arch.img_size))
    for i, output in enumerate(outputs):
        assert tuple(output.shape) == tuple(golden[f"out{i}_shape"])
        strided = output[..., ::4, ::4].numpy()
        np.testing.assert_allclose(strided, golden[f"out{i}_strided"], atol=1e-4, rtol=0)
        assert output.double().mean().item() == pytest.approx(golden[f"out{i}_mean"], abs=1e-5)
        assert output.double().std(correction=0).item() == pytest.approx(
            golden[f"out{i}_std"], abs=1e-5
        )


@pytest.mark.parametrize(
    ("name", "params", "true_gmacs", "paper_gmacs"),
    [
        ("search-XS", 1_675_552, 0.883, 1.20),
        ("search-S", 2_731_240, 3.614, 4.98),
        ("search-M", 3_533_808, 5.264, 7.84),
        ("search-L", 5_738_120, 9.962, 13.71),
        ("prune-S", 1_709_032, 3.486, 4.69),
        ("prune-M", 3_472_064, 6.849, 9.55),
        ("prune-L", 5_812_744, 10.895, 15.28),
    ],
)
def test_published_sizes(name, params, true_gmacs, paper_gmacs):
    model, arch = build(name, "crowd_pose")
    macs = count_macs(model, arch.img_size)
    assert count_params(model) == params
    assert macs["true"] / 1e9 == pytest.approx(true_gmacs, abs=6e-4)
    assert macs["paper"] / 1e9 == pytest.approx(paper_gmacs, abs=6e-3)


@pytest.mark.parametrize(("kernel", "gmacs"), [(3, 3.77), (5, 4.14), (7, 4.69)])
def test_smaller_kernels_cost_what_the_ablation_says(kernel, gmacs):
    arch = uniform_arch(512, 16, (16, 32, 48, 80), (32, 24, 16), block=(6, kernel))
    assert count_macs(LitePose(arch, [28, 14]), 512)["paper"] / 1e9 == pytest.approx(
        gmacs, abs=6e-3
    )


def test_a_head_without_its_raw_half_costs_what_the_ablation_says():
    arch = ArchSpec.from_json(ROOT / "mobile_configs" / "prune-S.json")
    model = LitePose(arch, [28, 14], fusion=False)
    assert not [name for name, _ in model.named_parameters() if "raw" in name]
    assert count_macs(model, 512)["paper"] / 1e9 == pytest.approx(4.06, abs=6e-3)


def test_channels_last_changes_no_number():
    model, arch = build("search-XS", "crowd_pose")
    fill(model, 3)
    model.eval()
    image = seeded_image(3, 128)
    with torch.no_grad():
        plain = model(image)
        fast = model.to(memory_format=torch.channels_last)(
            image.to(memory_format=torch.channels_last)
        )
    for a, b in zip(plain, fast, strict=True):
        # Another order of summation: float32 rounding of values near 1.
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


def test_every_parameter_learns():
    model, _ = build("search-XS", "crowd_pose")
    outputs = model(seeded_image(0, 64))
    sum(output.square().mean() for output in outputs).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_every_deconv_kernel_doubles_the_map(kernel):
    arch = uniform_arch(64, 8, (8, 8, 8, 8), (8, 8, 8), depths=(1, 1, 1, 1))
    outputs = LitePose(arch, [6, 3], deconv_kernels=(kernel,) * 3)(seeded_image(0, 64))
    assert [tuple(output.shape) for output in outputs] == [(1, 6, 16, 16), (1, 3, 32, 32)]
