"""Plot the curves of one or several runs: losses, AP, learning rate, speed.

    python -m tools.plot_log output/coco_kpt/pose_mobilenet/quickstart --out curves.png
    python -m tools.plot_log output/crowd_pose_kpt/*/* --out curves.pdf

RUN is the output folder of a training, or its scalars.jsonl. A curve of many points is smoothed,
with the points themselves in a light tint below. The suffix of --out chooses the format: .png,
.pdf, .svg.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from lib.training.scalars import SCALARS, read_scalars
from lib.utils import cli
from lib.utils.files import check_outputs
from lib.utils.plots import COLORS, STYLE, Point, save_figure

FIRST = ["train/loss", "val/AP"]
LAST = ["train/gradient_norm", "train/lr", "train/images/s", "train/data_wait"]
LAST += ["train/arch/resolution", "train/arch/width", "train/arch/GMACs"]
LINEAR = ["val/AP", *LAST[1:]]  # every other panel is logarithmic where its values allow

COLUMNS = 3  # of panels
PANEL = (4.0, 2.5)  # inches
SMOOTHED = 100  # a curve of more points is shown as this many means
MARKED = 20  # a curve of at most this many points has a marker at each


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folders")
    parser.add_argument("--out", default="curves.png", help="image file (default: curves.png)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if len(args.runs) > len(COLORS):
        raise ValueError(f"{len(args.runs)} runs; one plot has colors for {len(COLORS)}")
    files = [run if run.is_file() else run / SCALARS for run in args.runs]
    check_outputs([args.out], files)
    runs = [read_scalars(file) for file in files]
    titles = panel_titles(runs)
    if not titles:
        raise ValueError(f"{args.runs[0]} has neither a loss nor an AP")
    panels = {title: [list(run.get(title, {}).items()) for run in runs] for title in titles}
    save_figure(args.out, plot_panels(panels, names_of(args.runs)))
    print(f"{len(panels)} curves of {len(runs)} runs: {args.out}")


def panel_titles(runs: Sequence[dict[str, dict[int, float]]]) -> list[str]:
    """Scalars to plot: all of training and the AP of evaluations; loss and AP come first."""
    names = dict.fromkeys(name for run in runs for name in run)
    terms = [n for n in names if n.startswith("train/") and n not in FIRST + LAST]
    return [name for name in (*FIRST, *terms, *LAST) if name in names]


def names_of(runs: Sequence[Path]) -> list[str]:
    """The last folder of each run, or the paths below their common folder where two are alike."""
    folders = [run.parent if run.is_file() else run for run in map(Path.absolute, runs)]
    if len({folder.name for folder in folders}) == len(folders):
        return [folder.name for folder in folders]
    common = Path(os.path.commonpath(folders))
    return [str(folder.relative_to(common)) for folder in folders]


@rc_context(STYLE)
def plot_panels(panels: Mapping[str, Sequence[Sequence[Point]]], names: Sequence[str]) -> Figure:
    """One panel for each title; in each, one curve of (step, value) for each name.

    A curve may be empty, but not all of a panel. At most as many names as there are COLORS.
    """
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    size = (columns * PANEL[0], rows * PANEL[1] + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).flatten()
    for axes, (title, curves) in zip(grid, panels.items(), strict=False):
        plot_curves(axes, curves)
        axes.set_title(title)
        axes.tick_params(labelbottom=True)
        values = [value for curve in curves for _, value in curve]
        if title not in LINEAR and 0 < 10 * min(values) < max(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())  # the default one writes mathtext
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    for axes in grid[len(panels) :]:
        axes.remove()
    strokes = [axes.plot([], [], color=color)[0] for color in COLORS[: len(names)]]
    figure.legend(strokes, names, loc="outside upper left", ncols=len(names))
    figure.supxlabel("steps")
    return figure


def plot_curves(axes: Axes, curves: Sequence[Sequence[Point]]) -> None:
    """Curves in the order of COLORS; a long one as its means, over a tint of its points."""
    for curve, color in zip(curves, COLORS, strict=False):
        points = np.array(curve).reshape(-1, 2)
        if len(points) > SMOOTHED:
            axes.plot(*points.T, color=color, alpha=0.3, linewidth=0.7)
    for curve, color in zip(curves, COLORS, strict=False):
        points = np.array(curve).reshape(-1, 2)
        if len(points) > SMOOTHED:
            points = np.array([part.mean(axis=0) for part in np.array_split(points, SMOOTHED)])
        marker = "o" if len(points) <= MARKED else ""
        axes.plot(*points.T, color=color, marker=marker, markersize=4)


if __name__ == "__main__":
    cli.run(main)
