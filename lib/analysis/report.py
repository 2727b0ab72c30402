"""The figures of an evaluation as files, with what they are figures of."""

from __future__ import annotations

import csv
import json
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple


class Report(NamedTuple):
    """What an evaluation came to."""

    arch: str  # its name
    weights: str  # the file; "" where there was none
    sha256: str  # of the weights
    split: str
    pictures: int  # in the split; those with problems are among them
    problems: list[str]  # a line for each picture without a prediction
    table: OrderedDict[str, float]  # AP and so on; empty where the truth is unknown


def make_folders(*paths: str | None) -> None:
    """For files that are going to be written; ValueError, before any work, when they cannot be."""
    for path in filter(None, paths):
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot write {path}: {error.strerror}") from None
        if Path(path).is_dir():
            raise ValueError(f"cannot write {path}: it is a folder")


def write_json(path: str | Path, report: Report) -> None:
    """All fields of the report."""
    Path(path).write_text(json.dumps(report._asdict(), indent=2) + "\n")


def write_csv(path: str | Path, report: Report) -> None:
    """A head and one row: the fields, problems as their number, then the table's columns."""
    fields = {**report._asdict(), "problems": len(report.problems)}
    fields |= fields.pop("table")
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerow(fields)
