"""Plots with matplotlib: scatter plots, and files in any format that matplotlib writes.

Plots are `Figure` objects without pyplot: no global state, no display. The same plot is the same
file, byte for byte: it has no date, and the ids in an SVG are seeded.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator

from lib.utils.files import write_file
from lib.utils.text import printable

Point = tuple[float, float]

# Wong, "Points of view: Color blindness", Nature Methods 2011, yellow darkened; then two more.
COLORS = ("#0072b2 #d55e00 #009e73 #cc79a7 #e69f00 #56b4e9 #aaa014 #3c3c3c #78461e #783cb4").split()
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#828282",
    "axes.grid": True,
    "axes.titlesize": "medium",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "font.size": 9,
    "grid.color": "#e1e1e1",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType; journals refuse matplotlib's default
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "litepose",
    "text.parse_math": False,  # a $ in a name is a $
}
WITHOUT_DATE = {
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "pdf": {"CreationDate": None},
}


@rc_context(STYLE)
def scatter(
    points: Sequence[Point],
    front: Sequence[Point],
    best: Point,
    limit: float,
    title: str,
    labels: tuple[str, str],
) -> Figure:
    """Points, a line through those of `front`, a ring around `best`, a dashed line at x = `limit`.

    `best` and `front` are among `points`; labels: of the x and the y axis.
    """
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*sorted(front), strict=True), color=COLORS[0], alpha=0.6)
    axes.plot(*zip(*points, strict=True), "o", color=COLORS[0], markersize=4)
    axes.plot(*best, "o", color=COLORS[1], markersize=11, fillstyle="none", markeredgewidth=2)
    axes.axvline(limit, color="#828282", linestyle="--")
    axes.set(title=title, xlabel=labels[0], ylabel=labels[1])
    return figure


@rc_context(STYLE)
def families(series: Mapping[str, Sequence[tuple[str, Point]]], labels: tuple[str, str]) -> Figure:
    """Families of named points, each joined by a line, over a logarithmic x axis.

    labels: of the x and the y axis. At most as many families as there are COLORS.
    """
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    for (family, members), color in zip(series.items(), COLORS, strict=False):
        line = sorted(point for _, point in members)
        axes.plot(*zip(*line, strict=True), "o-", color=color, markersize=4, label=family)
        for name, point in members:
            axes.annotate(name, point, (-3, 5), textcoords="offset points", ha="right")
    axes.set(xscale="log", xlabel=labels[0], ylabel=labels[1])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside upper left", ncols=4)
    return figure


@rc_context(STYLE)
def paired(series: Mapping[str, Sequence[float]], spread: float, label: str) -> Figure:
    """A row for each name: its differences as dots and their mean as a bar; 0 +- `spread` shaded.

    label: of the x axis.
    """
    figure = Figure(figsize=(7.2, 1 + 0.28 * len(series)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-spread, spread, color="#e1e1e1", zorder=0)
    axes.axvline(0, color="#828282")
    for row, values in enumerate(series.values()):
        axes.plot(values, [row] * len(values), "o", color=COLORS[0], markersize=4)
        axes.plot(sum(values) / len(values), row, "|", color=COLORS[1], markersize=14)
    axes.set_yticks(range(len(series)), list(series))
    axes.set(xlabel=label, ylim=(len(series) - 0.5, -0.5))
    return figure


def save_figure(path: str | Path, figure: Figure) -> None:
    """Write a figure; the suffix of `path` chooses the format: .png, .svg, .pdf, ...

    ValueError where the format is unknown or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise ValueError(f"cannot write {path}; formats: {', '.join(known)}")
    write_file(path, render(figure, kind))


@rc_context(STYLE)
def render(figure: Figure, kind: str) -> bytes:
    """The content of a file of this format."""
    for text in figure.findobj(Text):
        text.set_text(printable(text.get_text()))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box is drawn
        figure.savefig(file, format=kind, metadata=WITHOUT_DATE.get(kind))
    return file.getvalue()
