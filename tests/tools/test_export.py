"""A network on its way to a device, and what the device makes of it."""

from __future__ import annotations

import ast
import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from lib.config import load_config
from lib.core.inference import InferenceSettings, predict, settings_of
from lib.core.inference import prepare as prepare_for_torch
from lib.core.results import Prediction
from lib.deploy.graph import GRAPHS
from lib.keypoints import COCO
from lib.models import build_model
from lib.models.subnet import extract_subnet
from lib.utils import cli
from lib.utils.checkpoint import save_checkpoint, save_weights
from tests.helpers import OTHER, ROOT, TINY, YAMLS, fill, load_weights, network, tiny_config
from tools import device_runner
from tools.device_runner import assign, find_people
from tools.export import __main__ as export
from tools.export.check import (
    compare_outputs,
    describe_differences,
    difference,
    people_in_common,
)
from tools.export.forms import open_form
from tools.export.int8 import folder_inputs

RUNNER = ROOT / "tools/device_runner.py"
NO_FLIP = ("TEST.FLIP_TEST", "False")


def save_tiny(path: Path, data: Path, *opts: str) -> Path:
    """A checkpoint as a training leaves it."""
    cfg = tiny_config(data, path.parent, *opts)
    model = network(cfg)
    with torch.no_grad():
        fill(model, 3)
    state = {"state_dict": model.state_dict(), "arch": TINY.to_dict(), "config": cfg.dump()}
    save_checkpoint(path, epoch=1, **state)
    return path


class Exported(NamedTuple):
    """A folder that the tool has written, from a checkpoint."""

    folder: Path
    checkpoint: Path
    code: int


@pytest.fixture(scope="module")
def checkpoint(coco_root, tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("run") / "checkpoint.pth.tar", coco_root)


def run(checkpoint: Path, folder: Path, *flags: str) -> Exported:
    code = export.main(["--model", str(checkpoint), "--out", str(folder), *flags])
    return Exported(folder, checkpoint, code)


@pytest.fixture(scope="module")
def pixels(checkpoint, tmp_path_factory) -> Exported:
    """Of inputs of any size and number, with the flip test; this export takes ten seconds."""
    folder = tmp_path_factory.mktemp("pixels") / "new"
    return run(checkpoint, folder, "--graph", "pixels", "--flip")


@pytest.fixture(scope="module")
def fixed(checkpoint, tmp_path_factory) -> Exported:
    return run(checkpoint, tmp_path_factory.mktemp("fixed"), "--size", "128x64")


def open_model(path: Path) -> tuple[onnxruntime.InferenceSession, dict]:
    """On one core: threads that wait for one another are slower."""
    return device_runner.open_model(path, threads=1)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def test_nobody_is_found_in_the_black_borders_of_a_fixed_size(fixed):
    """128 x 64 with an upright image in its middle: 48 of 128 columns are the image."""
    session, card = open_model(fixed.folder / "model.onnx")
    image = noise(80, 60, 3)
    people, _ = find_people(session, card, image)
    assert len(people) > 0
    found = people[..., 2] > 0
    assert (people[found][:, 0] >= -1.5).all()
    assert (people[found][:, 0] <= 61.5).all()
    config = card["provenance"]["config"]
    assert "MASK_BORDERS: true" in config


def test_8_bit_numbers_are_only_converted_and_compared_by_their_maximum(fixed):
    """ONNX Runtime up to 1.20 has few operations on them; `images > 0` is none of these."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(fixed.folder / "model.onnx")).graph
    kinds = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)
    }
    uint8 = onnx.TensorProto.UINT8
    readers = {n.op_type for n in graph.node if any(kinds.get(name) == uint8 for name in n.input)}
    assert readers <= {"Cast", "ReduceMax"}


# --- what is written ----------------------------------------------------------------------


def test_a_checkpoint_alone_becomes_a_model_in_floats_and_in_8_bits(checkpoint, tmp_path, capsys):
    exported = run(checkpoint, tmp_path, "--int8", "3", "--evaluate", "--size", "64x64")
    assert exported.code == 0
    out = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("|")]
    torch_rows = ["PyTorch, as valid.py", "PyTorch, this graph"]
    assert rows[-6:] == ["", "---", *torch_rows, "model.onnx", "model-int8.onnx"]
    assert "layers stay in floats:" in out
    assert "images in 64x64, aspect ratios kept: scale " in out
    names = {"model.onnx", "model-int8.onnx", "model.pt2", "card.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    formats = [
        (model.ir_version, [opset.version for opset in model.opset_import])
        for model in (onnx.load(tmp_path / name) for name in ("model.onnx", "model-int8.onnx"))
    ]
    assert formats == [(8, [18])] * 2  # what ONNX Runtime 1.15 reads
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert "BatchNormalization" not in kinds
    quantized = onnx.load(tmp_path / "model-int8.onnx").graph
    weights = {array.name: array.data_type for array in quantized.initializer}
    assert onnx.TensorProto.INT8 in weights.values()
    assert "QuantizeLinear" not in kinds
    assert "QuantizeLinear" in [node.op_type for node in quantized.node]


def test_people_in_common_are_those_at_the_same_place():
    person = np.stack([*(np.random.default_rng(0).random((2, 17)) * 200), np.ones(17)], axis=1)
    near, far = person + [1, 0, 0], person + [500, 0, 0]

    def common(found: list[np.ndarray], reference: list[np.ndarray], scores: list[float]) -> str:
        sets = [Prediction(1, np.array(p).reshape(-1, 17, 3), scores) for p in (found, reference)]
        return people_in_common(sets[:1], sets[1:], np.array(COCO.sigmas))

    assert common([person, far], [far, near], [0.9, 0.5]) == "100.0 %"
    assert common([person, far], [person, person], [0.9, 0.5]) == "75.0 %"
    assert common([person, far], [person, person], [0.9, 0.1]) == "100.0 %"  # too uncertain
    assert common([], [], []) == "-"


def test_the_card_says_what_a_device_must_know(pixels):
    card = json.loads((pixels.folder / "card.json").read_text())
    assert card["input"]["side"] == 64
    assert card["input"]["size"] is None
    assert len(card["joints"]) == len(card["flip_index"]) == 17
    assert sorted(card["grouping"]["joint_order"]) == list(range(17))
    assert card["grouping"]["detection_threshold"] == 0.1
    origin = card["provenance"]
    assert (origin["epoch"], origin["weights"]) == (1, str(pixels.checkpoint))
    assert len(origin["sha256"]) == 64
    assert origin["arch"] == TINY.to_dict()


def test_the_network_alone_gives_its_maps(checkpoint, coco_root, tmp_path, capsys):
    flags = ("--graph", "network", "--size", "64x128", "--evaluate")
    folder = run(checkpoint, tmp_path, *flags).folder
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| model")]
    assert [row.split("|")[1].strip() for row in rows] == ["model.onnx"]
    assert re.search(r"(\d+) of \1 \|", rows[0])  # images with the same people
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    coarse, fine = session.run(None, {"images": noise(1, 128, 64, 3)})
    assert (coarse.shape, fine.shape) == ((1, 34, 32, 16), (1, 17, 64, 32))
    with pytest.raises(ValueError, match="returns maps, not candidates"):
        open_model(folder / "model.onnx")


def test_a_sub_network_can_be_exported(coco_root, tmp_path):
    """Its settings are the supernet's."""
    cfg = tiny_config(coco_root, tmp_path, "MODEL.NAME", "pose_supermobilenet")
    supernet = network(cfg)
    with torch.no_grad():
        fill(supernet, 1)
    cut = extract_subnet(supernet, TINY)
    origin = {"supernet": "super.pth.tar", "config": cfg.dump()}
    path = tmp_path / "tiny.pth.tar"
    save_checkpoint(path, state_dict=cut.state_dict(), arch=TINY.to_dict(), provenance=origin)
    args = export.parse_args(["--model", str(path), "--out", str(tmp_path)])
    exported = export.read_weights(args)
    assert (exported.kind, exported.input_size) == ("pose_mobilenet", TINY.img_size)
    assert export.provenance_of(exported)["supernet"] == "super.pth.tar"
    weights = exported.build(torch.device("cpu")).state_dict()
    for name, tensor in cut.state_dict().items():
        assert torch.equal(weights[name], tensor)


def test_the_program_runs_in_pytorch_alone(fixed):
    session, _ = open_model(fixed.folder / "model.onnx")
    pictures = noise(1, 64, 128, 3)
    outputs = torch.export.load(fixed.folder / "model.pt2").module()(torch.from_numpy(pictures))
    values = session.run(["values"], {"images": pictures})[0]
    np.testing.assert_allclose(outputs[1].detach().numpy(), values, rtol=1e-5)


# --- several images at a time -----------------------------------------------------------


def test_any_number_of_images_at_a_time_gives_what_each_gives_alone(pixels):
    session, _ = open_model(pixels.folder / "model.onnx")
    program = torch.export.load(pixels.folder / "model.pt2").module()
    pictures = noise(3, 64, 128, 3)
    together = session.run(None, {"images": pictures})
    for i in range(3):
        alone = session.run(None, {"images": pictures[i : i + 1]})
        for all_of_them, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(all_of_them[i], one[0], atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(together, program(torch.from_numpy(pictures)), strict=True):
        assert ours.shape == tuple(theirs.shape)
        assert len(ours) == 3


# --- people -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(96, 128, 3), (130, 70, 3), (64, 64, 3), (9, 17, 3), (1, 1, 3)])
def test_the_device_finds_the_people_of_the_evaluation(pixels, coco_root, tmp_path, shape):
    session, card = open_model(pixels.folder / "model.onnx")
    cfg = tiny_config(coco_root, tmp_path)
    model = build_model(cfg, TINY)
    load_weights(model, pixels.checkpoint)
    picture = noise(*shape)
    expected, scores = predict(cfg, model.eval(), picture)
    people, own_scores = find_people(session, card, picture)
    order = np.argsort(-np.array(scores), kind="stable")
    np.testing.assert_allclose(own_scores, np.array(scores)[order], rtol=1e-4)
    found = expected[order][..., 2] > 0
    assert shape == (1, 1, 3) or len(people) > 3
    np.testing.assert_array_equal(people[..., 2] > 0, found)
    assert np.abs(people[found] - expected[order][found][:, :3]).max(initial=0) < 0.01


def test_images_of_every_kind_are_taken(fixed):
    model = open_model(fixed.folder / "model.onnx")
    grey = noise(50, 90)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    rgba = np.concatenate([rgb, noise(50, 90, 1)], axis=2)
    expected = find_people(*model, rgb)
    for picture in (grey, grey[..., None], rgba):
        for one, other in zip(find_people(*model, picture), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_large_image_is_shrunk_into_a_fixed_size(fixed):
    session, card = open_model(fixed.folder / "model.onnx")
    people, _ = find_people(session, card, np.tile(noise(60, 80, 3), (100, 100, 1)))
    found = people[people[..., 2] > 0]
    assert len(found) > 10
    middle, reach = np.array([4000, 3000]), np.array([64, 32]) * 6000 / 64
    assert (np.abs(found[:, :2] - middle) <= reach).all()


def test_files_of_an_earlier_export_are_named(tmp_path, caplog):
    for name in ("model-int8.onnx", "model.pte", "notes.txt", "model.onnx", "card.json"):
        (tmp_path / name).write_text("earlier", encoding="utf-8")
    export.name_leftovers(tmp_path, ["model.onnx", "model.pt2", "card.json"])
    [line] = caplog.messages
    assert line.endswith("files of an earlier export are left: model-int8.onnx, model.pte")


def test_where_nobody_is_there_are_no_people(fixed):
    session, card = open_model(fixed.folder / "model.onnx")
    card["grouping"]["detection_threshold"] = 1e9
    people, scores = find_people(session, card, noise(40, 40, 3))
    assert people.shape == (0, 17, 3)
    assert scores.shape == (0,)


@pytest.mark.parametrize(
    "picture",
    [np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
    ids=["two channels", "floats", "empty"],
)
def test_what_is_no_image_is_refused(fixed, picture):
    with pytest.raises(ValueError, match=r"an image is \(H, W, 3\) uint8, not"):
        find_people(*open_model(fixed.folder / "model.onnx"), picture)


def test_a_sliver_is_refused_where_inputs_may_have_any_size(pixels):
    with pytest.raises(ValueError, match="1 x 600 pixels become an input of 64 x 38400"):
        find_people(*open_model(pixels.folder / "model.onnx"), noise(600, 1, 3))


# --- the runner alone ---------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["reference", "unbiased"])
@pytest.mark.parametrize("kind", ["short", "long"])
def test_inputs_are_those_of_the_evaluation(codec, kind):
    opts = ["MODEL.CODEC", codec, "TEST.SCALE_TYPE", kind, "DATASET.INPUT_SIZE", "96"]
    cfg = load_config(YAMLS["coco"], opts)
    rules = {"size": None, "scale_type": kind, "side": 128, "multiple_of": 64}
    card = {"input": rules, "pixel_center": 0.5 if codec == "unbiased" else 0.0}
    for shape in [(30, 40, 3), (427, 640, 3), (640, 427, 3), (301, 299, 3), (1, 1, 3)]:
        expected = prepare_for_torch(settings_of(cfg), noise(*shape)).images[0].numpy()
        found = device_runner.prepare(card, noise(*shape))[0][0]
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).max() <= 1  # OpenCV rounds in its own way


def test_assignments_cost_the_least():
    """Any of equal cost; beyond that the very ones of scipy."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        rows, columns = rng.integers(0, 9, 2)
        cost = rng.integers(0, 3, (rows, columns)) * 100 - rng.random((rows, 1))
        column = assign(cost)
        one, other = linear_sum_assignment(cost)
        given = np.flatnonzero(column >= 0)
        assert len(given) == min(rows, columns)
        assert len(set(column[given])) == len(given)
        assert cost[given, column[given]].sum() == pytest.approx(cost[one, other].sum())


def test_the_runner_is_one_short_file_without_pytorch_or_ours():
    source = RUNNER.read_text()
    assert len(source.splitlines()) <= 150
    tree = ast.parse(source)
    names = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {
        "numpy",
        "onnxruntime",
        "PIL",  # below `if __name__ == "__main__"`
    }


# --- mistakes -----------------------------------------------------------------------------


def assert_refused(capsys, *args: str, words: tuple[str, ...]) -> None:
    assert cli.code_of(lambda: export.main([*args])) == cli.MISTAKE
    [line] = capsys.readouterr().err.splitlines()
    for word in words:
        assert word in line


def test_weights_that_cannot_be_read_are_named(capsys, tmp_path):
    out = ("--out", str(tmp_path / "out"))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("weights")
    assert_refused(capsys, "--model", str(tmp_path / "no"), *out, words=("no checkpoint", "no"))
    for name in ("empty", "text"):
        path = str(tmp_path / name)
        assert_refused(capsys, "--model", path, *out, words=(path,))
    assert_refused(capsys, *out, words=("--model",))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_weights_are_never_written_over(capsys, checkpoint, tmp_path, link):
    link(tmp_path / "model.onnx", checkpoint)
    args = ("--model", str(checkpoint), "--out", str(tmp_path))
    assert_refused(capsys, *args, words=("model.onnx", "is the file of the input"))


def test_bare_weights_need_their_settings(capsys, coco_root, tmp_path):
    path = tmp_path / "model_best.pth.tar"
    save_weights(path, network(tiny_config(coco_root, tmp_path)))
    args = ("--model", str(path), "--out", str(tmp_path / "out"))
    assert_refused(capsys, *args, words=(str(path), "input size"))
    OTHER.to_json(tmp_path / "other.json")
    named = ("--cfg", str(YAMLS["coco"]), "--superconfig", str(tmp_path / "other.json"))
    assert_refused(capsys, *args, *named, words=("is of another architecture",))


def test_a_supernet_is_to_be_cut_first(capsys, coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path, "MODEL.NAME", "pose_supermobilenet")
    model = network(cfg)
    path = tmp_path / "checkpoint.pth.tar"
    save_checkpoint(path, state_dict=model.state_dict(), arch=TINY.to_dict(), config=cfg.dump())
    args = ("--model", str(path), "--out", str(tmp_path / "out"))
    assert_refused(capsys, *args, words=(str(path), "supernet", "weight_transfer.py"))


@pytest.mark.parametrize("size", ["100x64", "64", "0x64", "64x-64", "axb"])
def test_a_size_is_of_multiples_of_64(capsys, checkpoint, tmp_path, size):
    args = ("--model", str(checkpoint), "--out", str(tmp_path))
    assert_refused(capsys, *args, f"--size={size}", words=(size, "multiples of 64"))


def test_a_folder_that_cannot_be_written_is_reported_before_the_work(capsys, checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    args = ("--model", str(checkpoint), "--out", str(tmp_path / "file/out"))
    assert_refused(capsys, *args, words=(str(tmp_path / "file/out"),))


def test_without_a_data_set_noise_is_compared(tmp_path, capsys, caplog):
    assert export.available_images(tiny_config(tmp_path / "gone", tmp_path)) is None
    assert "compared on noise alone" in caplog.text
    assert len(list(export.samples(None))) == 2
    path = save_tiny(tmp_path / "checkpoint.pth.tar", tmp_path / "gone")
    args = ("--model", str(path), "--out", str(tmp_path / "out"), "--int8", "3")
    assert_refused(capsys, *args, words=("DATASET.ROOT",))


def test_int8_is_calibrated_on_any_folder_of_images(checkpoint, tmp_path, capsys):
    folder = tmp_path / "images/deep"
    folder.mkdir(parents=True)
    for i in range(5):
        cv2.imwrite(str(folder / f"{i}.png"), noise(80, 100 + i, 3))
    flags = ("--int8", "3", "--calibrate", str(tmp_path / "images"), "--graph", "network")
    exported = run(checkpoint, tmp_path / "out", *flags, "--size", "128x64")
    assert (exported.folder / "model-int8.onnx").is_file()
    assert "layers stay in floats:" in capsys.readouterr().out


def test_damaged_and_very_long_images_are_left_out_of_the_calibration(pixels, tmp_path, caplog):
    for name, width in (("a.png", 90), ("b.png", 70000), ("c.png", 80)):
        cv2.imwrite(str(tmp_path / name), noise(2 if width > 100 else 60, width, 3))
    (tmp_path / "d.jpg").write_bytes(b"no image")
    card = json.loads((pixels.folder / "card.json").read_text(encoding="utf-8"))
    inputs = list(folder_inputs(tmp_path, 9, partial(export.filled_input, card)))
    assert len(inputs) == 2
    assert "b.png is left out of the calibration: 70000 x 2 pixels become" in caplog.text
    assert "d.jpg is left out of the calibration: " in caplog.text


def test_a_folder_to_calibrate_on_needs_images_and_their_number(checkpoint, tmp_path, capsys):
    out = ("--model", str(checkpoint), "--out", str(tmp_path / "out"))
    with pytest.raises(SystemExit):
        export.main([*out, "--calibrate", str(tmp_path)])
    assert "--calibrate needs --int8 N" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.jpg").write_bytes(b"no image")
    words = {
        "gone": "--calibrate: there is no folder",
        "empty": "has no images",
        "bad": "no image of",
    }
    for folder, word in words.items():
        flags = ("--int8", "3", "--calibrate", str(tmp_path / folder))
        assert_refused(capsys, *out, *flags, words=(word,))


def test_numbers_that_differ_are_not_passed(fixed, coco_root, tmp_path, capsys):
    """A network of other weights is not the one in the file."""
    cfg = tiny_config(coco_root, tmp_path, *NO_FLIP)
    settings = InferenceSettings.from_config(cfg)
    other = GRAPHS["candidates"](settings, network(cfg, seed=4)).eval()
    forms = {"model.onnx": fixed.folder / "model.onnx"}
    assert not compare_outputs(other, other, forms, fixed.folder, [noise(1, 64, 128, 3)])


def test_a_folded_graph_that_is_another_one_is_no_rounding(fixed, coco_root, tmp_path):
    """Else its large difference would excuse that of the file."""
    settings = InferenceSettings.from_config(tiny_config(coco_root, tmp_path, *NO_FLIP))
    cfg = tiny_config(coco_root, tmp_path, *NO_FLIP)
    one, other = (GRAPHS["candidates"](settings, network(cfg, seed=s)).eval() for s in (3, 4))
    assert not compare_outputs(one, other, {}, fixed.folder, [noise(1, 64, 128, 3)])
    assert compare_outputs(one, one, {}, fixed.folder, [noise(1, 64, 128, 3)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda people: people[:1], "has 1 people, PyTorch finds 2"),
        (lambda people: people + [[[0, 0, 0]] * 3, [[0, 2, 0]] * 3], "person 2: b is 2.0 px away"),
        (lambda people: people * [[[1, 1, 1]] * 3, [[1, 1, 0]] * 3], "person 2: b is missing"),
        (lambda people: people + [[[0, 0, 1]] * 3] * 2, "person 1: c is not in PyTorch's"),
    ],
)
def test_people_that_differ_are_described(change, words):
    people = np.array([[[5, 5, 0.5], [9, 5, 0.5], [0, 0, 0]]] * 2)
    people[1, 0, 2] = 0
    same = Prediction(7, people, [0.5, 0.5])
    other = Prediction(7, np.asarray(change(people), float), [0.5, 0.5])
    assert difference(same, same, "abc") is None
    assert f"image 7{',' if 'person' in words else ''} {words}" == difference(other, same, "abc")
    near = same._replace(people=people + [0.3, 0.3, 0])
    assert difference(near, same, "abc") is None
    assert describe_differences([same] * 19 + [other], [same] * 20, "abc") is None
    text = describe_differences([same] * 9 + [other], [same] * 10, "abc")
    assert text is not None
    assert text.startswith("people differ from PyTorch's in 1 of 10 images: image 7")


def test_people_that_differ_end_the_export_with_an_error(checkpoint, tmp_path, capsys, monkeypatch):
    """A float model whose people are others, as by a runtime's fault."""
    monkeypatch.setattr(export, "open_form", moved)
    exported = run(checkpoint, tmp_path, "--size", "128x64", "TEST.DETECTION_THRESHOLD", "0")
    assert exported.code == 1
    assert "model.onnx: people differ from PyTorch's in " in capsys.readouterr().err


def moved(*form):
    """A runtime whose peaks are one pixel too far."""
    run = open_form(*form)

    def run_moved(images):
        positions, *others = run(images)
        return [positions + 1, *others]

    return run_moved


def test_paths_of_the_machine_stay_behind(fixed):
    assert str(ROOT).encode() not in (fixed.folder / "model.onnx").read_bytes()
