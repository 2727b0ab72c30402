"""An exported network finds the people of PyTorch, and those of the runner on a device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from yacs.config import CfgNode

from lib.core.inference import predict
from lib.deploy.compiled import CompiledNetwork
from lib.deploy.exported import CandidateNetwork, open_exported
from lib.deploy.session import open_session
from lib.keypoints import COCO
from tests.helpers import (
    EACH_RUNTIME,
    ROOT,
    fill,
    needs_openvino,
    network,
    tiny_config,
    write_exported,
)
from tools import device_runner


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


class Exported(NamedTuple):
    path: Path
    cfg: CfgNode
    model: nn.Module  # random weights
    card: dict[str, Any]


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Callable[..., Exported]:
    """Export the tiny network; each combination once."""

    @cache
    def make(
        kind: str, size: tuple[int, int] | None, codec: str, flip: bool, tag_dims: int = 1
    ) -> Exported:
        folder = tmp_path_factory.mktemp("exported")
        opts = ("MODEL.CODEC", codec, "TEST.FLIP_TEST", str(flip))
        opts += ("MODEL.AE_TAG_DIMS", str(tag_dims))
        cfg = tiny_config(folder, folder, *opts)
        model = network(cfg).eval()
        with torch.no_grad():
            fill(model, 3)
        path = folder / "model.onnx"
        write_exported(path, cfg, model, kind, size)
        return Exported(path, cfg, model, json.loads(path.with_name("card.json").read_text()))

    return make


REFERENCE = ("pixels", None, "reference", True)
UNBIASED = ("pixels", None, "unbiased", False)
FIXED = ("candidates", (128, 64), "unbiased", False)
MAPS = ("network", None, "reference", True, 2)  # tags of two dimensions, twice with the flip
FIXED_MAPS = ("network", (128, 64), "unbiased", True)


def find(onnx: CandidateNetwork, image: np.ndarray) -> tuple[np.ndarray, list[float]]:
    return onnx.group(onnx.compute(onnx.prepare(image)))[:2]


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
@pytest.mark.parametrize(
    "settings", [REFERENCE, UNBIASED, MAPS], ids=["reference", "unbiased", "maps"]
)
def test_people_are_those_of_pytorch(export, settings, runtime):
    path, cfg, model, _ = export(*settings)
    onnx = open_exported(path, runtime, threads=1)
    assert (onnx.spec, onnx.input_size, onnx.codec) == (COCO, 64, settings[2])
    for shape in [(96, 128, 3), (130, 70, 3), (9, 17, 3), (1, 1, 3)]:
        expected, expected_scores = predict(cfg, model, noise(*shape))
        people, scores = find(onnx, noise(*shape))
        assert people.shape == expected.shape
        assert shape == (1, 1, 3) or len(people) > 3
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-4)
        np.testing.assert_array_equal(people[..., 2] > 0, expected[..., 2] > 0)
        np.testing.assert_allclose(people, expected, atol=0.01)


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
@pytest.mark.parametrize("callers", [1, 2])
def test_threads_that_call_at_the_same_time_get_their_own_people(export, runtime, callers):
    """Also where fewer were announced."""
    onnx = open_exported(export(*MAPS).path, runtime, threads=2, callers=callers)
    assert onnx.callers == callers
    images = [noise(90 + i, 130, 3) for i in range(12)]
    alone = [find(onnx, image)[0] for image in images]
    with ThreadPoolExecutor(3) as pool:
        together = [people for people, _ in pool.map(lambda image: find(onnx, image), images)]
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


FIRST_CALLS = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from lib.deploy.session import open_session
sys.setswitchinterval(1e-6)  # threads change places as often as possible
run, gate = open_session(Path(sys.argv[1]), "openvino", 8, 8), threading.Barrier(8)
def call(_):
    gate.wait()
    return len(run(np.zeros((1, 64, 64, 3), np.uint8)))
with ThreadPoolExecutor(8) as pool:
    print(sum(pool.map(call, range(8))))
"""


@needs_openvino
def test_first_inferences_of_threads_do_not_meet(export):
    """In another process: without a lock, most of them hang."""
    command = [sys.executable, "-c", FIRST_CALLS, str(export(*MAPS).path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("16\n", 0), done.stderr


@pytest.mark.parametrize(
    "settings", [REFERENCE, UNBIASED, FIXED], ids=["reference", "unbiased", "fixed"]
)
def test_people_are_those_of_the_runner_on_the_same_input(export, settings):
    path, _, _, card = export(*settings)
    onnx = open_exported(path, threads=1)
    for shape in [(96, 128, 3), (130, 70, 3), (9, 17, 3)]:
        image = noise(*shape)
        prepared = onnx.prepare(image)
        pixels, ratio, center = device_runner.prepare(card, image)
        assert prepared.images.shape == pixels.shape
        assert np.abs(prepared.images.astype(int) - pixels).max() <= 1  # OpenCV rounds differently
        outputs = onnx.compute(prepared).outputs
        expected = device_runner.group(card["grouping"], *outputs[:3])
        expected_scores = expected[..., 2].mean(axis=1)
        device_runner.fill_missing(expected, *outputs[-3:])
        middle = np.array(pixels.shape[2:0:-1]) / 2
        xy = (expected[..., :2] - middle) / ratio + center - card["pixel_center"]
        people, scores = find(onnx, image)
        assert len(people) > 3
        np.testing.assert_array_equal(scores, expected_scores)
        np.testing.assert_array_equal(people[..., 2:], expected[..., 2:])
        found = people[..., 2] > 0
        np.testing.assert_allclose(people[found, :2], xy[found], atol=1e-4)


def test_maps_of_a_fixed_size_give_the_people_of_the_graph_with_peaks(export):
    maps = open_exported(export(*FIXED_MAPS).path, threads=1)
    peaks = open_exported(export("pixels", *FIXED_MAPS[1:]).path, threads=1)
    for shape in [(96, 128, 3), (130, 70, 3), (9, 17, 3)]:
        expected, expected_scores = find(peaks, noise(*shape))
        people, scores = find(maps, noise(*shape))
        assert len(people) > 3
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-4)
        np.testing.assert_allclose(people, expected, atol=0.01)


def test_a_threshold_that_is_edited_in_the_card_holds_for_maps(export, tmp_path):
    made = export(*MAPS)
    (tmp_path / "model.onnx").write_bytes(made.path.read_bytes())
    grouping = dict(made.card["grouping"], detection_threshold=1e9)
    (tmp_path / "card.json").write_text(json.dumps(made.card | {"grouping": grouping}))
    people, scores = find(open_exported(tmp_path / "model.onnx", threads=1), noise(40, 40, 3))
    assert (people.shape, scores) == ((0, 17, 7), [])


def test_an_image_without_people_has_none(export):
    onnx = open_exported(export(*FIXED).path, threads=1)
    onnx.group_params = replace(onnx.group_params, detection_threshold=1e9)
    people, scores = find(onnx, noise(40, 40, 3))
    assert (people.shape, scores) == ((0, 17, 4), [])


@pytest.mark.parametrize("output", [1, 2, -2])
def test_candidates_that_are_not_finite_are_an_error(export, output):
    onnx = open_exported(export(*REFERENCE).path, threads=1)
    found = onnx.compute(onnx.prepare(noise(96, 128, 3)))
    found.outputs[output][:] = np.nan
    with pytest.raises(ValueError, match="the network's maps are not finite"):
        onnx.group(found)


def test_an_elongated_image_is_refused_where_inputs_may_have_any_size(export):
    with pytest.raises(ValueError, match="1 x 600 pixels become an input of 64 x 38400"):
        open_exported(export(*UNBIASED).path, threads=1).prepare(noise(600, 1, 3))


@pytest.mark.parametrize(
    ("model", "card", "message"),
    [
        (None, None, "there is no exported network"),
        (b"", None, "cannot read the card .*card.json: No such file"),
        (b"", "not json", "card.json is not JSON"),
        (b"", '{"outputs": ["values"]}', "the card next to .* is not of an exported network"),
        (b"", '{"outputs": ["refined"]}', "the card next to .* is not of an exported network"),
    ],
)
def test_a_file_that_is_not_an_exported_network_is_one_line(tmp_path, model, card, message):
    path = tmp_path / "model.onnx"
    if model is not None:
        path.write_bytes(model)
    if card is not None:
        (tmp_path / "card.json").write_text(card)
    with pytest.raises(ValueError, match=message) as caught:
        open_exported(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_a_damaged_model_is_one_line(export, tmp_path, runtime):
    (tmp_path / "card.json").write_text(json.dumps(export(*FIXED).card))
    (tmp_path / "model.onnx").write_bytes(b"hello")
    with pytest.raises(ValueError, match="cannot be run") as caught:
        open_exported(tmp_path / "model.onnx", runtime)
    assert "\n" not in str(caught.value)
    assert "src/" not in str(caught.value)


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ("tensorrt", "the runtime is 'tensorrt'; possible: onnxruntime, openvino, openvino-bf16"),
        ("pytorch", "the runtime is 'pytorch'; possible: onnxruntime"),
        ("openvino", "the runtime openvino is missing .*; install it: pip install openvino$"),
        ("openvino-bf16", "openvino-bf16 is missing .*; install it: pip install openvino$"),
    ],
)
def test_a_runtime_that_is_unknown_or_missing_is_one_line(export, monkeypatch, runtime, message):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=message):
        open_exported(export(*FIXED).path, runtime)
    with pytest.raises(ValueError, match=message):
        CompiledNetwork.convert(nn.Identity(), runtime)


@needs_openvino
def test_a_file_of_openvino_needs_openvino(export, tmp_path):
    import openvino

    made = export(*REFERENCE)
    openvino.save_model(openvino.Core().read_model(made.path), tmp_path / "model.xml", False)
    (tmp_path / "card.json").write_text(json.dumps(made.card))
    image = noise(96, 128, 3)
    expected, _ = find(open_exported(made.path, threads=1), image)
    people, _ = find(open_exported(tmp_path / "model.xml", threads=1), image)
    np.testing.assert_allclose(people, expected, atol=0.01)
    with pytest.raises(ValueError, match="is a network for OpenVINO: the runtime is openvino"):
        open_exported(tmp_path / "model.xml", "onnxruntime")


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
@pytest.mark.parametrize("where", ["../secret", "link", "pipe", "/dev/zero"])
def test_a_model_reads_no_file_outside_its_folder(tmp_path, where, runtime):
    """ONNX may keep weights in another file. The runtimes confine it; nothing here does."""
    folder = tmp_path / "exported"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(400))
    (folder / "link").symlink_to("../secret")
    os.mkfifo(folder / "pipe")
    weights = onnx.TensorProto(name="weights", data_type=onnx.TensorProto.FLOAT, dims=[100])
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", where), ("length", "400")):
        weights.external_data.add(key=key, value=value)
    values = [onnx.helper.make_tensor_value_info(name, 1, [100]) for name in ("images", "sum")]
    node = onnx.helper.make_node("Add", ["images", "weights"], ["sum"])
    graph = onnx.helper.make_graph([node], "graph", values[:1], values[1:], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    model.ir_version = 10
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="cannot be run by") as caught:
        open_session(folder / "model.onnx", runtime)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_not_utf8_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="runtimes open only files whose names are UTF-8"):
        open_session(tmp_path / "caf\udcff.onnx")
