"""The web page: its files, and its script compared with the runner of devices."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.tools.test_export import save_tiny
from tools import device_runner
from tools.web import __main__ as web
from tools.web import runtime as web_runtime

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
SCRIPT = b"/*!\n * ONNX Runtime Web v1.2.3\n */"


@pytest.fixture(scope="module")
def checkpoint(coco_root, tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("run") / "checkpoint.pth.tar", coco_root)


@pytest.fixture(scope="module")
def no_runtime(tmp_path_factory) -> Path:
    """Files that begin as those of onnxruntime-web do."""
    folder = tmp_path_factory.mktemp("dist")
    (folder / web_runtime.SCRIPT).write_bytes(SCRIPT)
    (folder / web_runtime.WASM).write_bytes(b"\0asm" + bytes(1000))
    return folder


@pytest.fixture(scope="module")
def tiny_page(checkpoint, no_runtime, tmp_path_factory) -> Path:
    """The page of a tiny network with inputs of a fixed size, which does not run."""
    out = tmp_path_factory.mktemp("page") / "new"
    flags = ["--model", str(checkpoint), "--runtime", str(no_runtime), "--size", "128x64"]
    assert web.main([*flags, "--out", str(out)]) == 0
    return out


# --- what is written --------------------------------------------------------------------


def test_the_page_is_complete(tiny_page):
    names = {path.name for path in tiny_page.iterdir()}
    assert names == {path.name for path in web.PAGE.iterdir()} | set(web.GENERATED)
    card = json.loads((tiny_page / "card.json").read_text(encoding="utf-8"))
    assert card["input"]["size"] == [128, 64]
    assert card["provenance"]["weights"] == "checkpoint.pth.tar"
    for name, sizes in (("model.onnx.gz", "model"), ("ort.wasm.gz", "runtime")):
        unpacked = gzip.decompress((tiny_page / name).read_bytes())
        script = len(SCRIPT) if sizes == "runtime" else 0
        assert card["web"][sizes]["bytes"] == len(unpacked) + script
        assert card["web"][sizes]["loaded"] == (tiny_page / name).stat().st_size + script
    assert card["web"]["runtime"]["version"] == "1.2.3"
    (tiny_page / "model.onnx").write_bytes(
        gzip.decompress((tiny_page / "model.onnx.gz").read_bytes())
    )
    model = device_runner.open_model(tiny_page / "model.onnx", threads=1)
    (tiny_page / "model.onnx").unlink()
    people, scores = device_runner.find_people(*model, np.zeros((64, 128, 3), np.uint8))
    assert people.shape[1:] == (17, 3)
    assert len(people) == len(scores)


def test_black_borders_of_a_fixed_size_hold_no_joints(tiny_page):
    session = onnxruntime.InferenceSession(
        gzip.decompress((tiny_page / "model.onnx.gz").read_bytes())
    )
    images = np.full((1, 64, 128, 3), 90, np.uint8)
    images[:, :, :40] = 0
    values = session.run(["pixel_values"], {"images": images})[0].reshape(-1, 64, 128)
    assert not values[:, :, :40].any()
    assert values[:, :, 40:].any()


def test_no_path_of_the_machine_is_published(tiny_page, checkpoint):
    for path in tiny_page.iterdir():
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        assert str(checkpoint.parent).encode() not in content
        assert str(Path.home()).encode() not in content or str(Path.home()) == "/"


def test_no_file_names_another_server_or_an_absolute_path():
    for path in web.PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"https?://|//[a-z]+\.|[\"'(]/[a-z]", text), path
    page = (web.PAGE / "index.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert not re.findall(r"<script>|<style|\bon\w+=|style=", page)  # nothing inline


def test_every_file_is_kept_for_offline_use(tiny_page):
    script = (tiny_page / "sw.js").read_text(encoding="utf-8")
    listed = re.search(r"FILES = \[(.*?)\]", script, re.DOTALL)
    assert listed
    names = {path.name for path in tiny_page.iterdir()} - {"sw.js"}
    assert set(re.findall(r'"([^"]+)"', listed[1])) == names | {"./"}


def test_other_files_have_another_version():
    page = {path.name: path.read_bytes() for path in web.PAGE.iterdir()}
    version = web.with_version(page)
    assert version == web.with_version(dict(reversed(page.items())))
    assert version != web.with_version(page | {"app.js": b""})
    assert b"development" not in version


@pytest.fixture
def exported(tiny_page, tmp_path) -> Path:
    """model.onnx with a card as tools.export writes it."""
    path = tmp_path / "exported/model.onnx"
    path.parent.mkdir()
    path.write_bytes(gzip.decompress((tiny_page / "model.onnx.gz").read_bytes()))
    card = json.loads((tiny_page / "card.json").read_text(encoding="utf-8"))
    del card["web"]
    card["provenance"] = {"weights": "/home/someone/a.pth.tar", "config": "", "arch": None}
    path.with_name("card.json").write_text(json.dumps(card), encoding="utf-8")
    return path


def test_an_exported_network_is_taken_as_it_is(exported, tiny_page, no_runtime, tmp_path):
    out = tmp_path / "page"
    flags = ["--model", str(exported), "--runtime", str(no_runtime)]
    assert web.main([*flags, "--out", str(out)]) == 0
    assert (out / "model.onnx.gz").read_bytes() == (tiny_page / "model.onnx.gz").read_bytes()
    cards = [
        json.loads((folder / "card.json").read_text(encoding="utf-8"))
        for folder in (out, tiny_page)
    ]
    provenance, _ = (card.pop("provenance") for card in cards)
    assert provenance["weights"] == "a.pth.tar"  # not /home/someone
    assert provenance.keys() == {"weights", "sha256"}
    assert cards[0] == cards[1]


# --- mistakes ---------------------------------------------------------------------------


@pytest.fixture
def refused(call_tool, monkeypatch, no_runtime, checkpoint):
    """The one line of an error, before any export."""
    monkeypatch.setattr(web, "export", lambda *_: pytest.fail("the export began"))

    def run(*args: object, runtime: Path = no_runtime, model: object = checkpoint) -> str:
        done = call_tool(web.main, "--model", model, "--runtime", runtime, *args)
        assert done.code == 2
        [line] = done.err.splitlines()
        return line

    return run


def test_an_exported_network_keeps_its_settings(refused, exported, tmp_path):
    out = ("--out", tmp_path / "out")
    assert "cannot be changed" in refused(*out, "--size", "64x64", model=exported)
    assert "is the file of the input" in refused("--out", exported.parent, model=exported)
    rounded = onnx.helper.make_node("QuantizeLinear", ["x", "scale"], ["q"])
    graph = onnx.helper.make_graph([rounded], "graph", [], [])
    int8 = exported.with_name("model-int8.onnx")
    onnx.save(onnx.helper.make_model(graph), int8)
    assert "model-int8.onnx is in 8 bits" in refused(*out, model=int8)
    int8.write_bytes(b"no model")
    assert "model-int8.onnx is not an ONNX model" in refused(*out, model=int8)
    card = json.loads(exported.with_name("card.json").read_text(encoding="utf-8"))
    maps = json.dumps(card | {"outputs": ["stage0", "stage1"]})
    exported.with_name("card.json").write_text(maps, encoding="utf-8")
    assert "returns maps, not candidates" in refused(*out, model=exported)
    exported.with_name("card.json").unlink()
    assert "card.json" in refused(*out, model=exported)
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_exist_are_named(refused, tmp_path):
    assert "there is no checkpoint gone" in refused("--out", tmp_path / "out", model="gone")
    assert not (tmp_path / "out").exists()


def test_a_size_is_of_multiples_of_64(refused, tmp_path):
    assert "multiples of 64" in refused("--out", tmp_path, "--size", "100x64")


def test_a_runtime_without_its_files_is_refused(refused, tmp_path):
    (tmp_path / "dist").mkdir()
    line = refused("--out", tmp_path / "out", runtime=tmp_path / "dist")
    assert f"has no readable {web_runtime.SCRIPT}" in line
    assert f"npm pack {web_runtime.PACKAGE}" in line
    for name in (web_runtime.SCRIPT, web_runtime.WASM):
        (tmp_path / "dist" / name).write_text("another file", encoding="utf-8")
    line = refused("--out", tmp_path / "out", runtime=tmp_path / "dist")
    assert "is not a file of onnxruntime-web" in line


def test_without_npm_the_command_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ValueError, match=f"npm pack {web_runtime.PACKAGE}"):
        web_runtime.find_runtime()


def test_npm_that_fails_is_one_line(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: "false")
    with pytest.raises(ValueError, match=r"`npm pack .*` failed; where it works, get them"):
        web_runtime.find_runtime()


def test_a_folder_that_cannot_be_written_is_refused(refused, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert str(tmp_path / "file/out") in refused("--out", tmp_path / "file/out")


def test_the_weights_are_never_written_over(refused, tmp_path, checkpoint):
    (tmp_path / "model.onnx.gz").symlink_to(checkpoint)
    assert "is the file of the input" in refused("--out", tmp_path)


# --- the script of the page, in node ----------------------------------------------------

DRIVER = """
import { readFileSync } from "node:fs";
import * as page from "./group.mjs";

const cases = JSON.parse(readFileSync(0, "utf8"));
const tensor = ({ data, dims }) => ({ data: Float32Array.from(data), dims });
const work = {
  assign: ({ cost, columns }) => page.assign(cost, columns),
  find: ({ card, prepared, outputs }) => page.findPeople(card, prepared, outputs.map(tensor)),
  prepare: ({ card, width, height, rgba }) => {
    const image = { width, height, data: Buffer.from(rgba, "base64") };
    const { data, ...rest } = page.prepare(card, image);
    return { ...rest, data: Buffer.from(data).toString("base64") };
  },
};
console.log(JSON.stringify(cases.map(([name, value]) => work[name](value))));
"""


@pytest.fixture
def in_node(tmp_path):
    """Calls functions of group.js: [(name, arguments)] -> what each returns."""
    shutil.copy(web.PAGE / "group.js", tmp_path / "group.mjs")
    (tmp_path / "driver.mjs").write_text(DRIVER, encoding="utf-8")

    def run(cases: list) -> list:
        assert NODE is not None
        command = [NODE, str(tmp_path / "driver.mjs")]
        text = json.dumps(cases)
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return run


def rules(rng: np.random.Generator, num_joints: int, **changes: object) -> dict:
    order = rng.permutation(num_joints).tolist()
    grouping = {"joint_order": order, "max_people": 4, "detection_threshold": 0.1}
    grouping |= {"tag_threshold": 1.0, "use_detection_val": True, "refine": True}
    return grouping | changes


def outputs_of(rng: np.random.Generator, num_joints: int, num_tags: int) -> list[np.ndarray]:
    """Candidates and pixels of a few people, in binary steps: some are equal, sums are exact."""
    outputs = []
    for count in (8, 40):
        tags = rng.integers(0, 4, (1, num_joints, count, num_tags)) * 1.5
        tags = tags + rng.integers(-4, 5, tags.shape) / 8
        values = -np.sort(-rng.integers(0, 32, (1, num_joints, count)) / 32, axis=2)
        positions = rng.integers(0, 400, (1, num_joints, count, 2)) / 4
        outputs += [array.astype(np.float32) for array in (positions, values, tags)]
    return outputs


class Session:
    """Returns given outputs, whatever the image."""

    def __init__(self, outputs: list[np.ndarray]) -> None:
        self.outputs = outputs

    def get_inputs(self):
        return [type("Input", (), {"name": "images"})]

    def run(self, *_):
        return self.outputs


@needs_node
def test_the_script_groups_as_the_runner(in_node):
    rng = np.random.default_rng(0)
    image = np.zeros((96, 128, 3), np.uint8)
    cases, expected = [], []
    for i in range(200):
        outputs = outputs_of(rng, num_joints=6, num_tags=1 + i % 2)
        changes = {"use_detection_val": bool(i % 3), "refine": bool(i % 5)}
        kind = {"size": None, "side": 64, "multiple_of": 64, "scale_type": "short"}
        card = {"input": kind, "grouping": rules(rng, 6, **changes), "pixel_center": 0.5 * (i % 2)}
        is_full = bool((outputs[1][0, :, -1] > 0.1).any())  # values are sorted
        expected.append((*device_runner.find_people(Session(outputs), card, image), is_full))
        images, ratio, center = device_runner.prepare(card, image)
        height, width = images.shape[1:3]
        prepared = {"width": width, "height": height, "ratio": ratio, "center": center.tolist()}
        tensors = [{"data": o.ravel().tolist(), "dims": o.shape} for o in outputs]
        cases.append(["find", {"card": card, "prepared": prepared, "outputs": tensors}])
    assert np.mean([len(people) for people, *_ in expected]) > 3
    assert {is_full for *_, is_full in expected} == {False, True}
    for (people, scores, is_full), found in zip(expected, in_node(cases), strict=True):
        np.testing.assert_allclose(found["scores"], scores, rtol=1e-6)
        np.testing.assert_array_equal(np.float32(found["people"]).reshape(people.shape), people)
        assert found["isFull"] == is_full


@needs_node
def test_the_script_assigns_as_the_runner(in_node):
    rng = np.random.default_rng(0)
    cases, expected = [], []
    for _ in range(200):
        rows, columns = rng.integers(0, 9, 2)
        cost = rng.integers(0, 3, (rows, columns)) * 100 - rng.random((rows, 1)).round(1)
        cases.append(["assign", {"cost": cost.tolist(), "columns": int(columns)}])
        expected.append(device_runner.assign(cost).tolist())
    assert in_node(cases) == expected


@needs_node
@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize("size", [None, [192, 128]], ids=["any size", "fixed size"])
def test_the_script_prepares_the_same_input(in_node, size, shift):
    """Every pixel is equal."""
    rng = np.random.default_rng(0)
    cases, expected = [], []
    for kind in ("short", "long"):
        rules = {"size": size, "side": 128, "multiple_of": 64, "scale_type": kind}
        card = {"input": rules, "pixel_center": shift}
        for height, width in [(30, 40), (427, 640), (640, 427), (301, 299), (1, 1), (900, 1200)]:
            rgba = rng.integers(0, 256, (height, width, 4), np.uint8)
            text = base64.b64encode(rgba.tobytes()).decode()
            image = {"card": card, "width": width, "height": height, "rgba": text}
            cases.append(["prepare", image])
            expected.append(device_runner.prepare(card, rgba))
    for (images, ratio, center), found in zip(expected, in_node(cases), strict=True):
        assert [found["height"], found["width"]] == [*images.shape[1:3]]
        assert (found["ratio"], found["center"]) == (ratio, center.tolist())
        pixels = np.frombuffer(base64.b64decode(found["data"]), np.uint8).reshape(images.shape)
        np.testing.assert_array_equal(pixels, images)
