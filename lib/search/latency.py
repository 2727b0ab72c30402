"""Latency of an architecture as the sum of its pieces, from a table of measurements.

`python -m tools.benchmark pieces` measures the table on this machine.

Accuracy of the sum: on one thread of a two-core x86 machine under other load, search-XS, S, M, L,
prune-S and prune-L took 39, 129, 189, 377, 171 and 345 ms of CPU time (best runs); the sums were
0.96, 0.94, 0.89, 0.79, 0.81 and 0.97 of that. A piece measured alone has its weights in the cache,
and the additions of the head are in no piece. So sums are too small, most of all for networks of
large maps: leave a margin below a hard limit.

With `--runtime openvino`, where layers are timed by the runtime itself and changes of the memory
layout are left out, sums were 1.07 to 1.24 of the whole (docs/supernet.md): such a limit is kept.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lib.utils.device import CPU, synchronize
from lib.utils.files import write_file
from lib.utils.reading import read_json

Key = tuple[Any, ...]  # a piece's fields


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of each piece at batch 1, and the machine they were measured on."""

    machine: str
    times: Mapping[Key, float]

    def total(self, pieces: Iterable[Key]) -> float:
        """Milliseconds of a network; ValueError names the first piece that is not in the table."""
        pieces = [tuple(piece) for piece in pieces]
        for piece in pieces:
            if piece not in self.times:
                raise ValueError(
                    f"the latency table has no {' '.join(map(str, piece))}; measure it for this "
                    "space: python -m tools.benchmark pieces"
                )
        return sum(self.times[piece] for piece in pieces)

    @classmethod
    def read(cls, path: str | Path) -> LatencyTable:
        """The table that `write` wrote; ValueError names a file that is none."""
        tree = read_json(path, "latency table")
        try:
            times = {tuple(key): float(ms) for *key, ms in tree["pieces"]}
            return cls(str(tree["machine"]), times)
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is no latency table") from None

    def write(self, path: str | Path) -> None:
        """One line per piece: its fields, then milliseconds."""
        rows = ",\n".join(json.dumps([*key, round(ms, 5)]) for key, ms in self.times.items())
        machine = json.dumps(self.machine)
        write_file(path, f'{{\n"machine": {machine},\n"pieces": [\n{rows}\n]\n}}\n')


def median_times(
    calls: Sequence[Callable[[], object]], rounds: int, device: torch.device = CPU
) -> list[float]:
    """Milliseconds of each call on `device`: the median of `rounds`, each after a warm-up call.

    The calls take turns, so that other load on the machine affects all of them alike.
    """
    return medians([partial(milliseconds, call, device) for call in calls], rounds)


def medians(measures: Sequence[Callable[[], float]], rounds: int) -> list[float]:
    """The median of `rounds` results of each; they take turns."""
    turns = [[measure() for measure in measures] for _ in range(rounds)]
    return [statistics.median(results) for results in zip(*turns, strict=True)]


def milliseconds(call: Callable[[], object], device: torch.device = CPU) -> float:
    """Of one call on `device`, after a warm-up call."""
    call()
    begin = now(device)
    call()
    return 1000 * (now(device) - begin)


def now(device: torch.device) -> float:
    """Seconds, once the device has finished its work."""
    synchronize(device)
    return time.perf_counter()


def machine(device: torch.device) -> str:
    """Device, PyTorch and Python in one line."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        name = f"{torch.get_num_threads()} threads of {platform.machine()}"
    else:
        name = f"{device.type} of {platform.machine()}"
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"
