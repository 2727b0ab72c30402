"""What a search prints and writes, but for its journal."""

from __future__ import annotations

import argparse
import csv
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from arch_manager import ArchManager
from lib.models.arch import ArchSpec
from lib.models.pieces import Piece, arch_macs
from lib.search.evolution import Candidate, best, pareto_front
from lib.search.latency import LatencyTable
from lib.utils.files import write_file
from lib.utils.plots import save_figure, scatter

logger = logging.getLogger("lib.search")

UNITS = {"gmacs": "multiply-adds of one image (G)", "ms": "latency of one image (ms)"}


@dataclass(frozen=True)
class Costs:
    """A function arch -> {"gmacs": ...} and, with a latency table, also "ms"."""

    pieces_of: Callable[[ArchSpec], list[Piece]]
    rule: str
    table: LatencyTable | None

    def __call__(self, arch: ArchSpec) -> dict[str, float]:
        pieces = self.pieces_of(arch)
        gmacs = {"gmacs": arch_macs(pieces)[self.rule] / 1e9}
        return gmacs if self.table is None else {**gmacs, "ms": self.table.total(pieces)}


def summary(one: Candidate) -> str:
    """AP 0.512, 0.049 gmacs, 256 px, stem 16, stages 16 32 48 80 of 6 8 10 10 blocks, ..."""
    costs = ", ".join(f"{value:.3f} {name}" for name, value in one.costs.items())
    return f"AP {one.score:.3f}, {costs}, {one.arch.summary}"


def log(one: Candidate) -> None:
    logger.info("generation %d: %s", one.generation, summary(one))


def report(
    args: argparse.Namespace,
    space: ArchManager,
    costs: Costs,
    candidates: Sequence[Candidate],
    limits: Mapping[str, float],
) -> None:
    """winner.json, candidates.csv, pareto.png, and the winner on the console."""
    winner, winner_path = best(candidates), args.out / "winner.json"
    winner.arch.to_json(winner_path)
    write_csv(args.out / "candidates.csv", space, costs, candidates)
    cost = next(iter(limits))
    label = f"{UNITS[cost]}, {args.rule} rule" if cost == "gmacs" else UNITS[cost]
    figure = scatter(
        points=[(one.costs[cost], one.score) for one in candidates],
        front=[(one.costs[cost], one.score) for one in pareto_front(candidates, cost)],
        best=(winner.costs[cost], winner.score),
        limit=limits[cost],
        title=f"{len(candidates)} candidates; line: Pareto front; ring: winner; dashed: limit",
        labels=(label, f"AP on {args.search_images} held-out images"),
    )
    save_figure(args.out / "pareto.png", figure)
    logger.info("the best of %d: %s; in %s", len(candidates), summary(winner), winner_path)


def write_csv(
    path: Path, space: ArchManager, costs: Costs, candidates: Sequence[Candidate]
) -> None:
    """A row per candidate in the order of scoring: score, costs, and each choice of the space."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["generation", "AP", "gmacs_true", "gmacs_paper", "ms", *space.choices])
    for one in candidates:
        macs = arch_macs(costs.pieces_of(one.arch))
        ms = f"{one.costs['ms']:.3f}" if "ms" in one.costs else ""
        numbers = [space.encode(one.arch)[name] for name in space.choices]
        gmacs = [macs["true"] / 1e9, macs["paper"] / 1e9]
        writer.writerow([one.generation, f"{one.score:.5f}", *gmacs, ms, *numbers])
    write_file(path, file.getvalue())
