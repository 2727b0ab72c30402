"""Plots show every point inside their axes."""

from __future__ import annotations

import numpy as np
import pytest

from lib.utils.plot import COLORS, MEANS, PANEL, PANEL_MARGINS, Axes, curves, families

SIZE = (300, 200)


def inside(axes: Axes, point: tuple[float, float]) -> bool:
    left, top, right, bottom = axes.box
    x, y = axes.pixel(point)
    return left <= x <= right and top <= y <= bottom


def has(picture: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((picture == color).all(axis=2).any())


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize(
    "values",
    [(1e-9, 3e4), (0.02, 0.0201), (1, 1000), (0.5, 0.5), (3e-5, 9e-5), (1e-30, 1e-12), (20, 20)],
)
def test_every_value_is_inside_the_axes_and_between_ticks(values, logarithmic):
    axes = Axes([(0, values[0]), (70, values[1])], SIZE, most=5, logarithmic=logarithmic)
    ticks = axes.ticks[1]
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 7
    for value in values:
        assert inside(axes, (35, value))


def test_equal_ratios_are_equally_far_on_a_logarithmic_axis():
    axes = Axes([(0, 0.001), (1, 100)], SIZE, logarithmic=True)
    heights = [axes.pixel((0, value))[1] for value in (0.01, 0.1, 1, 10)]
    assert np.ptp(np.diff(heights)) <= 1
    assert np.diff(heights).max() < 0  # larger values are higher up


def test_each_run_has_its_color_also_with_a_single_point():
    picture = curves({"loss": [[(1, 5.0)], [(1, 1.0), (2, 3.0)], []]}, ["a", "b", "c"], "steps")
    panel = picture[-PANEL[1] - 10 :]
    assert [has(panel, color) for color in COLORS[:3]] == [True, True, False]
    assert has(picture, COLORS[2])  # in the legend


def test_panels_stand_in_rows_below_as_many_names_as_there_are():
    line = [(0, 1.0), (9, 2.0)]
    one = curves({"a": [line]}, ["run"], "steps")
    four = curves(dict.fromkeys("abcd", [line]), ["run"], "steps")
    assert four.shape[1] == 3 * one.shape[1]
    assert four.shape[0] - one.shape[0] == PANEL[1]
    names = [f"a run with a long name {i}" for i in range(len(COLORS))]
    many = curves({"a": [line] * len(names)}, names, "steps")
    assert many.shape[0] > one.shape[0]
    assert many.shape[1] == one.shape[1]
    assert all(has(many, color) for color in COLORS)


def test_a_long_curve_is_drawn_as_its_means():
    """Zigzag between 0 and 1: its mean is a line, and only a tint is far from it."""
    zigzag = [(step, float(step % 2)) for step in range(100 * MEANS)]
    panel = curves({"a": [zigzag]}, ["run"], "steps")[-PANEL[1] - 10 :]
    axes = Axes([(0, 0.0), (100 * MEANS, 1.0)], PANEL, PANEL_MARGINS, 5)
    rows = np.flatnonzero((panel == COLORS[0]).all(axis=2).any(axis=1))
    middle = axes.pixel((0, 0.5))[1]
    assert abs(rows.min() - middle) <= 3
    assert abs(rows.max() - middle) <= 3


def test_a_logarithm_is_only_taken_of_positive_values():
    line = [(0, 0.0), (1, 1000.0)]
    same = curves({"a": [line]}, ["run"], "steps")
    assert np.array_equal(curves({"a": [line]}, ["run"], "steps", ["a"]), same)
    positive = [(0, 1.0), (1, 30.0), (2, 1000.0)]
    linear = curves({"a": [positive]}, ["run"], "steps")
    assert not np.array_equal(curves({"a": [positive]}, ["run"], "steps", ["a"]), linear)


def test_a_family_has_a_line_through_its_points_in_any_order():
    small, large = ("S", (1.0, 40.0)), ("L", (200.0, 60.0))
    labels = ("GMACs", "AP")
    picture = families({"ours": [small, large], "theirs": [("W", (90.0, 50.0))]}, labels)
    assert all(has(picture, color) for color in COLORS[:2])
    again = families({"ours": [large, small], "theirs": [("W", (90.0, 50.0))]}, labels)
    assert np.array_equal(picture, again)


def test_equal_ratios_are_equally_far_across_a_logarithmic_x_axis():
    axes = Axes([(0.001, 0), (100, 1)], SIZE, logarithmic_x=True)
    places = [axes.pixel((value, 0.5))[0] for value in (0.01, 0.1, 1, 10)]
    assert np.ptp(np.diff(places)) <= 1
    assert np.diff(places).min() > 0
