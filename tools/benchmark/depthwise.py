"""The depthwise convolutions of a network in training: `python -m tools.benchmark depthwise`.

For each shape of the network: the forward pass and the gradients of input and weights by PyTorch
and, on a CPU, by lib/models/layers/depthwise.py, beside the floor: the time to move as many bytes
as the input and the output have, which each of them must. Float32, channels last; a network's times
count each layer.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

from lib.config import load_config
from lib.models import build_model
from lib.models.arch import ArchSpec
from lib.models.layers.depthwise import (
    COLUMNS,
    DepthwiseConv2d,
    input_gradient,
    weight_gradient,
)
from lib.search.latency import machine, median_times
from lib.utils.complexity import watch_layers


class Shape(NamedTuple):
    """One kind of layer: input (channels, size, size), filters k x k."""

    channels: int
    size: int
    kernel: int
    stride: int


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", default="experiments/coco/mobilenet/mobile.yaml")
    parser.add_argument("--superconfig", default="mobile_configs/search-XS.json")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9, help="medians count")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace, device: torch.device) -> None:
    arch = ArchSpec.from_json(args.superconfig)
    network = build_model(load_config(args.cfg, img_size=arch.img_size), arch)
    shapes = shapes_of(network, arch.img_size)
    rows = [measure(shape, args.batch, args.rounds, device) for shape in shapes]
    report = {
        "machine": machine(device),
        "network": f"{args.superconfig}, batch {args.batch}",
        "layers": [
            {"layers": count, **shape._asdict(), "ms": row}
            for (shape, count), row in zip(shapes.items(), rows, strict=True)
        ],
        "network_ms": {
            name: sum(count * row[name] for count, row in zip(shapes.values(), rows, strict=True))
            for name in rows[0]
        },
    }
    print(json.dumps(report, indent=2) if args.json else table(report))


def shapes_of(network: nn.Module, size: int) -> Counter[Shape]:
    """The depthwise layers of `network`, in the order they run, and how many of each."""
    shapes: Counter[Shape] = Counter()

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, DepthwiseConv2d):
            (kernel, _), (stride, _) = layer.kernel_size, layer.stride
            shapes[Shape(*inputs[0].shape[1:3], kernel, stride)] += 1

    watch_layers(network, torch.zeros(1, 3, size, size), add)
    return shapes


def measure(shape: Shape, batch: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of each part for one layer."""
    channels, size, kernel, stride = shape
    memory = torch.channels_last
    x = torch.rand(batch, channels, size, size, device=device).contiguous(memory_format=memory)
    weight = torch.rand(channels, 1, kernel, kernel, device=device)
    settings = {"stride": stride, "padding": kernel // 2, "groups": channels}
    gradient = torch.ones_like(F.conv2d(x, weight, **settings))
    source, target = torch.rand(2, (x.numel() + gradient.numel()) // 2, device=device)
    calls = {
        "forward": lambda: F.conv2d(x, weight, **settings),
        "input": lambda: conv2d_input(x.shape, weight, gradient, **settings),
        "input, ours": lambda: input_gradient(x.shape, weight, gradient, stride),
        "weights": lambda: conv2d_weight(x, weight.shape, gradient, **settings),
        "weights, ours": lambda: weight_gradient(x, gradient, kernel, stride),
        "floor": lambda: target.copy_(source),
    }
    if device.type != "cpu" or kernel <= COLUMNS:
        calls |= {f"{name}, ours": calls[name] for name in ("input", "weights")}

    def timed(call):
        def whole():
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return whole

    return dict(zip(calls, median_times([timed(c) for c in calls.values()], rounds), strict=True))


def table(report: dict[str, Any]) -> str:
    """The report as markdown."""
    names = list(report["network_ms"])
    lines = [
        f"{report['machine']}\n{report['network']}, ms\n",
        f"| layers | input | kernel | {' | '.join(names)} |",
        "|---" * (3 + len(names)) + "|",
    ]
    for row in report["layers"]:
        ms = " | ".join(f"{row['ms'][name]:.1f}" for name in names)
        stride = f", stride {row['stride']}" if row["stride"] > 1 else ""
        side = f"{row['size']} x {row['size']}"
        lines.append(
            f"| {row['layers']} | {row['channels']} x {side} | {row['kernel']}{stride} | {ms} |"
        )
    total = " | ".join(f"{report['network_ms'][name]:.0f}" for name in names)
    return "\n".join([*lines, f"| all | | | {total} |"])
