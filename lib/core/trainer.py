"""The training loop: a step, an epoch, and what is seen of them."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from yacs.config import CfgNode

from lib.core.board import Board
from lib.core.inference import normalize
from lib.dataset.pose_dataset import Batch
from lib.dataset.target_generators import Targets, make_targets

logger = logging.getLogger(__name__)

# criterion(images (B, 3, H, W), outputs, targets) -> named, weighted loss terms
Criterion = Callable[[Tensor, list[Tensor], Targets], dict[str, Tensor]]


@dataclass
class Precision:
    """FP16.*: float16 and loss scaling on a GPU, bfloat16 on a CPU."""

    device: torch.device
    enabled: bool = False
    static_scale: float = 1.0
    dynamic: bool = False

    def __post_init__(self) -> None:
        scaled = self.enabled and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(
            self.device.type,
            init_scale=2.0**16 if self.dynamic else self.static_scale,
            growth_interval=2000 if self.dynamic else 2**31 - 1,
            enabled=scaled,
        )

    def autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.enabled)


def train_step(
    model: nn.Module,
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    images: Tensor,
    targets: Targets,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """One update; outputs and weighted loss terms, detached and still on the device."""
    with precision.autocast():
        outputs = model(images)
    outputs = [output.float() for output in outputs]
    losses = criterion(images, outputs, targets)
    optimizer.zero_grad(set_to_none=True)
    precision.scaler.scale(sum(losses.values())).backward()
    precision.scaler.step(optimizer)
    precision.scaler.update()
    detached = {name: term.detach() for name, term in losses.items()}
    return [output.detach() for output in outputs], detached


def do_train(
    cfg: CfgNode,
    model: nn.Module,
    loader: DataLoader,
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    precision: Precision,
    epoch: int,
    meter: Meter,
) -> None:
    """One epoch. Stops with a ValueError that names every term when the loss is not finite."""
    model.train()
    loader.sampler.set_epoch(epoch)
    for batch in meter.timed(loader):
        batch = batch.to(precision.device)
        images = normalize(batch.images)
        targets = batch_targets(cfg, batch)
        outputs, losses = train_step(model, criterion, optimizer, precision, images, targets)
        meter.update(epoch, batch, outputs, targets, losses, optimizer.param_groups[0]["lr"])
        scheduler.step()
    meter.check(epoch, batch)  # before anybody saves what came of it


def batch_targets(cfg: CfgNode, batch: Batch) -> Targets:
    """What the network should answer to `batch`, on the batch's device."""
    return make_targets(
        *(batch.joints, batch.mirrored, batch.sigmas, batch.masks),
        crop_size=cfg.DATASET.INPUT_SIZE,
        tag_per_joint=cfg.MODEL.TAG_PER_JOINT,
    )


@dataclass
class Meter:
    """Speed, data wait and losses of a run; read from the device once every `every` steps.

    What is printed goes to the `board` too, where there is one.
    """

    total_steps: int
    every: int
    step: int = 0  # steps done; not 0 after a resume
    verbose: bool = True
    board: Board | None = None
    sums: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        in_terminal = self.verbose and sys.stderr.isatty()
        self.bar = tqdm(
            total=self.total_steps, initial=self.step, desc="train", disable=not in_terminal
        )
        self._restart()
        self.begin, self.begin_step = time.perf_counter(), self.step

    def timed(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of `loader`; the time spent waiting for them is counted."""
        batches = iter(loader)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def update(
        self,
        epoch: int,
        batch: Batch,
        outputs: list[Tensor],
        targets: Targets,
        losses: dict[str, Tensor],
        lr: float,
    ) -> None:
        """Count one step; every now and then, print it."""
        self.step += 1
        self.steps += 1
        self.images += len(batch.images)
        for name, term in losses.items():
            self.sums[name] = self.sums[name] + term if name in self.sums else term
        self.bar.update()
        if self.step % self.every and self.step != self.total_steps:
            return
        values = self._values(lr)
        check_finite(values, epoch, batch)
        self._print(epoch, values)
        if self.board is not None:
            self.board.scalars(self.step, {f"train/{name}": v for name, v in values.items()})
            self.board.pictures(self.step, batch, outputs, targets)
        self._restart()

    def check(self, epoch: int, batch: Batch) -> None:
        """`check_finite` of the steps since the last print; `batch` is the last one."""
        if self.steps:
            check_finite(self._losses(), epoch, batch)

    def _losses(self) -> dict[str, float]:
        """Means since the last print."""
        losses = {name: (total / self.steps).item() for name, total in self.sums.items()}
        return {"loss": sum(losses.values()), **losses}

    def _values(self, lr: float) -> dict[str, float]:
        elapsed = time.perf_counter() - self.since
        return {
            **self._losses(),
            "lr": lr,
            "images/s": self.images / elapsed,
            "data wait": self.waited / elapsed,
        }

    def _print(self, epoch: int, values: dict[str, float]) -> None:
        per_step = (time.perf_counter() - self.begin) / (self.step - self.begin_step)
        minutes = per_step * (self.total_steps - self.step) / 60
        self.bar.set_postfix_str(
            f"epoch {epoch}, loss {values['loss']:.3g}, {values['images/s']:.1f} images/s, "
            f"data wait {values['data wait']:.0%}"
        )
        # A bar on the terminal and a line in the log; without a terminal the line is all there is.
        logger.log(
            logging.DEBUG if not self.bar.disable else logging.INFO,
            "epoch %d, step %d/%d: loss %.3g, lr %.2g, %.1f images/s, data wait %.0f %%, "
            "%.1f minutes to go",
            *(epoch, self.step, self.total_steps, values["loss"], values["lr"]),
            *(values["images/s"], 100 * values["data wait"], minutes),
        )

    def _restart(self) -> None:
        self.since = time.perf_counter()
        self.waited = 0.0
        self.steps = self.images = 0
        self.sums = {}


def check_finite(values: dict[str, Any], epoch: int, batch: Batch) -> None:
    """ValueError naming terms, epoch and pictures when the loss has left the numbers."""
    if not math.isfinite(values["loss"]):
        terms = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        raise ValueError(
            f"the loss is not finite in epoch {epoch} (last images "
            f"{batch.image_ids.tolist()}): {terms}; a smaller TRAIN.LR or a warm-up may help"
        )
