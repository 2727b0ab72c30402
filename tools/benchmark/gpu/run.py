"""Everything that needs a GPU to be known: correctness and speed, part by part.

--parts: device (names, bandwidth), parity (a step compared with the CPU), people (decoding compared
with the CPU), no-sync (a step never waits), train, inference, depthwise, decode (speeds), loader,
ddp (NCCL, torchrun), resume, compile (MODEL.COMPILE), epochs (hours, from train).

Each part prints its table when it ends, and an error is a row of it. FILE is written after every
row, so a run that is killed leaves what it has measured; --keep continues it. On a CPU the sizes
are small, and what needs a GPU says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lib.utils import cli
from lib.utils.files import write_file
from lib.utils.reading import read_json
from lib.utils.tables import markdown
from tools.benchmark.gpu import parity, runs, speed
from tools.benchmark.gpu.common import Context, DeviceLost, Row, Timeout, line_of

PARTS: dict[str, Callable[[torch.device, Context], Iterator[Row]]] = {
    "device": parity.device_part,
    "parity": parity.parity_part,
    "people": parity.people_part,
    "no-sync": parity.no_sync_part,
    "train": speed.train_part,
    "inference": speed.inference_part,
    "depthwise": speed.depthwise_part,
    "decode": speed.decode_part,
    "loader": runs.loader_part,
    "ddp": runs.ddp_part,
    "resume": runs.resume_part,
    "epochs": speed.epochs_part,
    "compile": speed.compile_part,
}
LIMIT = 120.0  # seconds of a part
LIMITS = {"train": 240.0, "compile": 300.0}


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
    begin = time.monotonic()

    def left() -> float:
        return args.budget - (time.monotonic() - begin)

    def save() -> None:
        write_file(args.out, json.dumps(report, indent=1) + "\n")

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        context = Context(small, seconds, Path(folder), report["parts"])
        for name in args.parts:
            if name in report["parts"]:
                continue
            entry = report["parts"][name] = {"status": "not started", "rows": []}
            is_lost = left() > 0 and run_part(name, entry, device, context, save, left())
            save()
            if not args.json:
                print(section(name, entry), flush=True)
            if is_lost:
                start_again(args, left())
    return report


def read_report(path: Path) -> dict[str, Any]:
    """The report of a run that ended early, without parts that were not started."""
    if not path.exists():
        return {"parts": {}}
    report = read_json(path, "report")
    done = {name: e for name, e in report["parts"].items() if e["status"] != "not started"}
    return {**report, "parts": done}


def run_part(
    name: str,
    entry: dict[str, Any],
    device: torch.device,
    context: Context,
    save: Callable[[], None],
    left: float,
) -> bool:
    """Fill `entry` with the rows of a part. Return whether the GPU was lost."""
    entry["status"], begin, is_lost = "running", time.monotonic(), False
    print(f"{name} ...", file=sys.stderr, flush=True)
    try:
        with time_limit(min(left, LIMITS.get(name, LIMIT))):
            for row in PARTS[name](device, context):
                entry["rows"].append(row)
                entry["seconds"] = round(time.monotonic() - begin, 2)
                save()
        entry["status"] = "done"
    except (Exception, Timeout) as error:
        entry["status"], is_lost = "failed", isinstance(error, DeviceLost)
        entry["rows"].append({"error": line_of(error)})
    entry["seconds"] = round(time.monotonic() - begin, 2)
    return is_lost


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """A context that raises Timeout after `seconds`, where the system has timers."""
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
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


def start_again(args: argparse.Namespace, left: float) -> None:
    """Continue in a new process, which has a GPU again, in place of this one."""
    sys.stdout.flush()
    command = [sys.executable, "-m", "tools.benchmark", "gpu", "--keep", "--parts", *args.parts]
    command += ["--budget", str(max(left, 0)), "--out", str(args.out)]
    command += ["--seconds", str(args.seconds)] if args.seconds is not None else []
    os.execv(sys.executable, [*command, *(["--json"] if args.json else [])])


def section(name: str, entry: dict[str, Any]) -> str:
    """The table of a part, as Markdown."""
    status = entry["status"]
    title = f"## {name}\n\n{status}" + (f", {entry['seconds']:.1f} s" if "seconds" in entry else "")
    head = list(dict.fromkeys(column for row in entry["rows"] for column in row))
    rows = [[cell(row.get(column, "")) for column in head] for row in entry["rows"]]
    return f"{title}\n\n{markdown(head, rows)}\n" if rows else f"{title}\n"


def cell(value: Any) -> str:
    """A figure in few digits."""
    if not isinstance(value, float):
        return str(value).replace("|", "/")
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3g}"


def table(report: dict[str, Any]) -> str:
    """The last line: the tables were printed when their parts ended."""
    parts = report["parts"]
    return f"{counted(parts)}; figures in {report['file']}"


def counted(parts: dict[str, Any]) -> str:
    """How many parts ended in which way, and how many rows are errors."""
    status = [entry["status"] for entry in parts.values()]
    errors = sum("error" in row for entry in parts.values() for row in entry["rows"])
    ways: Sequence[str] = list(dict.fromkeys(status))
    return ", ".join(f"{status.count(way)} parts {way}" for way in ways) + f", {errors} errors"
