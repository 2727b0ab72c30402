"""What one core feeds a training with: `python -m tools.benchmark loader`.

Samples of the training split, made by one process: as bytes whose targets are made later for the
whole batch (ours), with targets made one by one in NumPy (plain), and as bytes from a cache of
shrunk pictures. The kinds take turns at every picture.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch

from lib.config import load_config
from lib.dataset.build import build_dataset
from lib.dataset.cache import ImageCache, cache_path
from lib.dataset.samples import collate
from lib.search.latency import machine
from tools.benchmark.plain_targets import plain_batch, plain_sample
from tools.cache_images import fill


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", default="experiments/coco/mobilenet/mobile.yaml")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")


def run(args: argparse.Namespace, device: torch.device) -> None:
    cv2.setNumThreads(0)  # as in a loader process
    cfg = load_config(args.cfg, args.opts)
    people = cfg.DATASET.MAX_NUM_PEOPLE
    data, cached = build_dataset(cfg), build_dataset(cfg)
    with tempfile.TemporaryDirectory() as folder:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.DATASET.CACHE = folder
        path = Path(cache_path(cfg))
        fill(cfg, path)
        cached.cache = ImageCache.open(path)
        makers = {
            "plain": (lambda key: plain_sample(data[key], people), plain_batch),
            "ours": (lambda key: data[key], collate),
            "ours, cached": (lambda key: cached[key], collate),
        }
        keys = [(i // len(data), i % len(data)) for i in range(args.samples)]
        rows = {name: Row() for name in makers}
        for begin in range(0, len(keys), args.batch):
            for name, (make, stack) in makers.items():
                rows[name].add(make, stack, keys[begin : begin + args.batch])
    report = {
        "machine": machine(device),
        "input": cfg.DATASET.INPUT_SIZE,
        "samples": len(keys),
        "ms_a_sample": {name: 1000 * row.seconds / len(keys) for name, row in rows.items()},
        "kilobytes_a_sample": {name: row.bytes / len(keys) / 1000 for name, row in rows.items()},
    }
    ms = report["ms_a_sample"]
    report["times_as_fast"] = {name: ms["plain"] / own for name, own in ms.items()}
    print(json.dumps(report, indent=2) if args.json else table(report))


class Row:
    """Seconds and bytes of one way to make samples."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.bytes = 0

    def add(self, make: Callable, stack: Callable, keys: list[tuple[int, int]]) -> None:
        """One batch."""
        begin = time.perf_counter()
        batch = stack([make(key) for key in keys])
        self.seconds += time.perf_counter() - begin
        self.bytes += size_of(batch)


def size_of(tree: Any) -> int:
    """Bytes of all tensors in nested tuples and lists."""
    if isinstance(tree, torch.Tensor):
        return tree.nbytes
    return sum(map(size_of, tree)) if isinstance(tree, (tuple, list)) else 0


def table(report: dict[str, Any]) -> str:
    """The report as markdown."""
    rows = "\n".join(
        f"| {name} | {ms:.1f} | {1000 / ms:.0f} | {report['times_as_fast'][name]:.1f} "
        f"| {report['kilobytes_a_sample'][name]:.0f} |"
        for name, ms in report["ms_a_sample"].items()
    )
    return (
        f"{report['machine']}\n{report['samples']} samples of {report['input']} px, one process\n\n"
        "| samples | ms each | a second | times as fast | kB each |\n|---|---|---|---|---|\n"
        f"{rows}"
    )
