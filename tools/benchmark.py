"""How fast things are here, as ratios within one run.

    python -m tools.benchmark train --superconfig mobile_configs/search-XS.json --batch 8
    python -m tools.benchmark train --superconfig mobile_configs/search-S.json --batch 4 --json

`train`: one whole training step (normalize, targets, forward, losses, backward, Adam) on one
batch, as configured (channels last) and as plain eager contiguous float32, in turns, so that both
meet the same machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from lib.config import load_config
from lib.core.loss import MultiLossFactory
from lib.core.trainer import Precision, make_view, train_step
from lib.dataset.pose_dataset import Batch
from lib.models import build_model
from lib.models.arch import ArchSpec
from lib.utils import cli
from lib.utils.optim import get_optimizer

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["train"])
    parser.add_argument("--cfg", default="experiments/coco/mobilenet/mobile.yaml")
    parser.add_argument("--superconfig", default="mobile_configs/search-XS.json")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="of each kind, after one to warm up")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    arch = ArchSpec.from_json(args.superconfig)
    cfg = load_config(args.cfg, img_size=arch.img_size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
    )


def machine(device: torch.device) -> str:
    """What ran it, in one line."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{torch.get_num_threads()} threads of {platform.machine()}"
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"


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
