"""The curves of a run as a file: a line of JSON per print and per evaluation.

    {"step": 750, "train/loss": 0.0021, "train/lr": 0.004, ...}

The file holds what led to the weights that there are: a run that goes on from an earlier step
drops the lines beyond it.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

SCALARS = "scalars.jsonl"  # in the output folder


def append_scalars(path: Path, step: int, values: Mapping[str, float]) -> None:
    """Add a line; values that are no numbers are left out. A failure is told, and costs the line.

    Training goes on without its curves, and so it does on a full disk until the next checkpoint.
    """
    finite = {name: float(f"{v:.7g}") for name, v in values.items() if math.isfinite(v)}
    if not finite:
        return
    try:
        with path.open("a") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
    except OSError as error:
        logger.warning("cannot write %s: %s", path, error.strerror)


def cut_scalars(path: Path, step: int) -> None:
    """Drop the lines beyond `step`, and one that was being written when its process died."""
    if not path.exists():
        return
    rest = [json.dumps(line) + "\n" for line in _lines(path) if line["step"] <= step]
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text("".join(rest))
        partial.replace(path)
    except OSError as error:
        logger.warning("cannot write %s: %s", path, error.strerror)


def read_scalars(path: Path) -> dict[str, dict[int, float]]:
    """{name: {step: value}}, steps in order; the latest line of a step counts.

    ValueError names a file that is missing or has no line.
    """
    try:
        lines = _lines(path)
    except OSError as error:
        raise ValueError(f"cannot read the scalars {path}: {error.strerror}") from None
    curves: dict[str, dict[int, float]] = {}
    for line in sorted(lines, key=lambda line: line["step"]):
        for name, value in line.items():
            if name != "step":
                curves.setdefault(name, {})[line["step"]] = value
    if not curves:
        raise ValueError(f"{path} has no scalars yet")
    return curves


def _lines(path: Path) -> list[dict[str, Any]]:
    """Those that are whole."""
    lines = []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines
