"""One evaluation as a page: metrics, curves, kinds of errors, and the worst images.

    DIR/index.html        no scripts, nothing external: it opens from the file system
    DIR/pictures/*.jpg    ground truth and detections

This file computes the values; page.html.j2 is the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from lib.analysis.breakdown import Breakdown, break_down
from lib.analysis.diagnose import diagnose, joint_table, people_table
from lib.analysis.report import IMAGES, Report
from lib.analysis.sheet import write_galleries
from lib.core.evaluate import three_digits
from lib.core.results import Prediction, result_rows
from lib.dataset.build import EvaluationSet
from lib.utils.files import write_file
from lib.utils.plots import STYLE, render
from lib.utils.run_card import circumstances
from lib.utils.text import printable

TEMPLATE = Path(__file__).with_name("page.html.j2")
GRID = "#d8dde2"
CURVES = ("#0072b2", "#c24f00", "#007a59")
DASHES = ("-", (0, (4, 2)), (0, (1, 1.2)))
# Color of the chart -> variable of the page's style, which has a dark theme.
VARIABLES = {color: f"var(--c{number})" for number, color in enumerate(CURVES)}
VARIABLES[GRID] = "var(--line)"


def write_page(
    folder: Path,
    data: EvaluationSet,
    predictions: Sequence[Prediction],
    report: Report,
    network: str,
    settings: str,
) -> Path:
    """Write the page and its images, replacing an earlier page; the path of index.html.

    network: a summary of the architecture; settings: the config as text.
    """
    headline = f": AP {report.table['AP']:.3f}" if report.table else ""
    values = {
        "title": f"{report.arch} on {report.split}{headline}",
        "facts": _facts(data, report, network),
        "settings": settings,
        "annotations": data.annotations,
        "report": report,
        "breakdown": None,
        "galleries": write_galleries(folder / IMAGES, data, predictions),
    }
    rows = result_rows(data.spec, predictions, data.category_id)
    if report.table and rows:
        values |= _analysis(data, rows)
    path = folder / "index.html"
    write_file(path, _environment().get_template(TEMPLATE.name).render(values))
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
    )
    environment.filters["metric"] = three_digits
    return environment


def _facts(data: EvaluationSet, report: Report, network: str) -> dict[str, str]:
    """What was evaluated, how and where: name -> text."""
    now = circumstances()
    git, machine = now["git"], now["hardware"]
    commit = git["commit"] + (", changed since" if git["dirty"] else "") if git else "unknown"
    versions = [f"{name} {version}" for name, version in now["versions"].items() if version]
    return {
        "Network": f"{report.arch} ({network})",
        "Weights": report.weights or "none",
        "SHA-256": report.sha256 or "none",
        "Split": f"{report.split}, {report.pictures} images",
        "Joints": f"{len(report.joints)}: {', '.join(report.joints)}",
        "Annotations": str(data.annotations),
        "Command": now["command"],
        "Commit": commit,
        "Versions": ", ".join(versions),
        "Machine": ", ".join([f"{machine['cores']} x {machine['cpu']}", *machine["gpus"]]),
        "Date": now["date"],
    }


def _analysis(data: EvaluationSet, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Values of the sections that need both ground truth and detections."""
    breakdown = break_down(data.spec, data.ground_truth, rows)
    diagnosis = diagnose(data.spec, data.ground_truth, rows)
    return {
        "breakdown": breakdown,
        "chart": _chart(breakdown) if breakdown.precision else None,
        "joint_errors": joint_table(data.spec, diagnosis),
        "people_errors": people_table(diagnosis),
    }


@rc_context(STYLE)
def _chart(breakdown: Breakdown) -> Markup:
    """Precision against recall as an SVG element, in colors of the page's style."""
    figure = Figure(figsize=(4.4, 4), facecolor="none", layout="constrained")
    axes = figure.subplots(subplot_kw={"facecolor": "none"})
    for number, (threshold, curve) in enumerate(breakdown.precision.items()):
        axes.plot(
            np.linspace(0, 1, len(curve)),
            curve,
            color=CURVES[number],
            linestyle=DASHES[number],
            linewidth=2.5,
            label=f"OKS {threshold}: AP {np.mean(curve):.3f}",
            gid=f"curve-{number}",
            clip_on=False,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="Recall", ylabel="Precision")
    axes.tick_params(length=0)
    axes.grid(color=GRID, clip_on=False)
    axes.spines[:].set_color(GRID)
    figure.legend(loc="outside lower left")
    svg = render(figure, "svg").decode()
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, variable)
    return Markup(svg[svg.index("<svg") :])  # without the head of a file
