"""The scalars of a run as a file: one JSON object per log line and per evaluation.

    {"step": 750, "train/loss": 0.0021, "train/lr": 0.004, ...}

A run that resumes from an earlier step removes the lines of later steps. Names are those that
TensorBoard accepts: val/AP_M stands for AP (M).
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.utils.files import atomic_write

SCALARS = "scalars.jsonl"  # in the output folder


def legal_name(name: str) -> str:
    """`name` with "_" in place of characters that TensorBoard does not accept in names."""
    return re.sub(r"(?:[^\w./-]|_)+", "_", name).strip("_")


def append_scalars(path: Path, step: int, values: Mapping[str, float]) -> None:
    """Append a line with the finite `values`; OSError if that fails, and the file is as it was."""
    finite = {name: float(f"{v:.7g}") for name, v in values.items() if math.isfinite(v)}
    if not finite:
        return
    line = json.dumps({"step": step, **finite}).encode() + b"\n"
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        if file.write(line) < len(line):  # the disk is full
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def truncate_scalars(path: Path, step: int) -> None:
    """Remove the lines after `step`, and an incomplete line that a killed process left.

    OSError if that fails; the file is as it was.
    """
    if not path.exists():
        return
    lines = [json.dumps(line) + "\n" for line in _complete_lines(path) if line["step"] <= step]
    atomic_write(path, "".join(lines))


def read_scalars(path: Path) -> dict[str, dict[int, float]]:
    """{name: {step: value}} with ascending steps; of several lines of one step the last counts.

    Names in the files of earlier versions, such as val/AP_(M), are made legal.
    ValueError if the file is missing or has no scalars.
    """
    try:
        lines = _complete_lines(path)
    except OSError as error:
        raise ValueError(f"cannot read the scalars {path}: {error.strerror}") from None
    curves: dict[str, dict[int, float]] = {}
    for line in sorted(lines, key=lambda line: line["step"]):
        for name, value in line.items():
            if name != "step":
                curves.setdefault(legal_name(name), {})[line["step"]] = value
    if not curves:
        raise ValueError(f"{path} has no scalars yet")
    return curves


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines
