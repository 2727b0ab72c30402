"""Training samples that one core makes.

One process makes samples of the training split in three ways, in turns at every batch: 8-bit images
whose targets are made later for the whole batch (ours), float images with targets made one by one
in NumPy (plain), and 8-bit images from a cache of downscaled images.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import torch

from lib.config import load_config
from lib.dataset.build import build_dataset
from lib.dataset.cache import ImageCache, cache_path
from lib.dataset.samples import collate
from lib.search.latency import machine
from lib.utils.tables import markdown
from tools.benchmark.plain_targets import plain_batch, plain_sample
from tools.cache_images import fill


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", default="experiments/coco/mobilenet/mobile.yaml")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
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
            "plain": lambda keys: plain_batch([plain_sample(data[key], people) for key in keys]),
            "ours": lambda keys: collate([data[key] for key in keys]),
            "ours, cached": lambda keys: collate([cached[key] for key in keys]),
        }
        keys = [(i // len(data), i % len(data)) for i in range(args.samples)]
        seconds, sizes = dict.fromkeys(makers, 0.0), dict.fromkeys(makers, 0)
        for begin in range(0, len(keys), args.batch):
            for name, make in makers.items():
                start = time.perf_counter()
                batch = make(keys[begin : begin + args.batch])
                seconds[name] += time.perf_counter() - start
                sizes[name] += size_of(batch)
    ms = {name: 1000 * seconds[name] / len(keys) for name in makers}
    return {
        "machine": machine(device),
        "input": cfg.DATASET.INPUT_SIZE,
        "samples": len(keys),
        "ms_a_sample": ms,
        "kilobytes_a_sample": {name: sizes[name] / len(keys) / 1000 for name in makers},
        "times_as_fast": {name: ms["plain"] / ms[name] for name in makers},
    }


def size_of(tree: Any) -> int:
    """Bytes of all tensors in nested tuples and lists."""
    if isinstance(tree, torch.Tensor):
        return tree.nbytes
    return sum(map(size_of, tree)) if isinstance(tree, (tuple, list)) else 0


def table(report: dict[str, Any]) -> str:
    rows = []
    for name, ms in report["ms_a_sample"].items():
        speed_up, size = report["times_as_fast"][name], report["kilobytes_a_sample"][name]
        rows.append([name, f"{ms:.1f}", f"{1000 / ms:.0f}", f"{speed_up:.1f}", f"{size:.0f}"])
    head = ["samples", "ms each", "per second", "speed-up", "kB each"]
    title = f"{report['samples']} samples of {report['input']} px, one process"
    return f"{report['machine']}\n{title}\n\n{markdown(head, rows)}"
