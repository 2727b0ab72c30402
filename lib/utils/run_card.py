"""The run card: a JSON file with date, command, code version and machine of each start of a run.

    {"starts": [{"date": ..., "command": ..., "git": ..., "config": ...}, ...]}

It never stops a training: a fact that is not available is null; if the card cannot be written, a
warning is logged.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from lib.utils.files import atomic_write

logger = logging.getLogger(__name__)

RUN_CARD = "run_card.json"  # in the output folder
CODE = Path(__file__).resolve().parents[2]


def add_start(path: Path, facts: Mapping[str, Any]) -> None:
    """Add a start to the card at `path`: date, command, code and machine, then `facts`."""
    start = {**circumstances(), **facts}
    try:
        starts = [*read_starts(path), start]
        atomic_write(path, json.dumps({"starts": starts}, indent=2) + "\n")
    except OSError as error:
        logger.warning("cannot write %s: %s", path, error.strerror)


def read_starts(path: Path) -> list[dict[str, Any]]:
    """The starts in the card at `path`; a file that is no run card is renamed to PATH.damaged."""
    if not path.exists():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["starts"])
    except (ValueError, KeyError, TypeError):
        logger.warning("%s is no run card; set aside as %s.damaged", path, path)
        path.replace(f"{path}.damaged")
        return []


def circumstances() -> dict[str, Any]:
    """Date, command, code and machine of this process."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(sys.orig_argv),
        "folder": os.getcwd(),
        "git": git_state(CODE),
        "versions": versions(),
        "hardware": hardware(),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit, and whether tracked files differ from it; None where git has no answer."""
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    if commit is None:
        return None
    status = ("--no-optional-locks", "-C", str(folder), "status", "--porcelain", "-uno")
    changes = _output("git", *status)  # without a lock: it writes nothing and never waits
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def versions() -> dict[str, str | int | None]:
    """Versions of Python and the numeric libraries."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def hardware() -> dict[str, Any]:
    """CPU, memory and GPUs of this machine."""
    gpus = range(torch.cuda.device_count())
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "gpus": [torch.cuda.get_device_name(gpu) for gpu in gpus],
    }


def _output(*command: str) -> str | None:
    """The output of a command; None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
