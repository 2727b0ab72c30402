"""The runner on a device reads images as the rest does, and goes on after one that it cannot."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from lib.utils.images import read_image
from tests.dataset.test_image_files import TURNS, save_turned, upright
from tests.helpers import ROOT
from tests.utils.test_images import black_png
from tools import device_runner


@pytest.mark.parametrize("top", [200, 4095, 65535, 200 * 256, 200 * 257])
def test_gray_of_16_bits_is_scaled_as_elsewhere(tmp_path, top):
    path = str(tmp_path / "gray.png")
    cv2.imwrite(path, np.linspace(0, top, 48 * 64).astype(np.uint16).reshape(48, 64))
    gray = device_runner.read_image(path)
    np.testing.assert_array_equal(gray, read_image(path)[..., 0])


def test_floating_point_values_are_refused_as_elsewhere(tmp_path):
    path = str(tmp_path / "gray.tif")
    Image.fromarray(np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64)).save(path)
    for read in (device_runner.read_image, read_image):
        with pytest.raises(ValueError, match="with 8 or 16 bits|no image"):
            read(path)


@pytest.mark.parametrize("orientation", TURNS)
def test_images_are_turned_upright(tmp_path, orientation):
    save_turned(tmp_path / "1.png", orientation)
    np.testing.assert_array_equal(device_runner.read_image(str(tmp_path / "1.png")), upright())


class Session:
    """Finds nobody, or returns values that are not numbers."""

    def __init__(self, value: float) -> None:
        self.value = value

    def get_inputs(self):
        return [SimpleNamespace(name="images")]

    def run(self, *_):
        peaks = np.full((1, 17, 30), self.value, np.float32)
        return [np.zeros((1, 17, 30, 2)), peaks, np.zeros((1, 17, 30, 2))]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the file on a model of `value`; its code, and lines of both outputs."""
    card = {
        "outputs": ["positions", "values", "tags"],
        "input": {"size": None, "side": 64, "multiple_of": 64, "scale_type": "short"},
        "grouping": {
            "detection_threshold": 0.1,
            "joint_order": [*range(17)],
            "max_people": 30,
            "refine": True,
            "tag_threshold": 1.0,
            "use_detection_val": True,
        },
        "pixel_center": 0.0,
    }
    (tmp_path / "card.json").write_text(json.dumps(card))
    monkeypatch.chdir(tmp_path)

    def call(*names: str, value: float = 0.0):
        session = Session(value)
        monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session)
        monkeypatch.setattr(sys, "argv", ["device_runner.py", "model.onnx", *names])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # restored at the end
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(ROOT / "tools/device_runner.py"), run_name="__main__")
        done = capsys.readouterr()
        return caught.value.code, done.out.splitlines(), done.err.splitlines()

    return call


def test_images_after_a_bad_one_are_processed(run, tmp_path):
    save_turned(tmp_path / "good.png", 1)
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:80])
    (tmp_path / "huge.png").write_bytes(black_png(15_000, 15_000))
    code, out, err = run("bad.png", "cut.png", "huge.png", "none.png", "good.png")
    assert code == 1
    assert [json.loads(line)["file"] for line in out] == ["good.png"]
    assert [line.split(": ")[1] for line in err] == ["bad.png", "cut.png", "huge.png", "none.png"]
    assert run("good.png")[::2] == (0, [])


def test_values_that_are_not_numbers_are_reported(run, tmp_path):
    save_turned(tmp_path / "good.png", 1)
    code, out, err = run("good.png", value=np.nan)
    assert (code, out) == (1, [])
    assert err == ["error: good.png: the network's maps are not finite"]


def test_a_model_that_the_runtime_cannot_read_is_one_line(tmp_path):
    (tmp_path / "card.json").write_text('{"outputs": ["values"]}', encoding="utf-8")
    (tmp_path / "model.onnx").write_bytes(b"no model")
    command = [sys.executable, str(ROOT / "tools/device_runner.py"), str(tmp_path / "model.onnx")]
    done = subprocess.run([*command, "a.jpg"], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'model.onnx'}: ")


def test_without_images_it_says_how_to_call_it(run):
    assert "python device_runner.py exported/model.onnx" in run()[0]
