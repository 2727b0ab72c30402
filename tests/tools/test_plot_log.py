"""Curves of any runs come into one figure; a mistake is one line."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from lib.utils.plots import COLORS
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
def plotted(monkeypatch) -> list:
    """Panels and names of each figure."""
    calls, plot = [], plot_log.plot_panels
    monkeypatch.setattr(plot_log, "plot_panels", lambda *args: calls.append(args) or plot(*args))
    return calls


def figure_of(curves: dict[str, list], *names: str) -> Figure:
    """The figure of these panels, rendered once."""
    figure = plot_log.plot_panels(curves, names)
    figure.draw_without_rendering()
    return figure


def test_a_training_leaves_what_is_plotted(call, plotted, coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path, "TRAIN.VALIDATE_EVERY", "1")
    train(cfg, tmp_path / "run")
    done = call(tmp_path / "run", "--out", tmp_path / "page.png")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"10 curves of 1 runs: {tmp_path / 'page.png'}\n"
    [(panels, names)] = plotted
    assert list(panels)[:3] == ["train/loss", "val/AP", "train/heatmap/0"]
    assert list(panels)[-3:] == ["train/lr", "train/images/s", "train/data_wait"]
    assert names == ["run"]


def test_runs_of_different_length_and_kind_share_a_figure(call, plotted, run):
    runs = run("short", [1], [1]), run("long", range(1, 900), [300, 600]), run("blind", [3, 4])
    assert call(*runs).code == 0
    [(panels, names)] = plotted
    assert names == ["short", "long", "blind"]
    assert [len(line) for line in panels["train/loss"]] == [1, 899, 2]
    assert panels["val/AP"] == [[(1, 0.01)], [(300, 3.0), (600, 6.0)], []]


def test_a_second_figure_replaces_the_first(call, run):
    folder = run("run")
    call(folder)
    first = Path("curves.png").read_bytes()
    call(folder, run("other", evaluated=[3]))
    second = Path("curves.png").read_bytes()
    call(folder)
    assert Path("curves.png").read_bytes() == first != second


def test_a_resumed_and_a_killed_run_are_plotted_as_they_were_last(call, plotted, run):
    again = json.dumps({"step": 2, "train/loss": 7.0}) + "\n"
    folder = run("run", text=again + '{"step": 6, "train/lo')
    assert call(folder).code == 0
    [(panels, _)] = plotted
    assert panels["train/loss"] == [[(1, 1.0), (2, 7.0), (3, 1 / 3), (4, 0.25), (5, 0.2)]]


def test_an_evaluation_alone_is_a_curve_too(call, plotted, run):
    assert call(run("run", [], [5])).code == 0
    assert list(plotted[0][0]) == ["val/AP"]


def test_runs_of_one_name_are_told_apart(call, plotted, run):
    folders = run("a/mobile"), run("b/mobile")
    assert call(*folders).code == 0
    assert plotted[0][1] == ["a/mobile", "b/mobile"]
    assert call(folders[0] / "scalars.jsonl", folders[0]).code == 0  # one twice: allowed


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
def test_a_figure_that_cannot_be_written_is_one_line(call, run, out):
    done = call(run("run"), "--out", out)
    assert done.code == 2
    assert done.err.startswith(f"error: cannot write {out}")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_same_runs_are_the_same_file_in_every_format(call, run, suffix):
    folder, out = run("run", evaluated=[3]), Path(f"curves.{suffix}")
    assert call(folder, "--out", out).code == 0
    first = out.read_bytes()
    call(folder, "--out", out)
    assert out.read_bytes() == first


def test_more_runs_than_colors_are_one_line(call, run):
    done = call(*[run("run")] * (len(COLORS) + 1))
    assert done.code == 2
    assert done.err == "error: 11 runs; one plot has colors for 10\n"


# --- the figure -------------------------------------------------------------------------


def test_each_run_has_its_color_also_with_a_single_point():
    figure = figure_of({"loss": [[(1, 5.0)], [(1, 1.0), (2, 3.0)], []]}, "a", "b", "c")
    [axes] = figure.axes
    assert [line.get_color() for line in axes.lines[:3]] == COLORS[:3]
    assert axes.lines[0].get_marker() == "o"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]


def test_panels_stand_in_rows():
    line = [(0, 1.0), (9, 2.0)]
    figure = figure_of({title: [line] for title in "abcd"}, "run")
    places = [axes.get_position() for axes in figure.axes]
    assert [axes.get_title() for axes in figure.axes] == list("abcd")
    assert places[0].x0 == places[3].x0 < places[1].x0 < places[2].x0
    assert places[0].y0 == places[2].y0 > places[3].y0


def test_a_long_curve_is_smoothed():
    """Zigzag between 0 and 1: its means are 0.5, and the zigzag itself is a light tint."""
    zigzag = [(step, float(step % 2)) for step in range(100 * plot_log.SMOOTHED)]
    tint, means = figure_of({"a": [zigzag]}, "run").axes[0].lines[:2]
    assert tint.get_alpha() < 0.5
    assert set(means.get_ydata()) == {0.5}


@pytest.mark.parametrize(
    ("title", "values", "scale"),
    [
        ("train/loss", (1, 30, 1000), "log"),
        ("train/loss", (0, 30, 1000), "linear"),
        ("train/loss", (1, 3, 9), "linear"),
        ("val/AP", (1, 30, 1000), "linear"),
    ],
)
def test_a_loss_that_differs_much_is_on_a_logarithmic_axis(title, values, scale):
    [axes] = figure_of({title: [list(enumerate(values))]}, "run").axes
    assert axes.get_yscale() == scale
