"""Whether a GPU computes what the CPU does, and how fast: all measurements in one command.

Correctness: parity (a training step compared with the CPU), no-sync (a step never waits), people
(decoding), methods (recalibration, refitting, distillation, EMA, ...), resume, ddp (NCCL and
torchrun). Speed: device (names, bandwidth), train, epochs (hours, from train), inference,
depthwise, decode, targets, loader, variants (of train: memory format, CUDNN.BENCHMARK), compile
(MODEL.COMPILE).

Each part prints its table when it ends; an error is a row of it and stops nothing else. FILE is
written after every row, so a run that is killed leaves what it has measured; --keep continues it.
On a CPU networks and sizes are small, and what needs a GPU says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lib.utils import cli
from lib.utils.files import write_file
from lib.utils.reading import read_json
from lib.utils.tables import markdown
from tools.benchmark.gpu import methods, parity, runs, speed
from tools.benchmark.gpu.common import Context, DeviceLost, Row, Timeout, line_of

PARTS: dict[str, Callable[[torch.device, Context], Iterator[Row]]] = {
    "device": parity.device_part,
    "parity": parity.parity_part,
    "no-sync": parity.no_sync_part,
    "people": parity.people_part,
    "train": speed.train_part,
    "epochs": speed.epochs_part,
    "methods": methods.methods_part,
    "inference": speed.inference_part,
    "depthwise": speed.depthwise_part,
    "decode": speed.decode_part,
    "targets": methods.targets_part,
    "loader": runs.loader_part,
    "resume": runs.resume_part,
    "ddp": runs.ddp_part,
    "variants": speed.variants_part,
    "compile": speed.compile_part,
}
LIMIT = 120.0  # seconds of a part
LIMITS = {"train": 240.0, "compile": 300.0}
GRACE = 10.0  # seconds after the limit, until the process of a part that hangs is replaced


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--parts", nargs="+", default=[*PARTS], metavar="PART", help="default: all, in this order")
    add("--budget", type=float, default=600, metavar="SECONDS", help="of the whole run")
    add("--seconds", type=float, help="of each timing; default: 1, on a CPU .05")
    add("--out", type=Path, default=Path("output/gpu.json"), metavar="FILE", help="the report")
    add("--keep", action="store_true", help="do not repeat the parts that FILE holds")


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    if unknown := [name for name in args.parts if name not in PARTS]:
        raise ValueError(f"--parts: there is no part {unknown[0]!r}; parts: {', '.join(PARTS)}")
    small = device.type != "cuda"
    seconds = (0.05 if small else 1.0) if args.seconds is None else args.seconds
    cli.check_range("--budget", args.budget, 0)
    cli.check_range("--seconds", seconds, 0)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    report = read_report(args.out) if args.keep else {"parts": {}}
    report |= {"torch": torch.__version__, "device": device.type, "file": str(args.out)}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        run = Run(args, device, Context(small, seconds, Path(folder), report["parts"]), report)
        for name in args.parts:
            if name not in report["parts"]:
                run.part(name)
    return report


def read_report(path: Path) -> dict[str, Any]:
    """The report of a run that ended early, without the parts that were not started."""
    if not path.exists():
        return {"parts": {}}
    report = read_json(path, "report")
    done = {name: e for name, e in report["parts"].items() if e["status"] != "not started"}
    return {**report, "parts": done}


@dataclass
class Run:
    """Runs parts one after the other and writes the report."""

    args: argparse.Namespace
    device: torch.device
    context: Context
    report: dict[str, Any]
    begin: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds of the budget."""
        return self.args.budget - (time.monotonic() - self.begin)

    def save(self) -> None:
        write_file(self.args.out, json.dumps(self.report, indent=1) + "\n")

    def part(self, name: str) -> None:
        """Run a part and print its table; continue in a new process if the GPU is lost."""
        entry: dict[str, Any] = {"status": "not started", "rows": []}
        self.report["parts"][name] = entry
        limit, begin = min(self.left(), LIMITS.get(name, LIMIT)), time.monotonic()
        if limit <= 0:
            self.end(name)
            return
        entry["status"] = "running"
        print(f"{name} ...", file=sys.stderr, flush=True)
        watchdog = threading.Timer(limit + GRACE, self.replace, [name, "it hangs"])
        watchdog.daemon = True
        watchdog.start()
        error = None
        try:
            with time_limit(limit):
                for row in PARTS[name](self.device, self.context):
                    entry["rows"].append(finite(row))
                    entry["seconds"] = round(time.monotonic() - begin, 2)
                    self.save()
        except (Exception, Timeout) as raised:
            error = raised
        watchdog.cancel()
        entry["status"], entry["seconds"] = "done", round(time.monotonic() - begin, 2)
        if isinstance(error, DeviceLost):
            self.replace(name, line_of(error))
        elif error is not None:
            entry["status"] = "failed"
            entry["rows"].append({"error": line_of(error)})
        self.end(name)

    def end(self, name: str) -> None:
        """Save and print a part."""
        self.save()
        if not self.args.json:
            print(section(name, self.report["parts"][name]), flush=True)

    def replace(self, name: str, reason: str) -> None:
        """End the part `name` and continue in a new process in place of this one."""
        entry, args = self.report["parts"][name], self.args
        entry["status"] = "failed"
        entry["rows"] = [*entry["rows"], {"error": reason}]
        self.end(name)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)  # it would outlast this process
        command = [sys.executable, "-m", "tools.benchmark", "gpu", "--keep", "--parts", *args.parts]
        command += ["--budget", str(max(self.left(), 0)), "--out", str(args.out)]
        command += ["--seconds", str(args.seconds)] if args.seconds is not None else []
        command += ["--gpu", str(args.gpu)] if args.gpu is not None else []
        os.execv(sys.executable, [*command, *(["--json"] if args.json else [])])


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """A context that raises Timeout after `seconds`, where the system has timers."""
    if not hasattr(signal, "setitimer") or threading.current_thread() != threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise Timeout(f"ended after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 5)  # again, if a library has swallowed it
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def finite(row: Row) -> Row:
    """`row` with text in place of numbers that JSON lacks."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def section(name: str, entry: dict[str, Any]) -> str:
    """The table of a part, as Markdown."""
    seconds = f", {entry['seconds']:.1f} s" if "seconds" in entry else ""
    head = list(dict.fromkeys(column for row in entry["rows"] for column in row))
    rows = [[cell(row.get(column, "")) for column in head] for row in entry["rows"]]
    tables = f"\n{markdown(head, rows)}\n" if rows else ""
    return f"## {name}\n\n{entry['status']}{seconds}\n{tables}"


def cell(value: Any) -> str:
    """A figure in few digits."""
    if not isinstance(value, float):
        return str(value).replace("|", "/")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(report: dict[str, Any]) -> str:
    """The last line; the tables were printed when their parts ended."""
    entries = report["parts"].values()
    status = [entry["status"] for entry in entries]
    ways = ", ".join(f"{status.count(way)} {way}" for way in dict.fromkeys(status))
    errors = sum("error" in row for entry in entries for row in entry["rows"])
    return f"parts: {ways}; {errors} errors; figures in {report['file']}"
