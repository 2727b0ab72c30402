"""The time of a training step.

Times three implementations of the same step (normalization, targets, forward, losses, backward,
update) in turns, so that changes of the machine's load affect all of them:

- plain: contiguous float32, Adam with its defaults, targets per sample in NumPy (plain_targets.py);
- plain network: as plain, with targets made beforehand, as if by loader processes;
- ours: as in the config (channels last, fused Adam, half precision with FP16.ENABLED True,
  compiled with MODEL.COMPILE True), targets of the whole batch on its device.

A supernet samples architectures and sizes as in its training. The lower bounds are the times of the
multiply-adds (three times those of a forward pass) and of the bytes that layers read and write, at
the speed of one large matrix product and one large copy in the same run.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from yacs.config import CfgNode

import dist_train
from lib.core.loss import MultiLossFactory
from lib.core.trainer import StepSettings, StepState, add_gradients, train_step, update_weights
from lib.core.views import View
from lib.dataset.samples import Sample, collate
from lib.models import build_model
from lib.models.arch import ArchSpec
from lib.search.latency import machine, now
from lib.training.optim import get_optimizer, get_scaler, get_scheduler
from lib.utils.complexity import count_macs
from lib.utils.dist import ALONE
from lib.utils.tables import markdown
from tools.benchmark.activations import traffic
from tools.benchmark.network import add_network_flags, name_of, read_settings
from tools.benchmark.plain_targets import plain_batch, plain_sample

PASSES = 3  # forward, gradients of inputs, gradients of weights


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_network_flags(parser)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="of each kind, after a warm-up")


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    cfg, arch = read_settings(args)
    dist_train.set_backends(cfg)
    samples = random_samples(cfg, args.batch)
    steps = {
        "plain": plain_step(cfg, arch, samples, device),
        "plain network": plain_step(cfg, arch, samples, device, once=True),
        "ours": our_step(cfg, arch, samples, device),
    }
    ms: dict[str, list[float]] = {name: [] for name in steps}  # per image
    for i in range(args.steps + 1):
        for name, step in steps.items():
            ms[name].append(1000 * seconds(lambda step=step, i=i: step(i), device) / args.batch)
    ms = {name: times[1:] for name, times in ms.items()}
    size = cfg.DATASET.INPUT_SIZE
    return {
        "machine": machine(device),
        "network": f"{cfg.MODEL.NAME}, {name_of(args)}, batch {args.batch} at {size} px",
        "ms_a_picture": {name: min(times) for name, times in ms.items()},
        "median": {name: statistics.median(times) for name, times in ms.items()},
        "speed_up": {name: min(ms[name]) / min(ms["ours"]) for name in ("plain", "plain network")},
        "bounds_ms_a_picture": bounds_of(build_model(cfg, arch), size, device),
    }


def our_step(
    cfg: CfgNode,
    arch: ArchSpec | None,
    samples: list[Sample],
    device: torch.device,
    teacher: str | None = None,
) -> Callable[[int], dict[str, Tensor]]:
    """A function from step number to the losses of a step of `dist_train.py`."""
    torch.manual_seed(0)
    process = ALONE._replace(device=device)
    model = dist_train.start_model(cfg, arch, process).train()
    criterion = dist_train.start_criterion(cfg, teacher, device)
    settings = StepSettings.from_config(cfg)
    optimizer, scaler = get_optimizer(cfg, model), get_scaler(cfg, device)
    state = StepState(model, optimizer, get_scheduler(cfg, optimizer, 1), scaler, process)
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
    """As `our_step`, eager float32 in PyTorch's default layout; once: targets made beforehand."""
    torch.manual_seed(0)
    model = build_model(cfg, arch).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=cfg.TRAIN.LR)
    no_scaler = torch.amp.GradScaler(enabled=False)
    state = StepState(model, optimizer, get_scheduler(cfg, optimizer, 1), no_scaler)
    criterion = MultiLossFactory.from_config(cfg)
    float32 = replace(StepSettings.from_config(cfg), half_precision=False)
    plan = dist_train.supernet_plan(cfg, model)
    cache: dict[int, tuple[Tensor, Any]] = {}

    def data(size: int) -> tuple[Tensor, Any]:
        if not once or size not in cache:
            at_size = [resized(sample, size) for sample in samples]
            images, targets = plain_batch(
                [plain_sample(one, cfg.DATASET.MAX_NUM_PEOPLE) for one in at_size]
            )
            moved = tree_map_only(Tensor, lambda tensor: tensor.to(device), targets)
            cache[size] = images.to(device), moved
        return cache[size]

    def step(i: int) -> dict[str, Tensor]:
        archs = plan.archs(i) if plan else [None]
        views = [View(*data(one.img_size if one else cfg.DATASET.INPUT_SIZE), one) for one in archs]
        imitate = plan.imitate if plan else None
        state.optimizer.zero_grad(set_to_none=True)
        losses = add_gradients(state, criterion, float32, views, imitate)[1]
        update_weights(state)
        return losses

    return step


def resized(sample: Sample, size: int) -> Sample:
    """`sample` at the size of the step; its pixels are noise anyway."""
    crop = sample.image.shape[0]
    joints = sample.joints * np.array([size / crop, size / crop, 1], np.float32)
    masks = [mask[: len(mask) * size // crop, : len(mask) * size // crop] for mask in sample.masks]
    return sample._replace(image=sample.image[:size, :size], joints=joints, masks=masks)


def random_samples(cfg: CfgNode, count: int, people: int = 4) -> list[Sample]:
    """Noise with `people` people per image."""
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
    """Seconds of a call on `device`."""
    begin = now(device)
    call()
    return now(device) - begin


def bounds_of(network: nn.Module, size: int, device: torch.device) -> dict[str, float]:
    """Milliseconds per image of the arithmetic and of the memory traffic, in float32."""
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


def table(report: dict[str, Any]) -> str:
    rows = [
        [name, f"{best:.1f}", f"{report['median'][name]:.1f}", f"{1000 / best:.1f}"]
        for name, best in report["ms_a_picture"].items()
    ]
    head = ["training step", "best, ms per image", "median", "images per second"]
    speed_ups = ", ".join(f"{name} {ratio:.2f}" for name, ratio in report["speed_up"].items())
    bounds = ", ".join(f"{name} {ms:.1f}" for name, ms in report["bounds_ms_a_picture"].items())
    return (
        f"{report['machine']}\n{report['network']}\n\n{markdown(head, rows)}\n\n"
        f"speed-up of ours over: {speed_ups}\nlower bounds, ms per image: {bounds}"
    )
