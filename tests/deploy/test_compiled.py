"""A network that another runtime computes gives the outputs of PyTorch."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from lib.config import load_config
from lib.core.images import normalize
from lib.core.inference import InferenceSettings, predict
from lib.deploy.compiled import CompiledNetwork
from lib.deploy.graph import PixelGraph
from tests.helpers import EACH_RUNTIME, ROOT, fill, needs_openvino, network, tiny_config


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    return tiny_config(folder, folder)


@pytest.fixture(scope="module")
def trained(cfg):
    model = network(cfg).eval()
    with torch.no_grad():
        fill(model, 3)
    return model


@pytest.fixture(scope="module")
def compiled(trained):
    """The network in a runtime; each conversion, of some seconds, once."""
    return cache(lambda runtime: CompiledNetwork.convert(trained, runtime, threads=1).eval())


def pixels(*shape: int) -> torch.Tensor:
    """(B, 3, H, W) uint8"""
    return torch.randint(256, shape, dtype=torch.uint8)


def normalized(images: torch.Tensor) -> torch.Tensor:
    return normalize(images.permute(0, 2, 3, 1))


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_outputs_are_those_of_pytorch_for_any_number_and_size(trained, compiled, runtime):
    for shape in [(1, 3, 64, 64), (2, 3, 64, 192), (3, 3, 128, 64), (1, 3, 64, 64)]:
        images = pixels(*shape)
        with torch.inference_mode():
            expected, outputs = trained(normalized(images)), compiled(runtime)(images)
        assert [output.shape for output in outputs] == [one.shape for one in expected]
        for output, one in zip(outputs, expected, strict=True):
            torch.testing.assert_close(output, one, atol=1e-4, rtol=1e-4)


def test_a_graph_around_it_is_the_graph_around_the_network(cfg, trained):
    """Also where a runtime takes one image at a time."""

    def run(images: np.ndarray) -> list[np.ndarray]:
        assert (len(images), images.dtype) == (1, np.uint8)
        return [output.numpy() for output in trained(normalize(torch.from_numpy(images)))]

    settings = InferenceSettings.from_config(cfg)
    images = torch.randint(256, (3, 64, 128, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = PixelGraph(settings, trained)(images)
        outputs = PixelGraph(settings, CompiledNetwork(run, one_by_one=True))(images)
    assert len(outputs) == len(expected) == 6
    for output, one in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, one)


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_people_are_those_of_pytorch(cfg, trained, compiled, runtime):
    settings = InferenceSettings.from_config(cfg)
    image = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    expected, _ = predict(settings, trained, image)
    people, _ = predict(settings, compiled(runtime), image)
    assert len(people) > 3
    torch.testing.assert_close(torch.tensor(people), torch.tensor(expected), atol=0.01, rtol=1e-3)


@needs_openvino
def test_bfloat16_is_close(trained):
    images = pixels(2, 3, 64, 128)
    with torch.inference_mode():
        expected = trained(normalized(images))
        outputs = CompiledNetwork.convert(trained, "openvino-bf16", threads=1)(images)
    for output, one in zip(outputs, expected, strict=True):
        assert output.dtype == torch.float32
        assert (output - one).abs().max() < 0.1 * one.abs().max()


def test_so_are_those_of_another_family():
    cfg = load_config(ROOT / "experiments/crowd_pose/efficient_hrnet/H-4.yaml")
    model = network(cfg, None).eval()
    with torch.no_grad():
        fill(model, 5)
    images = pixels(1, 3, 64, 128)
    with torch.inference_mode():
        expected = model(normalized(images))
        outputs = CompiledNetwork.convert(model, "onnxruntime", threads=1)(images)
    for output, one in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, one, atol=1e-3 * one.abs().max().item(), rtol=1e-3)
