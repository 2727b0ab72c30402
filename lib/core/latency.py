"""Latency of an architecture as the sum of its pieces, looked up in a table.

`python -m tools.benchmark latency` measures the table on the machine at hand.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Key = tuple[Any, ...]  # a piece's fields


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of each piece at batch 1, and where they were measured."""

    machine: str
    times: Mapping[Key, float]

    def total(self, pieces: Iterable[Key]) -> float:
        """Milliseconds of a network; ValueError names the first piece that was not measured."""
        pieces = [tuple(piece) for piece in pieces]
        for piece in pieces:
            if piece not in self.times:
                raise ValueError(
                    f"the latency table has no {' '.join(map(str, piece))}; measure it for this "
                    "space: python -m tools.benchmark latency"
                )
        return sum(self.times[piece] for piece in pieces)

    @classmethod
    def read(cls, path: str | Path) -> LatencyTable:
        """What `write` wrote; ValueError names the file that is none."""
        try:
            tree = json.loads(Path(path).read_text())
            times = {tuple(key): float(ms) for *key, ms in tree["pieces"]}
            return cls(str(tree["machine"]), times)
        except OSError as error:
            raise ValueError(f"cannot read the latency table {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is no latency table") from None

    def write(self, path: str | Path) -> None:
        """One line per piece: its fields, then milliseconds."""
        rows = ",\n".join(json.dumps([*key, round(ms, 5)]) for key, ms in self.times.items())
        head = f'{{\n"machine": {json.dumps(self.machine)},\n'
        Path(path).write_text(f'{head}"pieces": [\n{rows}\n]\n}}\n')


def median_ms(call: Callable[[], object], runs: int = 9, warm_up: int = 3) -> float:
    """Milliseconds of `call`: the median of `runs` after some to warm up."""
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times)
