"""The training loop: a step, and an epoch."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from lib.codec import codec_of
from lib.core.distill import Imitation
from lib.core.images import normalize
from lib.core.meter import Meter, Step
from lib.dataset.samples import Batch
from lib.dataset.target_generators import Targets, make_targets
from lib.models.arch import ArchSpec
from lib.utils.dist import Process, all_true
from lib.utils.precision import half_precision

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
    answer = add_gradients(model, criterion, precision, views, imitate)
    update_weights(model, optimizer, precision)
    return answer


def add_gradients(
    model: nn.Module,
    criterion: Criterion,
    precision: Precision,
    views: Sequence[View],
    imitate: Imitation | None = None,
    share: float = 1.0,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """`train_step` without the update; loss and gradients are times `share`."""
    shown: list[Tensor] = []
    sums: dict[str, Tensor] = {}
    for view in views:
        with precision.autocast():
            outputs = model(view.images) if view.arch is None else model(view.images, view.arch)
        outputs = [output.float() for output in outputs]
        losses = criterion(view.images, outputs, view.targets)
        if shown and imitate is not None:
            losses |= imitate(outputs, shown, view.targets)
        losses = {name: term * share / len(views) for name, term in losses.items()}
        precision.scaler.scale(sum(losses.values())).backward()
        shown = shown or [output.detach() for output in outputs]
        add_terms(sums, losses)
    return shown, sums


def add_terms(sums: dict[str, Tensor], losses: Mapping[str, Tensor]) -> None:
    """Add `losses`, detached, to the `sums` of the same names."""
    for name, term in losses.items():
        sums[name] = sums.get(name, 0) + term.detach()


def update_weights(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    clip_norm: float = 0.0,
) -> Tensor:
    """Use the gradients, all together no longer than `clip_norm` (0: as long as they are).

    Their norm before that, unscaled, still on the device.
    """
    precision.scaler.unscale_(optimizer)
    if clip_norm:
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    else:
        norm = gradient_norm(model)
    precision.scaler.step(optimizer)
    precision.scaler.update()
    return norm


def gradient_norm(model: nn.Module) -> Tensor:
    """Length of the gradients of all parameters together; it stays on the device.

    Reads each gradient once, in few calls: a small part of what the optimizer's step reads.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


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
    done: int = 0,
    after_step: Callable[[], bool] = lambda: False,
) -> bool:
    """One epoch, less its first `done` steps; False when `after_step` said that it is enough.

    With `supernet`, the plan says which sub-networks take part in each step. ValueError names step,
    pictures and terms when the loss is not finite, and a loader process that died.
    """
    model.train()
    own = cfg.TRAIN
    loader.sampler.set_epoch(epoch, skip=done * own.ACCUMULATE * own.IMAGES_PER_GPU)
    imitate = supernet.imitate if supernet else None
    try:
        for batches in meter.timed(groups(loader, own.ACCUMULATE)):
            archs = supernet.archs(meter.step) if supernet else [None]
            before = Buffers(model) if own.NON_FINITE == "skip" else None
            optimizer.zero_grad(set_to_none=True)
            step = Step(
                *(epoch, batches, archs),
                *accumulate(cfg, model, criterion, precision, batches, archs, imitate),
            )
            if before is not None and not is_finite(model, step, precision, meter.process):
                before.restore()
                meter.skip(step)
            else:
                norm = update_weights(model, optimizer, precision, own.CLIP_NORM)
                meter.update(step._replace(gradient_norm=norm), optimizer.param_groups[0]["lr"])
            scheduler.step()
            if after_step():
                return False
    except RuntimeError as error:
        raise (explain(error, epoch, meter.step + 1, loader) or error) from None
    meter.check()  # before anybody saves what came of it
    return True


def groups(loader: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """`size` batches at a time; the last ones of an epoch may be fewer."""
    batches = iter(loader)
    while group := list(itertools.islice(batches, size)):
        yield group


def accumulate(
    cfg: CfgNode,
    model: nn.Module,
    criterion: Criterion,
    precision: Precision,
    batches: Sequence[Batch],
    archs: Sequence[ArchSpec | None],
    imitate: Imitation | None = None,
) -> tuple[list[Tensor], Targets, dict[str, Tensor]]:
    """Gradients of the mean over the pictures of all `batches`.

    Outputs and targets of the first one, and the mean of the terms.
    """
    total = sum(len(batch.images) for batch in batches)
    shown, sums = [], {}
    for i, batch in enumerate(batches):
        views = make_views(cfg, batch.to(precision.device), archs)
        share = len(batch.images) / total
        with contextlib.nullcontext() if i + 1 == len(batches) else unshared(model):
            outputs, losses = add_gradients(model, criterion, precision, views, imitate, share)
        shown = shown or [outputs, views[0].targets]
        add_terms(sums, losses)
    return *shown, sums


def unshared(model: nn.Module) -> contextlib.AbstractContextManager:
    """Within it, gradients stay in this process; they are averaged with the last batch's."""
    return model.no_sync() if hasattr(model, "no_sync") else contextlib.nullcontext()


class Buffers:
    """The BatchNorm statistics of a network, to be put back after a step that is left out."""

    def __init__(self, model: nn.Module) -> None:
        self.kept = [(buffer, buffer.clone()) for buffer in model.buffers()]

    def restore(self) -> None:
        for buffer, value in self.kept:
            buffer.copy_(value)


def is_finite(model: nn.Module, step: Step, precision: Precision, process: Process) -> bool:
    """Whether loss and gradients are numbers, in all processes.

    Where gradients are scaled, those beyond float16 are ordinary, and the scaler's to leave out.
    """
    finite = torch.isfinite(sum(step.losses.values()))
    if not precision.scaler.is_enabled():
        finite = finite & torch.isfinite(gradient_norm(model))
    return all_true(process, finite)


def explain(error: RuntimeError, epoch: int, step: int, loader: DataLoader) -> ValueError | None:
    """One line about a loader process that died; None for any other error."""
    if not str(error).startswith("DataLoader worker"):
        return None
    what = str(error).splitlines()[0]
    return ValueError(
        f"in epoch {epoch}, step {step}: {what} WORKERS is {loader.num_workers}; fewer need less "
        "memory. The same command goes on from the last checkpoint"
    )


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
        *(batch.joints, batch.flipped, batch.sigmas),
        [resize_mask(mask, mask.shape[-1] * size // crop) for mask in batch.masks],
        crop_size=crop,
        tag_per_joint=cfg.MODEL.TAG_PER_JOINT,
        codec=codec_of(cfg),
        largest_sigma=batch.largest_sigma,
    )
    return View(images, targets)


def resize_mask(mask: Tensor, size: int) -> Tensor:
    """(B, h, w) bool -> (B, size, size) bool, nearest."""
    if mask.shape[-1] == size:
        return mask
    return F.interpolate(mask[:, None].float(), size=(size, size), mode="nearest")[:, 0] > 0
