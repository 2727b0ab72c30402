"""Curves of any runs come into one picture; a mistake is one line."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from lib.utils.plot import COLORS
from tests.helpers import tiny_config
from tests.runs import train
from tools import plot_log


@pytest.fixture
def call(call_tool, monkeypatch, tmp_path):
    """The tool in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(call_tool, plot_log.main)


@pytest.fixture
def run(tmp_path):
    """An output folder with a loss at each of the steps given, and APs at others."""

    def make(name: str, steps=range(1, 6), evaluated=(), text: str = "") -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        lines = [{"step": step, "train/loss": 1 / step, "train/lr": 0.1} for step in steps]
        lines += [{"step": step, "val/AP": step / 100} for step in evaluated]
        text = "".join(json.dumps(line) + "\n" for line in lines) + text
        (folder / "scalars.jsonl").write_text(text)
        return folder

    return make


@pytest.fixture
def drawn(monkeypatch) -> list:
    """What is drawn: panels, names."""
    calls, draw = [], plot_log.curves
    monkeypatch.setattr(plot_log, "curves", lambda *args: calls.append(args) or draw(*args))
    return calls


def has(path: Path, color: tuple[int, int, int]) -> bool:
    return bool((cv2.imread(str(path))[..., ::-1] == np.array(color)).all(axis=2).any())


def test_a_training_leaves_what_is_drawn(call, drawn, coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path, "TRAIN.VALIDATE_EVERY", "1")
    train(cfg, tmp_path / "run")
    done = call(tmp_path / "run", "--out", tmp_path / "page.png")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"10 curves of 1 runs: {tmp_path / 'page.png'}\n"
    [(panels, names, *_)] = drawn
    assert list(panels)[:3] == ["train/loss", "val/AP", "train/heatmap/0"]
    assert list(panels)[-3:] == ["train/lr", "train/images/s", "train/data_wait"]
    assert names == ["run"]


def test_runs_of_different_length_and_kind_share_a_picture(call, drawn, run):
    runs = run("short", [1], [1]), run("long", range(1, 900), [300, 600]), run("blind", [3, 4])
    assert call(*runs).code == 0
    [(panels, names, *_)] = drawn
    assert names == ["short", "long", "blind"]
    assert [len(line) for line in panels["train/loss"]] == [1, 899, 2]
    assert panels["val/AP"] == [[(1, 0.01)], [(300, 3.0), (600, 6.0)], []]
    assert all(has(Path("curves.png"), color) for color in COLORS[:3])


def test_a_second_picture_replaces_the_first(call, run):
    folder = run("run")
    call(folder)
    first = Path("curves.png").read_bytes()
    call(folder, run("other", evaluated=[3]))
    second = Path("curves.png").read_bytes()
    call(folder)
    assert Path("curves.png").read_bytes() == first != second


def test_a_resumed_and_a_killed_run_are_drawn_as_they_were_last(call, drawn, run):
    again = json.dumps({"step": 2, "train/loss": 7.0}) + "\n"
    folder = run("run", text=again + '{"step": 6, "train/lo')
    assert call(folder).code == 0
    [(panels, *_)] = drawn
    assert panels["train/loss"] == [[(1, 1.0), (2, 7.0), (3, 1 / 3), (4, 0.25), (5, 0.2)]]


def test_an_evaluation_alone_is_a_curve_too(call, drawn, run):
    assert call(run("run", [], [5])).code == 0
    assert list(drawn[0][0]) == ["val/AP"]


def test_runs_of_one_name_are_told_apart(call, drawn, run):
    folders = run("a/mobile"), run("b/mobile")
    assert call(*folders).code == 0
    assert drawn[0][1] == ["a/mobile", "b/mobile"]
    assert call(folders[0] / "scalars.jsonl", folders[0]).code == 0  # one twice: its own business


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read the scalars"),
        ("", "has no scalars yet"),
        ('{"step": 1, "train/l', "has no scalars yet"),
        ('{"step": 1, "other/x": 2}\n', "has neither a loss nor an AP"),
    ],
)
def test_a_run_without_curves_is_one_line(call, run, tmp_path, text, words):
    folder = tmp_path / "missing" if text is None else run("empty", [], text=text)
    done = call(*([] if text and "other" in text else [run("whole")]), folder)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert words in done.err
    assert folder.name in done.err
    assert not Path("curves.png").exists()


@pytest.mark.parametrize("out", ["nowhere/curves.png", "curves.txt", "curves"])
def test_a_picture_that_cannot_be_written_is_one_line(call, run, out):
    done = call(run("run"), "--out", out)
    assert (done.code, done.err) == (2, f"error: cannot write the picture {out}\n")


def test_more_runs_than_colors_are_one_line(call, run):
    done = call(*[run("run")] * (len(COLORS) + 1))
    assert done.code == 2
    assert done.err == "error: 11 runs; 10 can be told apart in one picture\n"
