"""What the studies share: scripts that are run once, and their figures over seeds."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

FOLDER = Path("experiments/synthetic")
NETWORK = "quickstart"  # the yaml of a network that is no supernet
AP = re.compile(r"^\| \w+ \| (\d\.\d+) \|", re.MULTILINE)


class Runs:
    """The scripts a user calls, with the settings of one seed; what ended well is not run again."""

    def __init__(
        self, data: Path, seed: int, opts: Sequence[str] = (), threads: int | None = None
    ) -> None:
        self.settings = ["DATASET.ROOT", str(data), "SEED", str(seed), "VERBOSE", "False", *opts]
        self.environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})

    def train_and_score(
        self, out: Path, arch: Path, training: Sequence[str], network: Sequence[str] = ()
    ) -> float:
        """AP of the network `arch`; flags and keys of its training alone, and keys of both."""
        self.run(out, "dist_train", NETWORK, arch, *training, *network)
        return float(AP.search(self.run(out, "valid", NETWORK, arch, *network)).group(1))

    def run(self, out: Path, script: str, yaml: str, arch: Path, *keys: str) -> str:
        """What the script prints, below its command; of an earlier run what it printed then.

        ValueError where the script fails, or the earlier run had another command.
        """
        record = out / f"{script}_{yaml}_{arch.stem}.txt"
        arguments = [f"{script}.py", "--cfg", str(FOLDER / f"{yaml}.yaml")]
        arguments += ["--superconfig", str(arch), *self.settings]
        arguments += ["OUTPUT_DIR", str(out), "LOG_DIR", str(out / "log"), *keys]
        command = " ".join(arguments)
        if record.exists():
            printed = record.read_text()
            if not printed.startswith(command + "\n"):
                raise ValueError(f"{record} is of another command; give another --out")
            return printed
        out.mkdir(parents=True, exist_ok=True)
        print(command, file=sys.stderr, flush=True)
        done = python(arguments, self.environment)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            raise ValueError(f"{script}.py ended with {done.returncode}: {''.join(last)}")
        printed = f"{command}\n{done.stdout}"
        partial = record.with_suffix(".partial")
        partial.write_text(printed)
        partial.replace(record)
        return printed


def python(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, and what it printed."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def shown(values: Sequence[float]) -> str:
    """The mean over the seeds, and in brackets the largest less the smallest."""
    spread = f" ({max(values) - min(values):.3f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"
