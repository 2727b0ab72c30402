"""The memory of a training step, and whether it grows.

Repeats the step of `train` and reports the peak memory: of the process, or on a GPU of its tensors.
"""

from __future__ import annotations

import argparse
import resource
import sys
from typing import Any

import torch

import dist_train
from lib.search.latency import machine
from tools.benchmark.network import add_network_flags, name_of, read_settings
from tools.benchmark.train import our_step, random_samples


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_network_flags(parser)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    cfg, arch = read_settings(args)
    dist_train.set_backends(cfg)
    step = our_step(cfg, arch, random_samples(cfg, args.batch), device)
    before = peak_memory(device)
    reported = {5, *(round(args.steps * quarter / 4) for quarter in (1, 2, 3, 4))}
    peaks = {}
    for i in range(1, args.steps + 1):
        step(i)
        if i in reported:
            peaks[i] = peak_memory(device)
    size = cfg.DATASET.INPUT_SIZE
    return {
        "machine": machine(device),
        "network": f"{name_of(args)}, batch {args.batch} at {size} px",
        "batch": args.batch,
        "before_mb": before,
        "peak_mb": peaks,  # by step
    }


def peak_memory(device: torch.device) -> float:
    """MB at most so far: of tensors on a GPU, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def table(report: dict[str, Any]) -> str:
    before, [(step, first), *later] = report["before_mb"], report["peak_mb"].items()
    growth = ", ".join(f"{peak - first:+.1f} MB by step {i}" for i, peak in later)
    per_image = (first - before) / report["batch"]
    return (
        f"{report['machine']}\n{report['network']}: {per_image:.1f} MB per image on top of "
        f"{before:.0f} MB, at step {step}; {growth}"
    )
