"""What a training step costs: `python -m tools.benchmark train`.

Three kinds of the same step (normalization, targets, forward, losses, backward, update), one after
the other at each turn, so that all meet the same machine:

- plain: contiguous float32, Adam as it comes, targets per sample in NumPy (plain_targets.py);
- plain network: the same with our targets, for a training whose loader processes make them aside;
- ours: as the config says (channels last, fused Adam, half precision with FP16.ENABLED True,
  compiled with MODEL.COMPILE True), targets made for the whole batch on its device.

A supernet's steps draw architectures and sizes as its training does. The bounds are what the
multiply-adds (three times those of a forward pass) and the bytes that layers read and write would
take at the speed of one large matrix product and one large copy, both measured in the same run.

`memory` takes the same step many times and says how much memory it has needed by then.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from yacs.config import CfgNode

import dist_train
from lib.config import load_config
from lib.core.loss import MultiLossFactory
from lib.core.trainer import StepSettings, StepState, add_gradients, train_step, update_weights
from lib.core.views import View
from lib.dataset.samples import Sample, collate
from lib.models import build_model
from lib.models.arch import ArchSpec
from lib.search.latency import machine
from lib.training.optim import get_optimizer, get_scheduler
from lib.utils.complexity import count_macs, watch_layers
from lib.utils.dist import ALONE
from lib.utils.precision import Precision
from tools.benchmark.plain_targets import plain_batch, plain_sample

PASSES = 3  # forward, gradients of inputs, gradients of weights


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", default="experiments/coco/mobilenet/mobile.yaml")
    parser.add_argument("--superconfig", help="the paper's largest network, where there is none")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--steps", type=int, default=5, help="of each kind, after one to warm up")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")


def settings(args: argparse.Namespace) -> tuple[CfgNode, ArchSpec | None]:
    arch = ArchSpec.from_json(args.superconfig) if args.superconfig else None
    return load_config(args.cfg, args.opts, img_size=arch.img_size if arch else None), arch


def run(args: argparse.Namespace, device: torch.device) -> None:
    cfg, arch = settings(args)
    samples = random_samples(cfg, args.batch)
    steps = {
        "plain": plain_step(cfg, arch, samples, device),
        "plain network": plain_step(cfg, arch, samples, device, once=True),
        "ours": our_step(cfg, arch, samples, device),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(args.steps + 1):
        for name, step in steps.items():
            times[name].append(seconds(lambda step=step, i=i: step(i), device))
    ms = {
        name: [1000 * one / args.batch for one in own[1:]] for name, own in times.items()
    }  # a picture
    network = build_model(cfg, arch)
    size = cfg.DATASET.INPUT_SIZE
    bounds = bounds_of(network, size, device)
    report = {
        "machine": machine(device),
        "network": f"{args.cfg}, {args.superconfig or 'largest'}, batch {args.batch} at {size} px",
        "ms_a_picture": {name: min(own) for name, own in ms.items()},
        "median": {name: statistics.median(own) for name, own in ms.items()},
        "speed_up": {name: min(ms[name]) / min(ms["ours"]) for name in ("plain", "plain network")},
        "bounds_ms_a_picture": bounds,
    }
    print(json.dumps(report, indent=2) if args.json else table(report))


def run_memory(args: argparse.Namespace, device: torch.device) -> None:
    """`memory`: peaks of the process, or on a GPU of its tensors."""
    cfg, arch = settings(args)
    step = our_step(cfg, arch, random_samples(cfg, args.batch), device)
    before = peak_memory(device)
    peaks = {}
    looks = {5, *(round(args.steps * quarter / 4) for quarter in (1, 2, 3, 4))}
    for i in range(1, args.steps + 1):
        step(i)
        if i in looks:
            peaks[i] = peak_memory(device)
    first, *later = peaks.items()
    growth = ", ".join(f"{peak - first[1]:+.1f} MB by step {i}" for i, peak in later)
    print(
        f"{machine(device)}\n{args.superconfig or 'largest'}, batch {args.batch} at "
        f"{cfg.DATASET.INPUT_SIZE} px: {(first[1] - before) / args.batch:.1f} MB a picture beside "
        f"{before:.0f} MB, at step {first[0]}; {growth}"
    )


def peak_memory(device: torch.device) -> float:
    """MB at most so far: of tensors on a GPU, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def our_step(
    cfg: CfgNode, arch: ArchSpec | None, samples: list[Sample], device: torch.device
) -> Callable[[int], dict[str, Tensor]]:
    """Step number -> the losses of a step as `dist_train.py` takes it."""
    torch.manual_seed(0)
    model = dist_train.start_model(cfg, arch, ALONE._replace(device=device)).train()
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    optimizer, precision = get_optimizer(cfg, model), Precision.from_config(cfg, device)
    state = StepState(model, optimizer, get_scheduler(cfg, optimizer, 1), precision)
    plan = dist_train.supernet_plan(cfg, model)
    batch = collate(samples).to(device)

    def step(i: int) -> dict[str, Tensor]:
        archs = plan.archs(i) if plan else [None]
        imitate = plan.imitate if plan else None
        return train_step(state, criterion, settings, [batch], archs, imitate).losses

    return step


def plain_step(
    cfg: CfgNode,
    arch: ArchSpec | None,
    samples: list[Sample],
    device: torch.device,
    once: bool = False,
) -> Callable[[int], dict[str, Tensor]]:
    """The same of an eager float32 step in PyTorch's own order; once: targets beforehand."""
    torch.manual_seed(0)
    model = build_model(cfg, arch).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=cfg.TRAIN.LR)
    criterion, precision = MultiLossFactory.from_config(cfg), Precision(device)
    plan = dist_train.supernet_plan(cfg, model)
    kept: dict[int, tuple[Tensor, Any]] = {}

    def data(size: int) -> tuple[Tensor, Any]:
        if not once or size not in kept:
            at_size = [resized(sample, size) for sample in samples]
            images, targets = plain_batch(
                [plain_sample(one, cfg.DATASET.MAX_NUM_PEOPLE) for one in at_size]
            )
            moved = type(targets)(*([map_.to(device) for map_ in maps] for maps in targets))
            kept[size] = images.to(device), moved
        return kept[size]

    def step(i: int) -> dict[str, Tensor]:
        archs = plan.archs(i) if plan else [None]
        views = [View(*data(one.img_size if one else cfg.DATASET.INPUT_SIZE), one) for one in archs]
        imitate = plan.imitate if plan else None
        optimizer.zero_grad(set_to_none=True)
        losses = add_gradients(model, criterion, precision, views, imitate)[1]
        update_weights(model, optimizer, precision)
        return losses

    return step


def resized(sample: Sample, size: int) -> Sample:
    """`sample` as a loader that knew the step's size would make it; pixels are noise anyway."""
    crop = sample.image.shape[0]
    joints = sample.joints * np.float32([size / crop, size / crop, 1])
    masks = [mask[: len(mask) * size // crop, : len(mask) * size // crop] for mask in sample.masks]
    return sample._replace(image=sample.image[:size, :size], joints=joints, masks=masks)


def random_samples(cfg: CfgNode, count: int, people: int = 4) -> list[Sample]:
    """Noise with `people` people a picture."""
    rng = np.random.default_rng(0)
    crop, joints = cfg.DATASET.INPUT_SIZE, cfg.DATASET.NUM_JOINTS
    return [
        Sample(
            image=rng.integers(0, 256, (crop, crop, 3), dtype=np.uint8),
            joints=rng.uniform(0, crop, (people, joints, 3)).astype(np.float32),
            sigmas=np.full(people, cfg.DATASET.SIGMA, np.float32),
            flipped=False,
            masks=[np.ones((side, side), bool) for side in cfg.DATASET.OUTPUT_SIZE],
            image_id=i,
            size=(crop, crop),
        )
        for i in range(count)
    ]


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """What `call` takes; waits for the device."""
    begin = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def bounds_of(network: nn.Module, size: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of one picture's arithmetic and of its memory traffic, in float32."""
    a = torch.rand(2048, 2048, device=device)
    b, c = torch.rand(2, 2**26, device=device)  # 256 MB each
    product = min(seconds(lambda: a @ a, device) for _ in range(5))
    copy = min(seconds(lambda: c.copy_(b), device) for _ in range(5))
    macs = PASSES * count_macs(network, size)["true"]
    moved = PASSES * traffic(network, torch.zeros(1, 3, size, size))
    return {
        "arithmetic": 1000 * macs / len(a) ** 3 * product,
        "memory": 1000 * moved / (2 * b.nbytes) * copy,
    }


def traffic(network: nn.Module, images: Tensor) -> int:
    """Bytes that the layers read and write for `images` (B, 3, H, W), weights aside."""
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += inputs[0].nbytes + output.nbytes

    watch_layers(network, images, add)
    return total


def table(report: dict[str, Any]) -> str:
    """The report as markdown."""
    rows = "\n".join(
        f"| {name} | {best:.1f} | {report['median'][name]:.1f} | {1000 / best:.1f} |"
        for name, best in report["ms_a_picture"].items()
    )
    speed = ", ".join(f"{name} {ratio:.2f}" for name, ratio in report["speed_up"].items())
    bounds = ", ".join(f"{name} {ms:.1f}" for name, ms in report["bounds_ms_a_picture"].items())
    return (
        f"{report['machine']}\n{report['network']}\n\n"
        "| training step | best, ms a picture | median | pictures a second |\n|---|---|---|---|\n"
        f"{rows}\n\ntimes of ours: {speed}\nbounds, ms a picture: {bounds}"
    )
