"""Search a trained supernet for the best network below a limit (paper, section 3.3).

    python -m tools.search --cfg experiments/crowd_pose/mobilenet/supermobile.yaml \\
        --supernet checkpoint.pth.tar --max-gmacs 0.8 --rule true --out search-XS
    python -m tools.search ... --max-ms 20 --latency-table latency.json --out search-20ms

Accuracy is the AP of the cut, its BatchNorm statistics recalibrated, on the last --search-images
annotated pictures of the training split. The supernet should not have seen them: train it with
DATASET.MAX_IMAGES, which takes the first pictures; this tool says whether it was. Calibration
uses the others.

The same command goes on where it was stopped. --out holds winner.json (for --superconfig),
candidates.csv, pareto.png and journal.jsonl.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from yacs.config import CfgNode

from arch_manager import ArchManager
from lib.config import load_config
from lib.dataset.build import build_search_sets
from lib.models.arch import ArchSpec
from lib.models.pieces import arch_macs, pieces_from_config
from lib.models.pose_supermobilenet import SuperLitePose, load_supernet
from lib.models.subnet import extract_subnet
from lib.search.accuracy import SubnetAccuracy
from lib.search.evolution import Candidate, Evolution, Search, best, pareto_front
from lib.search.latency import LatencyTable
from lib.search.ridge import ridge_predictor
from lib.utils import cli
from lib.utils.checkpoint import hash_of, load_checkpoint
from lib.utils.dist import choose_device
from lib.utils.journal import Journal
from lib.utils.plots import save_figure, scatter

logger = logging.getLogger("lib.search")

UNITS = {"gmacs": "multiply-adds of one picture (G)", "ms": "latency of one picture (ms)"}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cfg", required=True, help="experiments/*/*/supermobile.yaml")
    add("--supernet", required=True, type=Path, help="a checkpoint of the trained supernet")
    add("--out", required=True, type=Path, help="a folder; one with a journal is continued")
    add("--max-gmacs", type=float, help="limit on multiply-adds of one picture, in 10^9")
    add("--rule", choices=["true", "paper"], default="true", help="how they are counted")
    add("--max-ms", type=float, help="limit on latency; needs --latency-table")
    add("--latency-table", type=Path, help="from: python -m tools.benchmark pieces")
    add("--generations", type=int, default=10)
    add("--population", type=int, default=20, help="candidates of each generation")
    add("--parents", type=int, default=5)
    add("--mutation", type=float, default=0.1, help="probability of each gene")
    add("--calibrate", type=int, default=256, help="pictures behind BatchNorm statistics")
    add("--search-images", type=int, default=500, help="pictures behind each AP")
    add("--predictor", action="store_true", help="choose children by predicted AP, once reliable")
    add("--random", action="store_true", help="as many random candidates, for comparison")
    add("--seed", type=int, default=0)
    add("--gpu", type=int, help="CUDA device; the CPU is used where there is none")
    add("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s", force=True)
    cfg = load_config(args.cfg, args.opts)
    settings = Evolution(args.generations, args.population, args.parents, args.mutation)
    limits = read_limits(args)
    table = LatencyTable.read(args.latency_table) if args.latency_table else None
    memory = torch.channels_last if cfg.MODEL.CHANNELS_LAST else torch.contiguous_format
    supernet = load_supernet(cfg, args.supernet)
    supernet.to(choose_device(cfg, args.gpu), memory_format=memory)
    space = ArchManager.from_config(cfg, supernet.arch)
    training, held_out = build_search_sets(cfg, args.search_images)
    warn_of_seen_images(args.supernet, cfg.DATASET.ROOT, len(training))
    journal = open_journal(args, journal_header(args, cfg, space, limits))
    search = Search(
        *(space, cost_function(cfg, args.rule, table)),
        SubnetAccuracy(cfg, extractor_of(cfg, supernet), training, held_out, args.calibrate),
        *(limits, journal, args.seed, tell),
    )
    if args.random:
        found = search.draw_random(args.generations * args.population)
    else:
        options = [len(choices) for choices in space.choices]
        found = search.evolve(settings, ridge_predictor(options) if args.predictor else None)
    report(args, cfg, found, limits)
    return 0


def read_limits(args: argparse.Namespace) -> dict[str, float]:
    """{"gmacs": ..., "ms": ...}, those that were given."""
    if args.max_ms is not None and not args.latency_table:
        raise ValueError("--max-ms needs --latency-table (python -m tools.benchmark pieces)")
    given = {"gmacs": args.max_gmacs, "ms": args.max_ms}
    limits = {name: limit for name, limit in given.items() if limit is not None}
    if not limits:
        raise ValueError("give --max-gmacs, --max-ms, or both")
    return limits


def extractor_of(cfg: CfgNode, supernet: SuperLitePose) -> Callable[[ArchSpec], nn.Module]:
    """arch -> its sub-network, on the supernet's device."""
    device = next(supernet.parameters()).device
    memory = torch.channels_last if cfg.MODEL.CHANNELS_LAST else torch.contiguous_format
    return lambda arch: extract_subnet(supernet, arch).to(device, memory_format=memory)


def warn_of_seen_images(path: Path, root: str, others: int) -> None:
    """Say so when the supernet's training looked at the pictures to search on."""
    config = yaml.safe_load(load_checkpoint(path).get("config") or "")
    if not config or config["DATASET"]["ROOT"] != root:
        return
    trained_on = config["DATASET"]["MAX_IMAGES"]
    if not trained_on or trained_on > others:
        logger.warning(
            "the supernet was trained on the pictures to search on; for a fair AP, train it with "
            "DATASET.MAX_IMAGES %d",
            others,
        )


def journal_header(
    args: argparse.Namespace, cfg: CfgNode, space: ArchManager, limits: dict[str, float]
) -> dict[str, Any]:
    """All that a score or the way of the search depends on; only --generations may change."""
    evolution = {name: getattr(args, name) for name in ("population", "parents", "mutation")}
    return {
        "supernet": hash_of(args.supernet),
        "latency_table": hash_of(args.latency_table) if args.latency_table else "",
        "limits": limits,
        "rule": args.rule,
        "seed": args.seed,
        "random": args.random,
        "evolution": {} if args.random else {**evolution, "predictor": args.predictor},
        "search_images": args.search_images,
        "calibrate": args.calibrate,
        "space": asdict(space),
        "config": {name: cfg[name] for name in ("DATASET", "MODEL", "TEST")},
    }


def open_journal(args: argparse.Namespace, header: dict[str, Any]) -> Journal:
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out: cannot make {args.out}: {error.strerror}") from None
    try:
        journal = Journal(args.out / "journal.jsonl", header)
    except ValueError as error:
        raise ValueError(f"{error}; give the same, or another folder") from None
    if journal.entries:
        logger.info("%d candidates are known from %s", len(journal.entries), journal.path)
    return journal


def cost_function(
    cfg: CfgNode, rule: str, table: LatencyTable | None
) -> Callable[[ArchSpec], dict[str, float]]:
    """arch -> {"gmacs": ...} and, with a table, {"ms": ...}."""
    pieces_of = pieces_from_config(cfg)

    def costs(arch: ArchSpec) -> dict[str, float]:
        pieces = pieces_of(arch)
        gmacs = {"gmacs": arch_macs(pieces)[rule] / 1e9}
        return gmacs if table is None else {**gmacs, "ms": table.total(pieces)}

    return costs


def tell(one: Candidate) -> None:
    costs = ", ".join(f"{value:.3f} {name}" for name, value in one.costs.items())
    logger.info("generation %d: AP %.3f, %s, %s", one.generation, one.score, costs, short(one.arch))


def short(arch: ArchSpec) -> str:
    """256 px, 16 | 16 32 48 80 | 16 24 24"""
    stages = " ".join(str(stage.channel) for stage in arch.stages)
    deconv = " ".join(map(str, arch.deconv))
    return f"{arch.img_size} px, {arch.input_channel} | {stages} | {deconv}"


def report(
    args: argparse.Namespace, cfg: CfgNode, found: list[Candidate], limits: dict[str, float]
) -> None:
    """winner.json, candidates.csv, pareto.png, and the winner on the console."""
    winner = best(found)
    winner.arch.to_json(args.out / "winner.json")
    write_csv(args.out / "candidates.csv", cfg, found)
    cost = next(iter(limits))
    label = f"{UNITS[cost]}, {args.rule} rule" if cost == "gmacs" else UNITS[cost]
    figure = scatter(
        points=[(one.costs[cost], one.score) for one in found],
        front=[(one.costs[cost], one.score) for one in pareto_front(found, cost)],
        best=(winner.costs[cost], winner.score),
        limit=limits[cost],
        title=f"{len(found)} candidates; line: Pareto front; ring: winner; dashed: limit",
        labels=(label, f"AP on {args.search_images} held-out images"),
    )
    save_figure(args.out / "pareto.png", figure)
    costs = ", ".join(f"{value:.3f} {name}" for name, value in winner.costs.items())
    logger.info(
        "the best of %d: AP %.3f, %s, %s; in %s",
        *(len(found), winner.score, costs, short(winner.arch), args.out / "winner.json"),
    )


def write_csv(path: Path, cfg: CfgNode, found: list[Candidate]) -> None:
    """A row per candidate, in the order of scoring; widths coarse to fine, separated by spaces."""
    pieces_of = pieces_from_config(cfg)
    names = ["generation", "AP", "gmacs_true", "gmacs_paper", "ms"]
    names += ["img_size", "input_channel", "stages", "deconv", "blocks"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for one in found:
            macs = arch_macs(pieces_of(one.arch))
            ms = one.costs.get("ms")
            blocks = {block for stage in one.arch.stages for block in stage.blocks}
            writer.writerow(
                [one.generation, f"{one.score:.5f}"]
                + [macs["true"] / 1e9, macs["paper"] / 1e9, "" if ms is None else f"{ms:.3f}"]
                + [one.arch.img_size, one.arch.input_channel]
                + [" ".join(str(stage.channel) for stage in one.arch.stages)]
                + [" ".join(map(str, one.arch.deconv))]
                + [" ".join(f"{e}x{k}" for e, k in sorted(blocks))]
            )


if __name__ == "__main__":
    cli.run(main)
