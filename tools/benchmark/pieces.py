"""A look-up table of latencies for the search.

The forward pass, batch 1, of every piece that a network of the supernet's search space (SUPERNET.*)
can have: the table that `python -m tools.search --max-ms` adds up. --check compares the sum with
the whole network. --runtime openvino: as OpenVINO computes them, in float32 and with BatchNorms
folded; of a piece, only its layers are timed, not the changes of memory layout before and after.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arch_manager import ArchManager
from lib.config import load_config
from lib.deploy.export import onnx_content
from lib.deploy.fold import fold_norms
from lib.deploy.session import PRECISIONS, load_runtime, open_layer_times, open_session
from lib.models import place
from lib.models.arch import ArchSpec
from lib.models.pieces import build_piece, pieces_from_config, space_pieces
from lib.models.pose_mobilenet import get_pose_net
from lib.search.latency import LatencyTable, machine, medians, milliseconds
from lib.utils import cli
from lib.utils.device import CPU

PYTORCH = "pytorch"
Part = tuple[nn.Module, int, int]  # with the channels and the side of its input


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", required=True, help="experiments/*/*/supermobile.yaml")
    parser.add_argument("--superconfig", help="the largest network; default: the paper's")
    parser.add_argument("--out", required=True, type=Path, help="the table, JSON")
    parser.add_argument("--rounds", type=int, default=15, help="medians over these are used")
    architecture = "an architecture that is also measured as a whole"
    parser.add_argument("--check", action="append", default=[], metavar="JSON", help=architecture)
    runtimes = [PYTORCH, *PRECISIONS]
    parser.add_argument("--runtime", choices=runtimes, default=PYTORCH, help="what computes them")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    cli.check_range("--rounds", args.rounds, low=1)
    cfg = load_config(args.cfg, args.opts)
    largest = ArchSpec.from_json(args.superconfig) if args.superconfig else None
    checks = [ArchSpec.from_json(path) for path in args.check]
    pieces_of = pieces_from_config(cfg)
    pieces = space_pieces(ArchManager.from_config(cfg, largest), pieces_of)
    parts = [(build_piece(piece), piece.in_channels, piece.size) for piece in pieces]
    whole = [(get_pose_net(cfg, arch), 3, arch.img_size) for arch in checks]
    if args.runtime == PYTORCH:
        measures, computer = eager_times([*parts, *whole], device), machine(device)
    else:
        version = load_runtime(args.runtime).__version__
        measures, computer = runtime_times(parts, whole, args.runtime), machine(CPU)
        computer = f"{args.runtime} {version}, {computer}"
    times = medians(measures, args.rounds)
    latencies = dict(zip(map(tuple, pieces), times, strict=False))
    table = LatencyTable(computer, latencies)
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


def eager_times(parts: Sequence[Part], device: torch.device) -> list[Callable[[], float]]:
    """Functions that return the milliseconds of PyTorch, one for each part."""
    placed = [(place(part, device, channels_last=True), c, size) for part, c, size in parts]
    return [partial(milliseconds, forward_call(*part), device) for part in placed]


def runtime_times(
    parts: Sequence[Part], whole: Sequence[Part], runtime: str
) -> list[Callable[[], float]]:
    """The same of a runtime: of the layers of each part, and of each whole network."""
    threads = torch.get_num_threads()
    measures: list[Callable[[], float]] = []
    for part, channels, size in parts:
        x = torch.zeros(1, channels, size, size)
        layers = open_layer_times(onnx_of(part, x), runtime, threads)
        measures.append(partial(layers, x.numpy()))
    for network, channels, size in whole:
        x = torch.zeros(1, channels, size, size)
        run = open_session(onnx_of(network, x), runtime, threads)
        measures.append(partial(milliseconds, partial(run, x.numpy())))
    return measures


def onnx_of(module: nn.Module, x: Tensor) -> bytes:
    """`module` in evaluation mode, BatchNorms folded, for inputs of the shape of x."""
    program = torch.export.export(fold_norms(nn.Sequential(module)), (x,))
    outputs = [f"output{i}" for i in range(len(program.graph_signature.user_outputs))]
    return onnx_content(program, outputs)


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
