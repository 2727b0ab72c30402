"""Export to other runtimes: what is written and compared, and what is refused."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib.core.images import normalize
from lib.core.inference import InferenceSettings
from lib.deploy.export import make_program, write_onnx
from lib.deploy.graph import NetworkGraph
from lib.utils.checkpoint import save_checkpoint
from tests.helpers import TINY, fill, needs_openvino, network, tiny_config
from tools.export import __main__ as export
from tools.export import targets
from tools.export.check import gap
from tools.export.forms import open_form
from tools.export.runtimes import INSTALL
from tools.export.targets import (
    TARGETS,
    Target,
    channels_of,
    refuse_unknown,
    run_pnnx,
    steps_after,
)

EXECUTORCH = "executorch.extension.pybindings.portable_lib"


@pytest.fixture(scope="module")
def checkpoint(coco_root, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run") / "checkpoint.pth.tar"
    cfg = tiny_config(coco_root, path.parent)
    model = network(cfg)
    with torch.no_grad():
        fill(model, 3)
    state = {"state_dict": model.state_dict(), "arch": TINY.to_dict(), "config": cfg.dump()}
    save_checkpoint(path, epoch=1, **state)
    return path


@pytest.fixture
def settings(coco_root, tmp_path) -> InferenceSettings:
    return InferenceSettings.from_config(tiny_config(coco_root, tmp_path))


@pytest.fixture
def run(call_tool, checkpoint, tmp_path):
    """Export the checkpoint with these flags to tmp_path/out."""
    folder = tmp_path / "out"
    return lambda *flags: call_tool(export.main, "--model", checkpoint, "--out", folder, *flags)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


# --- a runtime that stands for any: the network's maps in another ONNX file --------------


def write_plain(graph, size, folder) -> dict:
    maps = NetworkGraph(graph.settings, graph.network).eval()
    write_onnx(folder / "model.plain.onnx", make_program(maps, size), maps.outputs)
    return {"outputs": list(maps.outputs)}


def write_damaged(graph, size, folder) -> dict:
    graph = copy.deepcopy(graph)
    for values in graph.network.parameters():
        values.data *= 1.02
    return write_plain(graph, size, folder)


@pytest.fixture
def plain(monkeypatch) -> Target:
    target = Target("ncnn", (), ("model.plain.onnx",), write_plain, network_alone=True)
    monkeypatch.setitem(TARGETS, "plain", target)
    return target


@pytest.mark.parametrize("graph", ["pixels", "network"])
def test_maps_and_people_of_a_runtime_are_compared(run, plain, tmp_path, graph):
    result = run("--to", "plain", "--size", "128x64", "--graph", graph, "--flip")
    assert result.code == 0
    assert "model.plain.onnx: differs by at most " in result.out
    [row] = [line for line in result.out.splitlines() if line.startswith("| model.plain")]
    assert row.endswith("| 4 of 4 | 100.0 % |")
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["runtimes"] == {
        "plain": {"files": ["model.plain.onnx"], "outputs": ["stage0", "stage1"]}
    }


def test_a_runtime_that_differs_ends_the_export_with_an_error(run, plain, monkeypatch):
    """Maps of other weights are no rounding; and the people are others."""
    monkeypatch.setitem(TARGETS, "plain", plain._replace(write=write_damaged))
    result = run("--to", "plain", "--size", "128x64", "TEST.DETECTION_THRESHOLD", "0")
    assert result.code == 1
    path = "out/model.plain.onnx"
    assert [line for line in result.out.splitlines() if line.startswith("error: ") and path in line]
    assert f"{path}: people differ from PyTorch's in " in result.err
    assert "model.onnx: people" not in result.err


def test_files_of_a_runtime_never_replace_the_weights(run, plain, checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model.plain.onnx").hardlink_to(checkpoint)
    result = run("--to", "plain")
    assert result.code == 2
    assert "model.plain.onnx is the file of the input" in result.err


# --- without the packages ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "module"), [("ncnn", "pnnx"), ("ncnn", "ncnn"), ("executorch", "executorch.exir")]
)
def test_a_missing_package_is_named_before_the_work(run, monkeypatch, tmp_path, name, module):
    for one in TARGETS[name].modules:
        monkeypatch.setitem(sys.modules, one, SimpleNamespace())
    monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    result = run("--to", name, "--size", "128x64")
    assert (result.code, result.out) == (2, "")
    [line] = result.err.splitlines()
    library = TARGETS[name].library
    assert line.startswith(f"error: {library} cannot be used (")
    assert line.endswith(f": {INSTALL[library]}")
    assert not (tmp_path / "out").exists()


def test_executorch_needs_a_size(run, tmp_path):
    result = run("--to", "executorch")
    assert result.code == 2
    assert result.err == (
        "error: --to executorch needs --size WxH: its memory is planned for one size\n"
    )


def test_a_runtime_that_is_unknown_is_refused(capsys):
    with pytest.raises(SystemExit):
        export.parse_args(["--out", "x", "--to", "abacus"])
    assert "invalid choice: 'abacus'" in capsys.readouterr().err
    assert export.parse_args(["--out", "x"]).to == []
    args = export.parse_args(["--out", "x", "--to", "ncnn", "--to", "executorch", "A.B", "1"])
    assert (args.to, args.opts) == (["ncnn", "executorch"], ["A.B", "1"])


def test_what_pnnx_prints_last_is_the_error(monkeypatch, tmp_path):
    """Also where it ends well and writes nothing."""
    command = tmp_path / "pnnx"
    monkeypatch.setitem(sys.modules, "pnnx", SimpleNamespace(EXEC_PATH=str(command)))
    for code in (0, 3):
        command.write_text(f"#!/bin/sh\necho first >&2\necho 'no such op' >&2\nexit {code}\n")
        command.chmod(0o755)
        with pytest.raises(ValueError, match="pnnx cannot convert this network: no such op"):
            run_pnnx(tmp_path)


def test_layers_that_ncnn_lacks_are_named(monkeypatch):
    known = SimpleNamespace(create_layer=lambda kind: None if kind in ("TopK", "Mod") else kind)
    monkeypatch.setitem(sys.modules, "ncnn", known)
    refuse_unknown(["Input", "Convolution"])
    with pytest.raises(ValueError, match="it has no layer Mod, TopK"):
        refuse_unknown(["TopK", "Convolution", "Mod", "TopK"])


def test_a_card_without_the_runtime_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ncnn", SimpleNamespace())
    card = {"input": {"side": 64, "size": None}, "outputs": [], "flip_test": False}
    card["provenance"] = {"config": "", "arch": None}
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"card next to .*model\.ncnn\.bin does not describe it"):
        open_form(tmp_path / "model.ncnn.bin", threads=1)


def test_outputs_of_other_shapes_differ_without_bound():
    assert gap(np.zeros((1, 2)), np.ones((1, 2))) == 1
    assert gap(np.zeros((1, 2)), np.zeros((1, 3))) == np.inf


# --- what the card says of maps -------------------------------------------------------------


def test_channels_are_those_that_the_evaluation_reads(settings):
    """Stage 0 has heatmaps and tags of 17 joints, stage 1 heatmaps alone."""
    assert channels_of(settings, 0, 34) == {"heatmaps": [0, 17], "tags": [17, 34]}
    assert channels_of(settings, 1, 17) == {"heatmaps": [0, 17], "tags": None}
    settings = replace(settings, with_heatmaps=(False, True))
    assert channels_of(settings, 0, 34)["heatmaps"] is None
    assert channels_of(settings, 0, 18)["tags"] == [17, 18]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flip_test": True}, "flip its outputs back"),
        ({"with_center": True, "ignore_center": True}, "the center"),
        ({"project2image": True}, "to the size of the input"),
        ({"mask_borders": True}, "all black"),
    ],
)
def test_the_card_lists_the_steps_of_the_settings_alone(settings, changes, words):
    off = dict.fromkeys(("flip_test", "with_center", "project2image", "mask_borders"), False)
    settings = replace(settings, **off)
    assert words not in " ".join(steps_after(settings))
    assert words in " ".join(steps_after(replace(settings, **changes)))


# --- with the packages ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def ncnn():
    for module in targets.NCNN.modules:
        pytest.importorskip(module, reason=f"not installed: {INSTALL['ncnn']}")
    return sys.modules["ncnn"]


@pytest.mark.parametrize(
    "flags",
    [("--size", "128x64", "--flip"), pytest.param(("--graph", "network"), marks=pytest.mark.slow)],
)
def test_ncnn_finds_the_people_of_pytorch(ncnn, run, tmp_path, flags):
    """The second run writes over the first one's files, and a damaged file is one line."""
    for _ in range(2):
        result = run("--to", "ncnn", "--to", "ncnn-fp16", *flags)
        assert result.code == 0, result.err
        rows = [line.split(" | ") for line in result.out.splitlines() if ".ncnn.bin | " in line]
        assert [row[0] for row in rows] == ["| model.ncnn.bin", "| model-fp16.ncnn.bin"]
        assert rows[0][-2:] == ["4 of 4", "100.0 % |"]
        path = tmp_path / "out/model.ncnn.bin"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ValueError, match=r"model\.ncnn\.bin cannot be run by ncnn"):
            open_form(path, threads=1)
    rules = json.loads((tmp_path / "out/card.json").read_text())["runtimes"]["ncnn"]
    assert [output["name"] for output in rules["outputs"]] == ["out0", "out1"]
    assert [output["pixels_of_input"] for output in rules["outputs"]] == [4, 2]
    image = noise(64, 128, 3)
    mat = ncnn.Mat.from_pixels(image, ncnn.Mat.PixelType.PIXEL_RGB, 128, 64)
    mat.substract_mean_normalize(rules["input"]["mean"], rules["input"]["norm"])
    expected = normalize(torch.from_numpy(image[None]))[0]
    np.testing.assert_allclose(np.array(mat), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["pixels", "network"])
def test_executorch_finds_the_people_of_pytorch(run, tmp_path, graph):
    pytest.importorskip(EXECUTORCH, reason=f"not installed: {INSTALL['executorch']}")
    result = run("--to", "executorch", "--size", "128x64", "--graph", graph)
    assert result.code == 0, result.err
    assert "model.pte: differs by at most " in result.out
    rows = [line for line in result.out.splitlines() if line.startswith("| model.pte")]
    same = "| 4 of 4 | 100.0 % |"
    assert [row.endswith(same) for row in rows] == ([True] if graph == "pixels" else [])
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["runtimes"]["executorch"]["outputs"] == card["outputs"]
    path = tmp_path / "out/model.pte"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.pte cannot be run by ExecuTorch"):
        open_form(path, threads=1)


@needs_openvino
def test_openvino_has_the_whole_graph_and_runs_the_int8_file(run, tmp_path):
    assert run("--size", "64x64", "--to", "openvino", "--int8", "2").code == 0
    folder = tmp_path / "out"
    card = json.loads((folder / "card.json").read_text())
    assert card["runtimes"]["openvino"]["files"] == ["model.xml", "model.bin"]
    images = noise(1, 64, 64, 3)
    files = (("model.onnx", ""), ("model.xml", ""), ("model-int8.onnx", "openvino"))
    floats, openvino, int8 = (
        open_form(folder / name, 1, runtime or "onnxruntime")(images) for name, runtime in files
    )
    for name in ("values", "pixel_values", "pixel_tags"):  # peaks of value 0 are anywhere
        place = card["outputs"].index(name)
        assert gap(openvino[place], floats[place]) < 1e-3 * np.abs(floats[place]).max()
    values = card["outputs"].index("pixel_values")
    assert 0.95 < np.corrcoef(int8[values].ravel(), floats[values].ravel())[0, 1] < 1
