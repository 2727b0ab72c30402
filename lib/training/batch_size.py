"""TRAIN.IMAGES_PER_GPU auto: as many images in a batch as fit into the memory of a GPU."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import nn
from yacs.config import CfgNode

from lib.core.trainer import Criterion, StepSettings, StepState, SupernetPlan, train_step
from lib.dataset.mixed import TrainingSet
from lib.dataset.samples import Batch, collate
from lib.models.arch import ArchSpec
from lib.training.optim import get_optimizer, get_scaler, get_scheduler
from lib.utils.checkpoint import load_checkpoint, unwrap
from lib.utils.dist import Process, broadcast, gather
from lib.utils.recorded import config_of

logger = logging.getLogger(__name__)

AUTO = "auto"
PAIRS = ((8, 32), (2, 4))  # images of the batches whose memory is measured; the first that fit
STEPS = 2  # of each; the first one makes the moments of the optimizer
SHARE = 0.85  # of the free memory that is used; the rest is for fragments and other kernels
GIB = 2**30


def with_images(cfg: CfgNode, images: int) -> CfgNode:
    """The settings with a number of images per batch."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TRAIN.IMAGES_PER_GPU = images
    cfg.freeze()
    return cfg


def settle_batch(
    cfg: CfgNode,
    dataset: TrainingSet,
    model: nn.Module,
    criterion: Criterion,
    plan: SupernetPlan | None,
    process: Process,
    checkpoint: Path | None,
) -> CfgNode:
    """The settings with a number for auto: that of the checkpoint to resume, else measured."""
    if cfg.TRAIN.IMAGES_PER_GPU != AUTO:
        return cfg
    if checkpoint:
        recorded = config_of(load_checkpoint(checkpoint), checkpoint)
        images = recorded.get("TRAIN", {}).get("IMAGES_PER_GPU")
        logger.info("TRAIN.IMAGES_PER_GPU auto: %s, as in %s", images, checkpoint)
    else:
        images = choose_images(cfg, dataset, model, criterion, plan, process)
    return with_images(cfg, images)


def require_gpu(cfg: CfgNode, process: Process) -> None:
    """ValueError if the batch size should be measured where it cannot be."""
    if cfg.TRAIN.IMAGES_PER_GPU == AUTO and process.device.type != "cuda":
        raise ValueError(
            "TRAIN.IMAGES_PER_GPU is auto, which measures the memory of a GPU; there is none: "
            "choose a number"
        )


def largest_batch(measure: Callable[[int], int], free: int, most: int) -> int:
    """The most images, up to `most`, of a training step within SHARE of `free` bytes; 0 if none do.

    measure: the bytes of a step with so many images, or torch.cuda.OutOfMemoryError. Memory is on
    the line through two of them. Above 8, a multiple of 8.
    """
    for few, many in PAIRS:
        try:
            low, high = measure(few), measure(many)
        except torch.cuda.OutOfMemoryError:
            continue
        each = max(high - low, 1) / (many - few)
        fixed = low - few * each
        images = min(most, int((SHARE * free - fixed) / each))
        logger.info(
            f"memory of a step: {fixed / GIB:.2f} GiB and {each / GIB:.4f} GiB an image; "
            f"{free / GIB:.1f} GiB are free"
        )
        return max(images - images % 8 if images > 8 else images, 0)
    return 0


def choose_images(
    cfg: CfgNode,
    dataset: TrainingSet,
    model: nn.Module,
    criterion: Criterion,
    plan: SupernetPlan | None,
    process: Process,
) -> int:
    """TRAIN.IMAGES_PER_GPU for this GPU; with several processes, the smallest of theirs.

    ValueError, in all processes, if one of them has no memory for a single image.
    """
    network, device = unwrap(model), process.device
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measure = measure_on_gpu(cfg, dataset, network, criterion, plan, device)
    most = max(len(dataset) // process.world_size, 1)
    images = largest_batch(measure, free_memory(device), most)
    network.load_state_dict(before)
    network.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    images = broadcast(process, min(gather(process, images), default=0))
    if images < 1:
        raise ValueError("TRAIN.IMAGES_PER_GPU auto: the memory of a GPU holds no training step")
    logger.info("TRAIN.IMAGES_PER_GPU auto: %d", images)
    return images


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that this process has or can get."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)


def measure_on_gpu(
    cfg: CfgNode,
    dataset: TrainingSet,
    network: nn.Module,
    criterion: Criterion,
    plan: SupernetPlan | None,
    device: torch.device,
) -> Callable[[int], int]:
    """A function: images of a batch -> most bytes that STEPS training steps reserve.

    The steps change the weights.
    """
    archs = most_expensive(network, plan)
    sample = dataset[0, 0]

    def measure(images: int) -> int:
        settings = StepSettings.from_config(fixed := with_images(cfg, images))
        optimizer = get_optimizer(fixed, network)
        scheduler, scaler = get_scheduler(fixed, optimizer, 1), get_scaler(fixed, device)
        state = StepState(network, optimizer, scheduler, scaler, Process(0, 1, device))
        batch = cast(Batch, collate([sample] * images))
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        batches, imitate = [batch] * min(cfg.TRAIN.ACCUMULATE, 2), plan.imitate if plan else None
        for _ in range(STEPS):
            train_step(state, criterion, settings, batches, archs, imitate)
        return torch.cuda.max_memory_reserved(device)

    network.train()
    return measure


def most_expensive(network: nn.Module, plan: SupernetPlan | None) -> Sequence[ArchSpec | None]:
    """The sub-networks of a step that needs the most memory: the first is the complete network."""
    if plan is None:
        return [None]
    complete = cast(ArchSpec, network.arch)
    sizes = [arch.img_size for step in range(100) for arch in plan.archs(step)]
    return [dataclasses.replace(complete, img_size=max(sizes)), *plan.archs(0)[1:]]
