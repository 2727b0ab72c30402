"""The result of an evaluation as JSON and CSV, and the places where reports are written."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from lib.utils.files import is_stream, reported, write_file

IMAGES = "pictures"  # folder next to a page


class Report(NamedTuple):
    """The result of an evaluation and what was evaluated."""

    arch: str  # name of the architecture
    weights: str  # path; "" without a network
    sha256: str  # of the weights
    split: str
    joints: list[str]  # the scored joints
    pictures: int  # number of images in the split, including those with problems
    problems: list[str]  # a line for each image without a prediction
    table: OrderedDict[str, float]  # AP, AR, ...; empty without ground truth


def make_folders(*paths: str | None) -> None:
    """Make the folders of files to be written later; ValueError if that fails."""
    for path in filter(None, paths):
        with reported(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        if Path(path).is_dir():
            raise ValueError(f"cannot write {path}: it is a folder")
        if not (is_stream(Path(path)) or os.access(Path(path).parent, os.W_OK)):
            raise ValueError(f"cannot write {path}: its folder is not writable")


def make_page_folder(folder: str | None) -> None:
    """Make the folders of a page to be written later; ValueError if that fails."""
    if folder is None:
        return
    images = Path(folder) / IMAGES
    try:
        images.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--report {folder}: {error.strerror}") from None
    if not (os.access(folder, os.W_OK) and os.access(images, os.W_OK)):
        raise ValueError(f"--report {folder}: the folder is not writable")


def write_json(path: str | Path, report: Report) -> None:
    """Write all fields of the report."""
    write_file(path, json.dumps(report._asdict(), indent=2) + "\n")


def write_csv(path: str | Path, report: Report) -> None:
    """Write a header and one row: the fields, the number of problems, the columns of the table.

    The names of joints are one field, with spaces between them.
    """
    fields = {
        **report._asdict(),
        "joints": " ".join(report.joints),
        "problems": len(report.problems),
    }
    fields |= fields.pop("table")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fields)
    writer.writeheader()
    writer.writerow(fields)
    write_file(path, text.getvalue())
