"""Plots show every point and are the same file each time."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure

from lib.utils.plots import COLORS, families, render, save_figure, scatter

SMALL, LARGE = ("S", (1.0, 40.0)), ("L", (200.0, 60.0))
LABELS = ("GMACs", "AP")


def figure_named(name: str) -> Figure:
    return families({name: [SMALL, LARGE], "theirs": [("W", (90.0, 50.0))]}, LABELS)


def test_a_scatter_plot_shows_points_front_best_and_limit():
    points = [(1.0, 0.2), (2.0, 0.5), (3.0, 0.4), (9.0, 0.6)]
    figure = scatter(points, points[1::-1], points[1], 4.0, "title", LABELS)
    front, cloud, best, limit = figure.axes[0].lines
    assert list(front.get_xdata()) == [1, 2]
    assert list(zip(cloud.get_xdata(), cloud.get_ydata(), strict=True)) == points
    assert best.get_xydata().tolist() == [[2.0, 0.5]]
    assert list(limit.get_xdata()) == [4.0, 4.0]
    (low, high), (bottom, top) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert low < 1 < 9 < high
    assert bottom < 0.2 < 0.6 < top


def test_a_family_has_a_line_through_its_points_in_any_order():
    figure = figure_named("ours")
    ours, theirs = figure.axes[0].lines
    assert [ours.get_color(), theirs.get_color()] == COLORS[:2]
    assert np.array_equal(ours.get_xydata(), [SMALL[1], LARGE[1]])
    again = families({"ours": [LARGE, SMALL]}, LABELS).axes[0].lines[0]
    assert np.array_equal(ours.get_xydata(), again.get_xydata())


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_plot_is_the_same_file(tmp_path, kind):
    save_figure(tmp_path / f"one.{kind}", figure_named("ours"))
    save_figure(tmp_path / f"other.{kind}", figure_named("ours"))
    assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"other.{kind}").read_bytes()


@pytest.mark.parametrize(
    ("name", "shown"),
    [("<b>&\"'", "<b>&\"'"), ("a$\\x$", "a$\\x$"), ("\x01\ud800", "\N{REPLACEMENT CHARACTER}" * 2)],
)
def test_a_hostile_name_is_text_of_a_valid_svg(name, shown):
    svg = ET.fromstring(render(figure_named(name), "svg"))
    assert shown in [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", ["no/plot.png", "plot.txt", "plot"])
def test_a_plot_that_cannot_be_written_is_one_line(tmp_path, name):
    with pytest.raises(ValueError, match=f"cannot write {tmp_path / name}"):
        save_figure(tmp_path / name, figure_named("ours"))
    assert list(tmp_path.iterdir()) == []
