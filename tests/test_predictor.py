"""One file and one line of Python find people in images; whatever goes wrong is one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

import lib.predictor
from lib.core.inference import predict
from lib.keypoints import COCO
from lib.predictor import People, Predictor
from lib.utils.checkpoint import save_checkpoint
from lib.utils.images import read_image
from tests.helpers import ROOT, TINY, network, tiny_config

LOW = ("TEST.DETECTION_THRESHOLD", "0.0", "DATASET.MAX_NUM_PEOPLE", "4")
HEAVY = ("pycocotools", "matplotlib", "onnxruntime", "tensorboard", "lib.dataset", "lib.analysis")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A checkpoint of a network that finds something everywhere."""
    folder = tmp_path_factory.mktemp("run")
    cfg = tiny_config(folder, folder, *LOW)
    path = folder / "checkpoint.pth.tar"
    state = network(cfg, seed=0).state_dict()
    save_checkpoint(path, state_dict=state, arch=TINY.to_dict(), config=cfg.dump())
    return path


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    return Predictor.load(trained, device="cpu")


def assert_equal(one: People, other: People) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


# --- people -----------------------------------------------------------------------------


@pytest.mark.parametrize("opts", [(), ("TEST.SCALE_FACTOR", "[0.5, 1]"), ("TEST.REFINE", "False")])
def test_people_are_those_of_predict(trained, tmp_path, opts):
    image = noise(96, 128, 3)
    cfg = tiny_config(tmp_path, tmp_path, *LOW, *opts)
    people, scores = predict(cfg, network(cfg, seed=0).eval(), image)
    result = Predictor.load(trained, opts=opts, device="cpu")(image)
    assert len(people) > 0
    assert result.keypoints.shape == (len(people), 17, 3)
    np.testing.assert_array_equal(result.keypoints, people[..., :3])
    np.testing.assert_array_equal(result.tags, people[..., 3:])
    np.testing.assert_array_equal(result.scores, scores)


def test_it_says_what_it_is(predictor):
    assert predictor.keypoints is COCO
    assert (predictor.arch, predictor.input_size, predictor.codec) == (TINY, 64, "reference")


def test_a_list_gives_a_list_and_steps_give_the_same(predictor):
    images = [noise(96, 128, 3), noise(128, 96, 3), noise(96, 128, 3)]
    together = predictor(images)
    assert len(together) == 3
    for image, people in zip(images, together, strict=True):
        assert_equal(predictor(image), people)
        assert_equal(predictor.group(predictor.compute(predictor.prepare(image))), people)
    assert predictor([]) == []


def test_people_of_low_scores_can_be_left_out(predictor):
    maps = predictor.compute(predictor.prepare(noise(96, 128, 3)))
    every = predictor.group(maps)
    limit = float(np.median(every.scores))
    sure = every.scores >= limit
    assert 0 < sure.sum() < len(sure)
    kept = People(*(part[sure] for part in every[:3]), is_full=every.is_full)
    assert_equal(predictor.group(maps, min_score=limit), kept)
    assert len(predictor.group(maps, min_score=9).scores) == 0


def test_an_image_without_people_has_none(trained):
    people = Predictor.load(trained, opts=["TEST.DETECTION_THRESHOLD", "9"])(noise(96, 128, 3))
    assert people.keypoints.shape == (0, 17, 3)
    assert people.scores.shape == (0,)
    assert people.tags.shape == (0, 17, 2)  # of the image and of its flip
    assert len(Predictor.load(trained)([noise(64, 64, 3)])) == 1


# --- files ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_read_as_an_image(predictor, tmp_path, kind):
    image = noise(96, 128, 3)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    assert_equal(predictor(kind(tmp_path / "a.png")), predictor(image))
    assert_equal(predictor([kind(tmp_path / "a.png")])[0], predictor(image))


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 1), (8, 3)])
def test_an_image_of_a_phone_is_turned_upright(tmp_path, orientation, turns):
    upright = np.repeat(np.repeat(noise(6, 8, 3), 16, axis=0), 16, axis=1)
    stored = PillowImage.fromarray(np.rot90(upright, turns))
    exif = stored.getexif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_other_kinds_of_image_files_are_read_as_rgb(tmp_path, mode):
    gray = noise(40, 60)
    if mode == "I;16":
        image = PillowImage.fromarray(gray.astype(np.uint16) * 256)
    else:
        image = PillowImage.fromarray(gray).convert(mode)
    image.save(tmp_path / "a.png")
    rgb = read_image(tmp_path / "a.png")
    assert (rgb.shape, rgb.dtype) == ((40, 60, 3), np.uint8)
    if mode != "1":
        assert np.abs(rgb[..., 0].astype(int) - gray).max() <= 8


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_an_image_that_cannot_be_read_is_one_line(predictor, tmp_path, content):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png") as caught:
        predictor(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="cannot read"):
        predictor(tmp_path)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"\(H, W, 3\) uint8 RGB, not \(4, 4\) uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"not \(4, 4, 4\) uint8"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"not \(1, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((0, 4, 3), np.uint8), r"not \(0, 4, 3\)"),
        (np.zeros((1, 9000, 3), np.uint8), "become an input of"),
        (np.broadcast_to(np.uint8(0), (2**15, 2**15, 3)), "32768 x 32768 pixels; at most"),
        (torch.zeros(4, 4, 3), "a path or an array, not a Tensor"),
        (None, "not a NoneType"),
    ],
)
def test_an_array_that_is_no_image_is_one_line(predictor, image, message):
    for argument in (image, [image]):
        with pytest.raises(ValueError, match=message) as caught:
            predictor(argument)
        assert "\n" not in str(caught.value)


# --- networks ---------------------------------------------------------------------------


def test_a_supernet_is_refused(tmp_path):
    cfg = tiny_config(tmp_path, tmp_path, "MODEL.NAME", "pose_supermobilenet")
    path = tmp_path / "super.pth.tar"
    state = network(cfg).state_dict()
    save_checkpoint(path, state_dict=state, arch=TINY.to_dict(), config=cfg.dump())
    with pytest.raises(ValueError, match=r"is a supernet; extract .* with weight_transfer\.py"):
        Predictor.load(path)


@pytest.mark.parametrize("content", [None, b"", b"some text\n"])
def test_a_file_without_a_network_is_one_line(tmp_path, content):
    path = tmp_path / "w.pth.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.pth\.tar") as caught:
        Predictor.load(path)
    assert "\n" not in str(caught.value)


def test_an_exported_network_takes_no_settings(tmp_path):
    with pytest.raises(ValueError, match="was exported with its settings"):
        Predictor.load(tmp_path / "model.onnx", opts=["TEST.FLIP_TEST", "False"])
    with pytest.raises(ValueError, match="there is no exported network"):
        Predictor.load(tmp_path / "model.onnx")


def test_maps_that_are_not_finite_are_one_line(predictor, monkeypatch):
    people = np.full((1, 17, 5), np.inf)
    monkeypatch.setattr(lib.predictor, "find_people", lambda *_, **__: (people, [1.0], False))
    with pytest.raises(ValueError, match="maps are not finite"):
        predictor(noise(64, 64, 3))


def python_lines(page: str) -> str:
    """The Python block of a page that loads a predictor."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return next(block for block in blocks if "Predictor.load" in block)


def test_the_lines_of_the_pages_run_and_import_no_libraries_of_evaluation(trained, tmp_path):
    code = python_lines("README.md") + python_lines("docs/python.md")
    for name in set(re.findall(r'"([^"]+\.(?:jpg|pth\.tar))"', code)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jpg":
            cv2.imwrite(str(path), noise(96, 128, 3))
        else:
            path.write_bytes(trained.read_bytes())
    code += f"\nimport sys; print([name for name in {HEAVY} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.match(r"\(\d+, 14, 3\) \[", lines[0])
    assert lines[-1] == "[]"
