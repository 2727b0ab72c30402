"""Text stays text, and a curve is where its values are."""

from __future__ import annotations

import re

import pytest

from lib.utils import html

HOSTILE = "<b>\"'&amp;"
SAFE = "&lt;b&gt;&quot;&#x27;&amp;amp;"


@pytest.mark.parametrize(
    "made",
    [
        html.document(HOSTILE, []),
        html.section(HOSTILE),
        html.paragraph(HOSTILE),
        html.facts({HOSTILE: HOSTILE}),
        html.bullets([HOSTILE]),
        html.folded(HOSTILE, HOSTILE),
        html.table(HOSTILE, [HOSTILE, HOSTILE], [[HOSTILE, HOSTILE]], bar=1),
        html.chart(HOSTILE, (HOSTILE, HOSTILE), {HOSTILE: [1, 0]}),
        html.pictures(HOSTILE, {HOSTILE: HOSTILE}, (4, 3)),
    ],
)
def test_text_is_escaped(made):
    assert SAFE in made
    assert "<b>" not in made


def test_numbers_of_one_column_lie_on_bars():
    made = html.table("caption", ["", "a", "b"], [["x", "0.25", "0.5"], ["y", "none", "1"]], bar=1)
    assert made.count('class="bar"') == 1
    assert '<td class="bar" style="--share: 0.250">0.25</td><td>0.5</td>' in made
    assert "<td>none</td><td>1</td>" in made


def test_a_curve_goes_from_corner_to_corner():
    made = html.chart("caption", ("x", "y"), {"falls": [1, 0.5, 0], "rises": [0, 1]})
    falls, rises = (
        [tuple(map(float, point.split(","))) for point in points.split()]
        for points in re.findall(r'points="([^"]*)"', made)
    )
    (left, top), (middle, half), (right, bottom) = falls
    assert (middle, half) == ((left + right) / 2, (top + bottom) / 2)
    assert rises == [(left, bottom), (right, top)]
    assert 0 < left < right < html.CHART[0]
    assert 0 < top < bottom < html.CHART[1]
