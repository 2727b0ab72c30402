"""How fast things are here.

    python -m tools.benchmark train --superconfig mobile_configs/search-XS.json --batch 8
    python -m tools.benchmark memory --superconfig mobile_configs/search-XS.json --steps 500
    python -m tools.benchmark loader DATASET.ROOT data/coco
    python -m tools.benchmark depthwise --superconfig mobile_configs/search-XS.json
    python -m tools.benchmark pieces --cfg experiments/crowd_pose/mobilenet/supermobile.yaml \\
        --out latency.json --check mobile_configs/search-XS.json
    python -m tools.benchmark latency exported --threads 1 2
    python -m tools.benchmark decode --people 2 20 --sizes 448x640
    python -m tools.benchmark valid --oracle DATASET.ROOT data/synthetic

`train`: a training step beside the plain way to write it, and its bounds. `memory`: what it needs,
and whether that grows. `loader`: what one core feeds a training with. `depthwise`: the layers that
training waits for.

`pieces`: the forward pass, batch 1, of every piece that a network of the supernet's search space
(SUPERNET.*) can have: the table that `python -m tools.search --max-ms` adds up. `--check` compares
the sum with the whole network. `latency`: all forms of what tools/export wrote.

`decode`: maps to people, beside the readable specification. `valid`: an evaluation in parts.

The number of threads is OMP_NUM_THREADS's. Measure on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from arch_manager import ArchManager
from lib.config import load_config
from lib.models.arch import ArchSpec
from lib.models.pieces import build_piece, pieces_from_config, space_pieces
from lib.models.pose_mobilenet import get_pose_net
from lib.search.latency import LatencyTable, machine, median_times
from lib.utils import cli
from tools.benchmark import decode, depthwise, latency, loader, train, valid


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="what", required=True)
    pieces = kinds.add_parser("pieces", help="a look-up table of latencies for the search")
    pieces.add_argument("--cfg", required=True, help="experiments/*/*/supermobile.yaml")
    pieces.add_argument("--superconfig", help="the largest network; default: the paper's")
    pieces.add_argument("--out", required=True, type=Path, help="the table, JSON")
    pieces.add_argument("--rounds", type=int, default=15, help="over all pieces; medians count")
    check = pieces.add_argument("--check", action="append", default=[], metavar="JSON")
    check.help = "an architecture to measure whole, too"
    pieces.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")
    pieces.set_defaults(run=benchmark_pieces)
    for name, module, run in (
        ("latency", latency, latency.run),
        ("train", train, train.run),
        ("memory", train, train.run_memory),
        ("loader", loader, loader.run),
        ("depthwise", depthwise, depthwise.run),
        ("decode", decode, decode.run),
        ("valid", valid, valid.run),
    ):
        kind = kinds.add_parser(
            name,
            help=module.__doc__.splitlines()[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_flags(kind)
        kind.set_defaults(run=run)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.run(args, device)


def benchmark_pieces(args: argparse.Namespace, device: torch.device) -> None:
    cfg = load_config(args.cfg, args.opts)
    largest = ArchSpec.from_json(args.superconfig) if args.superconfig else None
    checks = [ArchSpec.from_json(path) for path in args.check]
    pieces_of = pieces_from_config(cfg)
    pieces = space_pieces(ArchManager.from_config(cfg, largest), pieces_of)
    calls = [forward(build_piece(p), p.in_channels, p.size, device) for p in pieces]
    networks = [get_pose_net(cfg, arch) for arch in checks]
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


if __name__ == "__main__":
    cli.run(main)
