"""A look-up table of latencies for the search.

The forward pass, batch 1, of every piece that a network of the supernet's search space (SUPERNET.*)
can have: the table that `python -m tools.search --max-ms` adds up. --check compares the sum with
the whole network.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from arch_manager import ArchManager
from lib.config import load_config
from lib.models import place
from lib.models.arch import ArchSpec
from lib.models.pieces import build_piece, pieces_from_config, space_pieces
from lib.models.pose_mobilenet import get_pose_net
from lib.search.latency import LatencyTable, machine, median_times


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", required=True, help="experiments/*/*/supermobile.yaml")
    parser.add_argument("--superconfig", help="the largest network; default: the paper's")
    parser.add_argument("--out", required=True, type=Path, help="the table, JSON")
    parser.add_argument("--rounds", type=int, default=15, help="medians over these are used")
    architecture = "an architecture that is also measured as a whole"
    parser.add_argument("--check", action="append", default=[], metavar="JSON", help=architecture)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    cfg = load_config(args.cfg, args.opts)
    largest = ArchSpec.from_json(args.superconfig) if args.superconfig else None
    checks = [ArchSpec.from_json(path) for path in args.check]
    pieces_of = pieces_from_config(cfg)
    pieces = space_pieces(ArchManager.from_config(cfg, largest), pieces_of)
    parts = [(build_piece(piece), piece.in_channels, piece.size) for piece in pieces]
    parts += [(get_pose_net(cfg, arch), 3, arch.img_size) for arch in checks]
    calls = [
        forward_call(place(model, device, channels_last=True), channels, size)
        for model, channels, size in parts
    ]
    times = median_times(calls, args.rounds, device)
    latencies = dict(zip(map(tuple, pieces), times, strict=False))
    table = LatencyTable(machine(device), latencies)
    table.write(args.out)
    wholes = zip(args.check, checks, times[len(pieces) :], strict=True)
    return {
        "machine": table.machine,
        "pieces": len(pieces),
        "out": str(args.out),
        "checks": [
            {"network": path, "sum_ms": table.total(pieces_of(arch)), "whole_ms": whole}
            for path, arch, whole in wholes
        ],
    }


def forward_call(
    model: nn.Module,
    channels: int,
    size: int,
    memory_format: torch.memory_format = torch.channels_last,
) -> Callable[[], None]:
    """A call that runs `model` on one (channels, size, size) map of its device and dtype."""
    model = model.eval()
    weight = next(model.parameters())
    x = torch.zeros(1, channels, size, size, device=weight.device, dtype=weight.dtype)
    x = x.contiguous(memory_format=memory_format)

    @torch.inference_mode()
    def call() -> None:
        model(x)

    return call


def table(report: dict[str, Any]) -> str:
    lines = [f"{report['machine']}: {report['pieces']} pieces in {report['out']}"]
    for row in report["checks"]:
        total, whole = row["sum_ms"], row["whole_ms"]
        ratio = total / whole
        lines.append(
            f"{row['network']}: sum {total:.1f} ms, whole {whole:.1f} ms, ratio {ratio:.2f}"
        )
    return "\n".join(lines)
