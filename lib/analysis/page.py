"""One evaluation as a page: its figures and curves, and the pictures that went worst.

DIR/index.html        no script, nothing from elsewhere: it opens from the file system
DIR/pictures/*.jpg    truth, and beside it what was found
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib.analysis.breakdown import Breakdown, Part, break_down
from lib.analysis.diagnose import diagnose, joint_table, people_table
from lib.analysis.report import Report
from lib.analysis.sheet import picture_sections
from lib.core.evaluate import result_rows
from lib.core.pipeline import Prediction
from lib.dataset.build import EvaluationSet
from lib.utils import html
from lib.utils.run_card import circumstances

PICTURES = "pictures"  # the folder beside the page
FIGURES = ("AP", "AP .5", "AP .75", "AR")
NOBODY_JUDGED = "\N{EN DASH}"  # in place of a figure


def make_page_folder(folder: str | None) -> None:
    """For a page that is going to be written; ValueError, before any work, when it cannot be."""
    if folder is None:
        return
    pictures = Path(folder) / PICTURES
    try:
        pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--report {folder}: {error.strerror}") from None
    if not (os.access(folder, os.W_OK) and os.access(pictures, os.W_OK)):
        raise ValueError(f"--report {folder}: nothing can be written there")


def write_page(
    folder: Path,
    data: EvaluationSet,
    predictions: Sequence[Prediction],
    report: Report,
    network: str,
    settings: str,
) -> Path:
    """The page's path; a page that was there before is replaced, with its pictures.

    network: the architecture in a few words; settings: the config.
    """
    headline = f": AP {report.table['AP']:.3f}" if report.table else ""
    parts = [
        _circumstances(data, report, network, settings),
        *_figures(data, predictions, report),
        _left_out(report),
        *picture_sections(folder / PICTURES, data, predictions),
    ]
    path = folder / "index.html"
    partial = path.with_name(path.name + ".partial")
    title = f"{report.arch} on {report.split}{headline}"
    partial.write_text(html.document(title, parts), encoding="utf-8")
    partial.replace(path)
    return path


def _circumstances(data: EvaluationSet, report: Report, network: str, settings: str) -> str:
    now = circumstances()
    git, machine = now["git"], now["hardware"]
    commit = git["commit"] + (", changed since" if git["dirty"] else "") if git else "unknown"
    versions = [f"{name} {version}" for name, version in now["versions"].items() if version]
    named = {
        "Network": f"{report.arch} ({network})",
        "Weights": report.weights or "none",
        "SHA-256": report.sha256 or "none",
        "Split": f"{report.split}, {report.pictures} pictures",
        "Annotations": str(data.annotations),
        "Command": now["command"],
        "Commit": commit,
        "Versions": ", ".join(versions),
        "Machine": ", ".join([f"{machine['cores']} x {machine['cpu']}", *machine["gpus"]]),
        "Date": now["date"],
    }
    settings = html.folded("All settings", settings)
    return html.section("What was evaluated", html.facts(named), settings)


# --- figures ----------------------------------------------------------------------------


def _figures(data: EvaluationSet, predictions: Sequence[Prediction], report: Report) -> list[str]:
    """Sections of all that is measured against the truth."""
    if not report.table:
        unknown = f"Nobody is labelled in {data.annotations}, so nothing could be measured."
        return [html.section("Average precision", html.paragraph(unknown))]
    table = html.table(
        *(
            "From 0 to 1, under HigherHRNet's names; a dash: nobody to judge",
            ["Network", *report.table],
        ),
        [[report.arch, *map(_number, report.table.values())]],
    )
    whole = html.section("Average precision", table)
    rows = result_rows(data.spec, predictions, data.category_id)
    if not rows:
        nobody = "Nobody was found, so there is nothing to draw a curve of or to take apart."
        return [whole, html.section("Precision and recall", html.paragraph(nobody))]
    ids = [picture.id for picture in data.records]
    parts = break_down(data.spec, data.annotations, rows, ids)
    sections = [whole, _curves(parts), _by_joint(parts), _by_size(parts)]
    if parts.crowding:
        sections.append(_by_crowding(parts))
    return [*sections, _errors(data, rows, ids)]


def _curves(parts: Breakdown) -> str:
    heading = "Precision and recall"
    if not parts.precision:
        return html.section(heading, html.paragraph("Nobody is judged, so there is no curve."))
    curves = {
        f"OKS {threshold}: AP {np.mean(curve):.3f}": curve
        for threshold, curve in parts.precision.items()
    }
    caption = (
        "Precision at each recall as the evaluator has it: the best at this recall or a higher "
        "one. AP is its mean over recall 0, .01 ... 1. A curve is 0 where so many are never found."
    )
    return html.section(heading, html.chart(caption, ("Recall", "Precision"), curves))


def _by_joint(parts: Breakdown) -> str:
    definition = (
        "The same detections, in order of the same scores, judged by one joint at a time: OKS over "
        "this joint alone, the labels of all others removed. Who has no label of it is not judged."
    )
    table = _table("One joint at a time", "Joint", "labelled", parts.joints)
    return html.section("By joint", html.paragraph(definition), table)


def _by_size(parts: Breakdown) -> str:
    definition = (
        "Size: the side, in pixels, of a square with the area of the person. People of other sizes "
        "are not judged, nor are detections of other sizes that match nobody. First three ranges, "
        "then finer ones."
    )
    table = _table("One range of sizes at a time", "Size", "people", parts.sizes)
    return html.section("By size of a person", html.paragraph(definition), table)


def _by_crowding(parts: Breakdown) -> str:
    definition = (
        "CrowdPose's index of a picture: joints of others in a person's box as a share of the "
        "person's own, as a mean over the people."
    )
    table = _table("One range of pictures at a time", "Crowding", "people", parts.crowding)
    return html.section("By crowding", html.paragraph(definition), table)


def _table(caption: str, of: str, counted: str, parts: dict[str, Part]) -> str:
    rows = [
        [name.replace("_", " "), str(part.people), *map(_number, part[1:])]
        for name, part in parts.items()
    ]
    return html.table(caption, [of, counted, *FIGURES], rows, bar=2)


def _errors(data: EvaluationSet, rows: list, ids: list[int]) -> str:
    definition = (
        "Every labelled joint is good, or has one kind of error (Ronchi & Perona, ICCV 2017): a "
        "little off (jitter), on another joint of the same person (inversion), on another person "
        "(swap), nowhere near (missed), or of a person to whom no detection was matched."
    )
    diagnosis = diagnose(data.spec, data.annotations, rows, ids)
    joints, people = joint_table(data.spec, diagnosis), people_table(diagnosis)
    return html.section(
        "Where AP is lost",
        html.paragraph(definition),
        html.table("Shares of the labelled joints", joints[0], joints[1:]),
        html.table("People", people[0], people[1:]),
    )


def _number(value: float) -> str:
    """-1 is the evaluators' word for nobody to judge, nan ours."""
    return NOBODY_JUDGED if math.isnan(value) or value == -1 else f"{value:.3f}"


def _left_out(report: Report) -> str:
    heading = "Pictures that were left out"
    if not report.problems:
        return html.section(heading, html.paragraph("None."))
    count = f"{len(report.problems)} of {report.pictures}, for these reasons:"
    return html.section(heading, html.paragraph(count), html.bullets(report.problems))
