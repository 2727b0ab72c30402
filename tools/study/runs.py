"""The runs of a study: commands in new processes, each with a record, so that none is repeated."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from lib.utils.files import write_file

STOPPED = threading.Event()  # set on Ctrl-C by studies that run scripts in threads
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_flags(to: argparse.ArgumentParser, out: str) -> None:
    """Add the flags that every study has; `out` is a default."""
    to.add_argument("--out", type=Path, default=Path(out))
    to.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    to.add_argument("--threads", type=int, help="threads of each process")
    to.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")


class Runs:
    """Commands with the settings of one seed.

    yaml: of the networks, unless a command names another. keys: config keys and values of all.
    """

    def __init__(
        self, args: argparse.Namespace, seed: int, yaml: Path, keys: Sequence[str] = ()
    ) -> None:
        self.out: Path = args.out / f"seed{seed}"
        self.yaml = yaml
        self.settings = [*keys, "SEED", str(seed), "VERBOSE", "False", *args.opts]
        threads = {"OMP_NUM_THREADS": str(args.threads)} if args.threads else {}
        self.environment = os.environ | threads

    def train_and_score(
        self, folder: str, arch: Path, training: Sequence[str], network: Sequence[str] = ()
    ) -> float:
        """AP of `arch`; `training`: flags and keys of dist_train.py; `network`: keys of both."""
        self.run(folder, "dist_train", self.yaml, arch, *training, *network)
        return self.run(folder, "valid", self.yaml, arch, *network)["table"]["AP"]

    def run(self, folder: str, script: str, yaml: Path, arch: Path, *keys: str) -> Any:
        """What a script of the root writes with --json; None for dist_train.py."""
        out = self.out / folder
        arguments = [f"{script}.py", "--cfg", str(yaml), "--superconfig", str(arch)]
        arguments += [*self.settings, "OUTPUT_DIR", str(out), "LOG_DIR", str(out / "log"), *keys]
        report = None if script == "dist_train" else out / "report.json"
        return self.once(out / f"{script}_{yaml.stem}_{arch.stem}.json", arguments, report)

    def once(self, record: Path, arguments: Sequence[str], report: Path | None) -> Any:
        """What a command writes to `report` (--json); from its `record` if it ran before.

        ValueError when the command fails, or the record is of another one.
        """
        arguments = [*arguments, "--json", str(report)] if report else list(arguments)
        command = " ".join(arguments)
        if earlier := read_record(record):
            if earlier["command"] != command:
                raise ValueError(f"{record} is of another command; give another --out")
            return earlier["report"]
        record.parent.mkdir(parents=True, exist_ok=True)
        print(command, file=sys.stderr, flush=True)
        succeed(arguments, self.environment)
        figures = json.loads(report.read_text(encoding="utf-8")) if report else None
        write_file(record, json.dumps({"command": command, "report": figures}, indent=2))
        return figures


def read_record(path: Path) -> dict[str, Any] | None:
    """The command and the report of a run; None where it is not finished."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def succeed(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a script; ValueError with its last line if it fails."""
    done = python(arguments, environment)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        name = arguments[1] if arguments[0] == "-m" else arguments[0]
        raise ValueError(f"{name} ended with {done.returncode}: {''.join(last)}")


def python(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a script in a new process.

    On Ctrl-C, or in another thread than the main one on STOPPED, it gets SIGTERM, on which a
    training saves a checkpoint; KeyboardInterrupt is raised once it has ended.
    """
    command, pipe = [sys.executable, *arguments], subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            while not STOPPED.is_set():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    output, errors = process.communicate(timeout=1)
                    return subprocess.CompletedProcess(
                        arguments, process.returncode, output, errors
                    )
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            process.terminate()
            process.communicate()
            raise


# --------------------------------------------------------------------------------- the tables
def mean_and_spread(values: Sequence[float]) -> str:
    """The mean over the seeds, and in brackets the largest minus the smallest."""
    spread = f" ({max(values) - min(values):.3f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def differences(values: Sequence[float], others: Sequence[float]) -> str:
    """The mean difference of the same seeds, and in brackets the smallest and the largest."""
    changes = [value - other for value, other in zip(values, others, strict=True)]
    ends = f"{min(changes):+.3f} to {max(changes):+.3f}"
    return f"{statistics.mean(changes):+.3f} ({ends})"
