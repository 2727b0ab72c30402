"""The training loop: a step, an epoch, and what is seen of them."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from yacs.config import CfgNode

from lib.core.board import Board
from lib.core.distill import Imitation
from lib.core.inference import normalize
from lib.dataset.codec import codec_of
from lib.dataset.pose_dataset import Batch
from lib.dataset.target_generators import Targets, make_targets
from lib.models.arch import ArchSpec
from lib.utils.precision import half_precision

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
        return half_precision(self.device, self.enabled)


class View(NamedTuple):
    """A batch as one network sees it."""

    images: Tensor  # (B, 3, H, W), normalized
    targets: Targets
    arch: ArchSpec | None = None  # the sub-network to run; None: the network itself


def train_step(
    model: nn.Module,
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    views: Sequence[View],
    imitate: Imitation | None = None,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """One update from all `views`: outputs of the first, and the mean of the weighted terms.

    Both detached and still on the device. With `imitate`, the views after the first learn its
    heatmaps too (Yu et al. 2019, in-place distillation).
    """
    optimizer.zero_grad(set_to_none=True)
    shown: list[Tensor] = []
    sums: dict[str, Tensor] = {}
    for view in views:
        with precision.autocast():
            outputs = model(view.images) if view.arch is None else model(view.images, view.arch)
        outputs = [output.float() for output in outputs]
        losses = criterion(view.images, outputs, view.targets)
        if shown and imitate is not None:
            losses |= imitate(outputs, shown, view.targets)
        losses = {name: term / len(views) for name, term in losses.items()}
        precision.scaler.scale(sum(losses.values())).backward()
        shown = shown or [output.detach() for output in outputs]
        for name, term in losses.items():
            sums[name] = sums.get(name, 0) + term.detach()
    precision.scaler.step(optimizer)
    precision.scaler.update()
    return shown, sums


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
    supernet: SupernetPlan | None = None,
) -> None:
    """One epoch. Stops with a ValueError that names every term when the loss is not finite.

    With `supernet`, the plan says which sub-networks take part in each step.
    """
    model.train()
    loader.sampler.set_epoch(epoch)
    imitate = supernet.imitate if supernet else None
    for batch in meter.timed(loader):
        batch = batch.to(precision.device)
        archs = supernet.archs(meter.step) if supernet else [None]
        views = make_views(cfg, batch, archs)
        outputs, losses = train_step(model, criterion, optimizer, precision, views, imitate)
        lr = optimizer.param_groups[0]["lr"]
        meter.update(epoch, batch, outputs, views[0].targets, losses, lr)
        scheduler.step()
    meter.check(epoch, batch)  # before anybody saves what came of it


class SupernetPlan(NamedTuple):
    """How a supernet is trained."""

    archs: Callable[[int], Sequence[ArchSpec]]  # of a step, counted from the start of the run
    imitate: Imitation | None = None


def make_views(cfg: CfgNode, batch: Batch, archs: Sequence[ArchSpec | None]) -> list[View]:
    """One view per architecture, each at its resolution; None: at the crop's."""
    crop = cfg.DATASET.INPUT_SIZE
    sizes = [arch.img_size if arch else crop for arch in archs]
    at_size = {size: make_view(cfg, batch, size) for size in set(sizes)}
    return [at_size[size]._replace(arch=arch) for size, arch in zip(sizes, archs, strict=True)]


def make_view(cfg: CfgNode, batch: Batch, size: int) -> View:
    """`batch`, on its device, at `size` pixels, with targets stamped at that size."""
    crop = cfg.DATASET.INPUT_SIZE
    images = normalize(batch.images)
    if size != crop:
        images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    targets = make_targets(
        *(batch.joints, batch.mirrored, batch.sigmas),
        [resize_mask(mask, mask.shape[-1] * size // crop) for mask in batch.masks],
        crop_size=crop,
        tag_per_joint=cfg.MODEL.TAG_PER_JOINT,
        codec=codec_of(cfg),
    )
    return View(images, targets)


def resize_mask(mask: Tensor, size: int) -> Tensor:
    """(B, h, w) bool -> (B, size, size) bool, nearest."""
    if mask.shape[-1] == size:
        return mask
    return F.interpolate(mask[:, None].float(), size=(size, size), mode="nearest")[:, 0] > 0


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
        if self.step == self.total_steps:
            self.bar.close()
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
