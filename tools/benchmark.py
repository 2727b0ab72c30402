"""How fast things are here.

    python -m tools.benchmark train --superconfig mobile_configs/search-XS.json --batch 8
    python -m tools.benchmark train --superconfig mobile_configs/search-S.json --batch 4 --json
    python -m tools.benchmark latency --cfg experiments/crowd_pose/mobilenet/supermobile.yaml \\
        --out latency.json --check mobile_configs/search-XS.json
    python -m tools.benchmark decode --people 2 20 --sizes 448x640
    python -m tools.benchmark valid --oracle DATASET.ROOT data/synthetic

`train`: one whole training step (normalize, targets, forward, losses, backward, Adam) on one
batch, as configured (channels last) and as plain eager contiguous float32, in turns, so that both
meet the same machine; the result is a ratio.

`latency`: the forward pass, batch 1, of every piece that a network of the supernet's search space
(SUPERNET.*) can have: the table that `python -m tools.search --max-ms` adds up. `--check` compares
the sum with the whole network.

`decode`: maps to people, beside the readable specification. `valid`: an evaluation in parts.

The number of threads is OMP_NUM_THREADS's. Measure on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from arch_manager import ArchManager
from lib.config import load_config
from lib.core.latency import LatencyTable, machine, median_times
from lib.core.loss import MultiLossFactory
from lib.core.trainer import Precision, make_view, train_step
from lib.dataset.pose_dataset import Batch
from lib.models import build_model
from lib.models.arch import ArchSpec
from lib.models.pieces import build_piece, pieces_from_config, space_pieces
from lib.models.pose_mobilenet import LitePose, network_of
from lib.utils import cli
from lib.utils.optim import get_optimizer
from tools import benchmark_decode, benchmark_valid

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="what", required=True)
    train = kinds.add_parser("train", help="one training step, in two memory formats")
    train.add_argument("--cfg", default="experiments/coco/mobilenet/mobile.yaml")
    train.add_argument("--superconfig", default="mobile_configs/search-XS.json")
    train.add_argument("--batch", type=int, default=8)
    train.add_argument("--steps", type=int, default=5, help="of each kind, after one to warm up")
    train.add_argument("--json", action="store_true", help="print JSON instead of a table")
    train.set_defaults(run=benchmark_training)
    latency = kinds.add_parser("latency", help="a look-up table for the search")
    latency.add_argument("--cfg", required=True, help="experiments/*/*/supermobile.yaml")
    latency.add_argument("--superconfig", help="the largest network; default: the paper's")
    latency.add_argument("--out", required=True, type=Path, help="the table, JSON")
    latency.add_argument("--rounds", type=int, default=15, help="over all pieces; medians count")
    check = latency.add_argument("--check", action="append", default=[], metavar="JSON")
    check.help = "an architecture to measure whole, too"
    latency.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")
    latency.set_defaults(run=benchmark_latency)
    for name, module in (("decode", benchmark_decode), ("valid", benchmark_valid)):
        kind = kinds.add_parser(
            name,
            help=module.__doc__.splitlines()[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_flags(kind)
        kind.set_defaults(run=module.run)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.run(args, device)


def benchmark_training(args: argparse.Namespace, device: torch.device) -> None:
    arch = ArchSpec.from_json(args.superconfig)
    cfg = load_config(args.cfg, img_size=arch.img_size)
    times = time_training(cfg, arch, args.batch, args.steps, device)
    per_picture = {name: 1000 * min(runs) / args.batch for name, runs in times.items()}
    report = {
        "machine": machine(device),
        "network": args.superconfig,
        "input": [args.batch, arch.img_size, arch.img_size, 3],
        "ms_per_picture_best": {k: round(v, 1) for k, v in per_picture.items()},
        "ms_per_picture_median": {
            name: round(1000 * statistics.median(runs) / args.batch, 1)
            for name, runs in times.items()
        },
        "speed_up": round(per_picture["contiguous"] / per_picture["channels_last"], 2),
    }
    print(json.dumps(report, indent=2) if args.json else table(report))


def benchmark_latency(args: argparse.Namespace, device: torch.device) -> None:
    cfg = load_config(args.cfg, args.opts)
    largest = ArchSpec.from_json(args.superconfig) if args.superconfig else None
    checks = [ArchSpec.from_json(path) for path in args.check]
    pieces_of = pieces_from_config(cfg)
    pieces = space_pieces(ArchManager.from_config(cfg, largest), pieces_of)
    calls = [forward(build_piece(p), p.in_channels, p.size, device) for p in pieces]
    networks = [LitePose(*network_of(cfg, arch)) for arch in checks]
    calls += [
        forward(network, 3, arch.img_size, device)
        for network, arch in zip(networks, checks, strict=True)
    ]
    times = median_times(calls, args.rounds)
    table = LatencyTable(machine(device), dict(zip(map(tuple, pieces), times, strict=False)))
    table.write(args.out)
    print(f"{table.machine}: {len(pieces)} pieces in {args.out}")
    for path, arch, whole in zip(args.check, checks, times[len(pieces) :], strict=True):
        total = table.total(pieces_of(arch))
        print(f"{path}: sum {total:.1f} ms, whole {whole:.1f} ms, ratio {total / whole:.2f}")


def forward(model: nn.Module, channels: int, size: int, device: torch.device) -> Callable[[], None]:
    """A call that runs `model` on one (channels, size, size) map, channels last."""
    memory = torch.channels_last
    model = model.eval().to(device, memory_format=memory)

    @torch.inference_mode()
    def call() -> None:
        model(torch.zeros(1, channels, size, size, device=device).contiguous(memory_format=memory))
        if device.type == "cuda":
            torch.cuda.synchronize()

    return call


def time_training(
    cfg: CfgNode, arch: ArchSpec, batch: int, steps: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each step, by memory format; the formats take turns."""
    criterion = MultiLossFactory.from_config(cfg)
    precision = Precision(device)
    models = {name: start(cfg, arch, device, memory) for name, memory in FORMATS.items()}
    optimizers = {name: get_optimizer(cfg, model) for name, model in models.items()}
    data = random_batch(cfg, batch).to(device)
    times: dict[str, list[float]] = {name: [] for name in FORMATS}
    for _ in range(steps + 1):
        for name, memory in FORMATS.items():
            begin = time.perf_counter()
            view = make_view(cfg, data, cfg.DATASET.INPUT_SIZE)
            view = view._replace(images=view.images.contiguous(memory_format=memory))
            train_step(models[name], criterion, optimizers[name], precision, [view])
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - begin)
    return {name: runs[1:] for name, runs in times.items()}


def start(
    cfg: CfgNode, arch: ArchSpec, device: torch.device, memory: torch.memory_format
) -> nn.Module:
    """The network, the same weights for every format."""
    torch.manual_seed(0)
    return build_model(cfg, arch).to(device, memory_format=memory).train()


def random_batch(cfg: CfgNode, size: int, people: int = 4) -> Batch:
    """Noise with `people` people a picture."""
    rng = np.random.default_rng(0)
    crop, joints = cfg.DATASET.INPUT_SIZE, cfg.DATASET.NUM_JOINTS
    placed = rng.uniform(0, crop, (size, people, joints, 3)).astype(np.float32)
    return Batch(
        images=torch.from_numpy(rng.integers(0, 256, (size, crop, crop, 3), dtype=np.uint8)),
        joints=torch.from_numpy(placed),
        sigmas=torch.full((size, people), float(cfg.DATASET.SIGMA)),
        mirrored=torch.zeros(size, dtype=torch.bool),
        masks=[torch.ones(size, s, s, dtype=torch.bool) for s in cfg.DATASET.OUTPUT_SIZE],
        image_ids=torch.arange(size),
        largest_sigma=float(cfg.DATASET.SIGMA),
    )


def table(report: dict[str, Any]) -> str:
    """The report as markdown."""
    rows = "\n".join(
        f"| {name} | {best} | {report['ms_per_picture_median'][name]} |"
        for name, best in report["ms_per_picture_best"].items()
    )
    return (
        f"{report['machine']}\n{report['network']}, input {report['input']}\n\n"
        f"| training step | best, ms / picture | median |\n|---|---|---|\n{rows}\n\n"
        f"channels_last is {report['speed_up']} times as fast"
    )


if __name__ == "__main__":
    cli.run(main)
