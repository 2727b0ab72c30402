"""Search a trained supernet for the best network below a limit (paper, section 4).

    python -m tools.search --supernet checkpoint.pth.tar --max-gmacs 0.8 --rule true --out search-XS
    python -m tools.search ... --max-ms 20 --latency-table latency.json --out search-20ms
    torchrun --nproc_per_node=8 -m tools.search ...   # 8 processes score, one on each GPU

The score of an architecture is the AP of its extracted and recalibrated sub-network on the last
--search-images annotated images of the training split. The supernet should not be trained on these
images: train it with DATASET.MAX_IMAGES, which uses the first ones. Otherwise a warning is logged.
Calibration uses the other images.

--supernet may also be a LitePose that was trained alone, whose slices are searched as
weight_transfer.py extracts them: SUPERNET.IMPORTANCE activation SUPERNET.REFIT True
(docs/shrink.md).

The same command resumes an interrupted search. --out holds winner.json (for --superconfig),
candidates.csv, pareto.png and journal.jsonl.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from yacs.config import CfgNode

from arch_manager import ArchManager
from lib.config import default_config
from lib.core.calibrate import Calibration
from lib.core.inference import InferenceSettings
from lib.core.pipeline import LoaderSettings
from lib.dataset.build import EvaluationSet, build_search_sets, make_dataloader
from lib.models import place
from lib.models.arch import ArchSpec
from lib.models.load import NetworkFile, read_network
from lib.models.pieces import pieces_from_config
from lib.models.pose_supermobilenet import SuperLitePose
from lib.models.refit import Refitting
from lib.models.subnet import build_supernet, extract_subnet
from lib.search.accuracy import SubnetAccuracy
from lib.search.evolution import Evolution, Search
from lib.search.latency import LatencyTable
from lib.search.shared import SharedScores
from lib.utils import cli
from lib.utils.dist import leave, start_process
from lib.utils.files import WriteError, check_outputs
from lib.utils.journal import Journal
from lib.utils.lock import holding
from lib.utils.reading import hash_of
from tools.search.report import Costs, log, report

logger = logging.getLogger("lib.search")

SLICES = ("REFIT", "SORT_CHANNELS", "IMPORTANCE", "SORTING_IMAGES")  # of a LitePose


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--cfg", help="experiments/*/*/supermobile.yaml; default: the supernet's settings")
    add("--supernet", required=True, type=Path, help="a trained supernet, or a LitePose to slice")
    add("--out", required=True, type=Path, help="output folder; a search in it is resumed")
    add("--max-gmacs", type=float, help="limit on multiply-adds of one image, in 10^9")
    add("--rule", choices=["true", "paper"], default="true", help="how to count (docs/results.md)")
    add("--max-ms", type=float, help="limit on latency; needs --latency-table")
    add("--latency-table", type=Path, help="output of: python -m tools.benchmark pieces")
    add("--generations", type=int, default=10)
    add("--population", type=int, default=20, help="candidates of each generation")
    add("--parents", type=int, default=5, help="best candidates that a generation descends from")
    add("--mutation", type=float, default=0.1, help="probability to resample each dimension")
    add("--calibrate", type=int, default=256, help="training images to recalibrate or refit with")
    add("--search-images", type=int, default=500, help="held-out images that AP is computed on")
    add("--random", action="store_true", help="score as many random candidates instead")
    add("--seed", type=int, default=0)
    cli.add_device_flag(parser)
    cli.add_process_flags(parser)
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    settings, limits = read_settings(args), read_limits(args)
    table = LatencyTable.read(args.latency_table) if args.latency_table else None
    network = read_network(args.supernet, cfg=args.cfg, opts=args.opts)
    process = start_process(network.cfg, args, backend="gloo")  # for GPUs, too: scores are numbers
    level = logging.INFO if process.is_main else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stdout, format="%(message)s", force=True)
    training, held_out = build_search_sets(network.cfg, args.search_images)
    calibration = Calibration(training, partial(make_dataloader, network.cfg), args.calibrate)
    supernet = sliceable(network, calibration, process.device)
    scores = SharedScores(process, accuracy_of(network.cfg, supernet, calibration, held_out))
    if process.is_main:
        warn_of_seen_images(network, len(training))
        try:
            search(args, network, supernet.arch, settings, limits, table, scores)
        finally:
            scores.close()
    else:
        scores.serve()
    leave(process)
    return 0


def search(
    args: argparse.Namespace,
    network: NetworkFile,
    largest: ArchSpec,
    settings: Evolution,
    limits: Mapping[str, float],
    table: LatencyTable | None,
    scores: SharedScores,
) -> None:
    """The search, in the one process that reads and writes --out."""
    cfg = network.cfg
    outputs = [args.out / name for name in ("winner.json", "candidates.csv", "pareto.png")]
    check_outputs(outputs, [network.source, args.latency_table, args.cfg])
    space = ArchManager.from_config(cfg, largest)
    costs = Costs(pieces_from_config(cfg), args.rule, table)
    make_folder(args.out)
    with holding(args.out):
        course = Search(
            space=space,
            costs=costs,
            scores=scores,
            limits=limits,
            journal=open_journal(args.out, journal_header(args, network, space, limits)),
            seed=args.seed,
            on_candidate=log,
        )
        count = args.generations * args.population
        candidates = course.sample_random(count) if args.random else course.evolve(settings)
        report(args, space, costs, candidates, limits)


def read_settings(args: argparse.Namespace) -> Evolution:
    """The settings of the evolution; ValueError for a number that no search can use."""
    for flag in ("--calibrate", "--search-images"):
        cli.check_range(flag, getattr(args, flag[2:].replace("-", "_")), low=1)
    cli.check_range("--seed", args.seed, low=0)
    return Evolution(
        generations=args.generations,
        population=args.population,
        parents=args.parents,
        mutation=args.mutation,
    )


def read_limits(args: argparse.Namespace) -> dict[str, float]:
    """{"gmacs": ..., "ms": ...}, one or both; ValueError for a number that no search can use."""
    for flag in ("--max-gmacs", "--max-ms"):
        if (limit := getattr(args, flag[2:].replace("-", "_"))) is not None:
            cli.check_range(flag, limit, low=0)
    if args.max_ms is not None and not args.latency_table:
        raise ValueError("--max-ms needs --latency-table (python -m tools.benchmark pieces)")
    flags = {"gmacs": args.max_gmacs, "ms": args.max_ms}
    limits = {name: limit for name, limit in flags.items() if limit is not None}
    if not limits:
        raise ValueError("give --max-gmacs, --max-ms, or both")
    return limits


def sliceable(
    network: NetworkFile, calibration: Calibration, device: torch.device
) -> SuperLitePose:
    """The supernet to slice; the channels of a LitePose are sorted on images of `calibration`."""
    cfg = network.cfg

    def sorting_images() -> Iterable[Tensor] | None:
        if cfg.SUPERNET.IMPORTANCE == "weights":
            return None
        some = replace(calibration, num_images=cfg.SUPERNET.SORTING_IMAGES)
        return some.batches(cfg.DATASET.INPUT_SIZE, device)

    return build_supernet(network, device, sorting_images)


def accuracy_of(
    cfg: CfgNode, supernet: SuperLitePose, calibration: Calibration, held_out: EvaluationSet
) -> SubnetAccuracy:
    """The score of an architecture on `held_out`, recalibrated or refitted (SUPERNET.REFIT)."""
    device = next(supernet.parameters()).device
    refitting = Refitting(supernet, lambda size: calibration.batches(size, device))
    return SubnetAccuracy(
        extract=lambda arch: place(extract_subnet(supernet, arch), device, cfg.MODEL.CHANNELS_LAST),
        adjust=refitting if cfg.SUPERNET.REFIT else calibration,
        held_out=held_out,
        settings=InferenceSettings.from_config(cfg),
        loading=LoaderSettings.from_config(cfg),
    )


def warn_of_seen_images(supernet: NetworkFile, others: int) -> None:
    """A warning if the supernet was trained on the images to search on."""
    data = supernet.recorded.get("DATASET")
    if not data or data["ROOT"] != supernet.cfg.DATASET.ROOT:
        return
    trained_on = data["MAX_IMAGES"]
    if not trained_on or trained_on > others:
        logger.warning(
            "the supernet was trained on the images to search on; for a fair AP, train it with "
            "DATASET.MAX_IMAGES %d",
            others,
        )


def journal_header(
    args: argparse.Namespace, network: NetworkFile, space: ArchManager, limits: Mapping[str, float]
) -> dict[str, Any]:
    """All that the scores and the course of the search depend on, but --generations."""
    cfg = network.cfg
    evolution = {name: getattr(args, name) for name in ("population", "parents", "mutation")}
    return {
        "keys": "names",  # of the dimensions; earlier journals, without this entry, had positions
        "supernet": hash_of(network.source),
        "latency_table": hash_of(args.latency_table) if args.latency_table else "",
        "limits": limits,
        "rule": args.rule,
        "seed": args.seed,
        "random": args.random,
        "evolution": {} if args.random else evolution,
        "search_images": args.search_images,
        "calibrate": args.calibrate,
        "space": asdict(space),
        "slices": {name: cfg.SUPERNET[name] for name in SLICES},
        "config": {name: cfg[name] for name in ("DATASET", "MODEL", "TEST")},
    }


def make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out: cannot make {out}: {error.strerror}") from None


def open_journal(out: Path, header: Mapping[str, Any]) -> Journal:
    try:
        # A key that came with an update had no effect before it, as its default has none now.
        journal = Journal(out / "journal.jsonl", header, defaults={"config": default_config()})
    except WriteError:
        raise
    except ValueError as error:
        raise ValueError(f"{error}; give the same, or another folder") from None
    if journal.entries:
        logger.info("%d candidates are known from %s", len(journal.entries), journal.path)
    return journal


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: one line
    try:
        cli.run(main)
    except SystemExit as ended:
        # A process is lost: threads of the group that is left would abort this one as it ends.
        if ended.code and dist.is_initialized():
            os._exit(int(ended.code))
        raise
