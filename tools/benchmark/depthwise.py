"""The depthwise convolutions of a network in training.

For each shape of the network: the forward pass and the gradients of input and weights by PyTorch
and, on a CPU, by lib/models/layers/depthwise.py, compared with a lower bound: the time to move the
bytes of the input and the output, which each of them must. Float32, channels last; the times of the
network count every layer.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

from lib.models import build_model
from lib.models.layers.depthwise import (
    COLUMNS,
    DepthwiseConv2d,
    input_gradient,
    weight_gradient,
)
from lib.search.latency import machine, median_times
from lib.utils.complexity import watch_layers
from lib.utils.tables import markdown
from tools.benchmark.network import add_network_flags, name_of, read_settings


class Shape(NamedTuple):
    """One kind of layer: input (channels, size, size), filters k x k."""

    channels: int
    size: int
    kernel: int
    stride: int


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_network_flags(parser)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9, help="medians over these are used")


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    cfg, arch = read_settings(args)
    shapes = shapes_of(build_model(cfg, arch), cfg.DATASET.INPUT_SIZE)
    times = {shape: time_layer(shape, args.batch, args.rounds, device) for shape in shapes}
    parts = next(iter(times.values()))
    return {
        "machine": machine(device),
        "network": f"{name_of(args)}, batch {args.batch}",
        "layers": [
            {"layers": count, **shape._asdict(), "ms": times[shape]}
            for shape, count in shapes.items()
        ],
        "network_ms": {
            part: sum(count * times[shape][part] for shape, count in shapes.items())
            for part in parts
        },
    }


def shapes_of(network: nn.Module, size: int) -> Counter[Shape]:
    """The depthwise layers of `network`, in the order they run, and how many of each."""
    shapes: Counter[Shape] = Counter()

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, DepthwiseConv2d):
            (kernel, _), (stride, _) = layer.kernel_size, layer.stride
            _, channels, height, _ = inputs[0].shape
            shapes[Shape(channels, height, kernel, stride)] += 1

    watch_layers(network, torch.zeros(1, 3, size, size), add)
    return shapes


def time_layer(shape: Shape, batch: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of each part for one layer."""
    calls = layer_calls(shape, batch, device)
    return dict(zip(calls, median_times([*calls.values()], rounds, device), strict=True))


def layer_calls(
    shape: Shape,
    batch: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    memory: torch.memory_format = torch.channels_last,
) -> dict[str, Callable[[], object]]:
    """The parts of one layer: forward, gradients of input and weights, and the floor."""
    channels, size, kernel, stride = shape
    x = torch.rand(batch, channels, size, size, device=device, dtype=dtype)
    x = x.contiguous(memory_format=memory)
    weight = torch.rand(channels, 1, kernel, kernel, device=device, dtype=dtype)
    settings: dict[str, Any] = {"stride": stride, "padding": kernel // 2, "groups": channels}
    gradient = torch.ones_like(F.conv2d(x, weight, **settings))
    count = (x.numel() + gradient.numel()) // 2
    source, target = torch.rand(2, count, device=device, dtype=dtype)
    weight_shape = list(weight.shape)
    calls: dict[str, Callable[[], object]] = {
        "forward": lambda: F.conv2d(x, weight, **settings),
        "input": lambda: conv2d_input(x.shape, weight, gradient, **settings),
        "input, ours": lambda: input_gradient(x.shape, weight, gradient, stride),
        "weights": lambda: conv2d_weight(x, weight_shape, gradient, **settings),
        "weights, ours": lambda: weight_gradient(x, gradient, kernel, stride),
        "floor": lambda: target.copy_(source),
    }
    if device.type != "cpu" or kernel <= COLUMNS:  # ours calls PyTorch's there
        calls |= {f"{name}, ours": calls[name] for name in ("input", "weights")}
    return calls


def table(report: dict[str, Any]) -> str:
    parts = list(report["network_ms"])
    rows = []
    for row in report["layers"]:
        stride = f", stride {row['stride']}" if row["stride"] > 1 else ""
        shape = f"{row['channels']} x {row['size']} x {row['size']}"
        times = [f"{row['ms'][part]:.1f}" for part in parts]
        rows.append([row["layers"], shape, f"{row['kernel']}{stride}", *times])
    rows.append(["all", "", "", *(f"{report['network_ms'][part]:.0f}" for part in parts)])
    head = ["layers", "input", "kernel", *parts]
    return f"{report['machine']}\n{report['network']}, ms\n\n{markdown(head, rows)}"
