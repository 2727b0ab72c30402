"""The training loop: an epoch, and a step."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from lib.codec import codec_of
from lib.core.distill import Imitation
from lib.core.meter import Meter, StepResult
from lib.core.views import View, ViewSettings, make_views
from lib.dataset.samples import Batch
from lib.dataset.target_generators import Targets
from lib.utils.device import half_precision
from lib.utils.dist import ALONE, Process, all_true

if TYPE_CHECKING:  # importing it would load all networks
    from lib.models.arch import ArchSpec

# criterion(images (B, 3, H, W), outputs, targets) -> named, weighted loss terms
Criterion = Callable[[Tensor, list[Tensor], Targets], dict[str, Tensor]]


@dataclass(frozen=True)
class StepSettings(ViewSettings):
    """Settings of a step: TRAIN.*, precision, and the settings of its targets."""

    images_per_batch: int = 1  # TRAIN.IMAGES_PER_GPU
    accumulate: int = 1  # batches per step
    clip_norm: float = 0.0  # largest norm of all gradients together; 0: no clipping
    skip_non_finite: bool = False  # skip a step with a non-finite loss instead of stopping
    half_precision: bool = False  # float16 on a GPU, bfloat16 on a CPU
    freeze_norms: bool = False  # BatchNorm in evaluation mode; its scale and offset are trained

    @classmethod
    def from_config(cls, cfg: CfgNode) -> StepSettings:
        return cls(
            crop_size=cfg.DATASET.INPUT_SIZE,
            codec=codec_of(cfg),
            tag_per_joint=cfg.MODEL.TAG_PER_JOINT,
            channels_last=cfg.MODEL.CHANNELS_LAST,
            flip_share=cfg.LOSS.FLIP_SHARE if cfg.LOSS.FLIP_CONSISTENCY else 0.0,
            images_per_batch=cfg.TRAIN.IMAGES_PER_GPU,
            accumulate=cfg.TRAIN.ACCUMULATE,
            clip_norm=cfg.TRAIN.CLIP_NORM,
            skip_non_finite=cfg.TRAIN.NON_FINITE == "skip",
            half_precision=cfg.FP16.ENABLED,
            freeze_norms=cfg.TRAIN.FREEZE_NORMS,
        )


@dataclass
class StepState:
    """What a training step updates, and the process that runs it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR  # stepped after each step
    scaler: torch.amp.GradScaler  # of the loss; enabled for float16
    process: Process = ALONE
    epoch: int = 0  # epochs done
    step: int = 0  # steps done in the current epoch


class SupernetPlan(NamedTuple):
    """Which sub-networks of a supernet are trained in a step."""

    archs: Callable[[int], Sequence[ArchSpec]]  # step (from the start of the run) -> sub-networks
    imitate: Imitation | None = None  # in-place distillation from the first to the others
    describe: Callable[[ArchSpec], dict[str, float]] | None = None  # numbers to log


def do_train(
    state: StepState,
    loader: DataLoader,
    criterion: Criterion,
    settings: StepSettings,
    meter: Meter,
    plan: SupernetPlan | None = None,
    after_step: Callable[[], bool] = lambda: False,
) -> bool:
    """Train an epoch from step `state.step` on. Return False if `after_step` asked to stop.

    ValueError for a non-finite loss (names step, images and terms) or a loader process that died.
    """
    state.model.train()
    if settings.freeze_norms:
        freeze_norms(state.model)
    skip = state.step * settings.accumulate * settings.images_per_batch
    cast(Any, loader.sampler).set_epoch(state.epoch, skip=skip)
    imitate = plan.imitate if plan else None
    with worker_errors(loader, state.epoch, meter):
        for batches in meter.timed(groups(loader, settings.accumulate)):
            archs = plan.archs(meter.step) if plan else [None]
            result = train_step(state, criterion, settings, batches, archs, imitate)
            meter.update(result, lr=state.optimizer.param_groups[0]["lr"])
            state.scheduler.step()
            if after_step():
                return False
    meter.check()  # before a checkpoint of these weights is saved
    return True


def freeze_norms(model: nn.Module) -> None:
    """Switch all BatchNorms to evaluation mode, until `model.train()` is called again."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def train_step(
    state: StepState,
    criterion: Criterion,
    settings: StepSettings,
    batches: Sequence[Batch],
    archs: Sequence[ArchSpec | None] = (None,),
    imitate: Imitation | None = None,
) -> StepResult:
    """One optimizer step on the mean loss over all images of `batches` and all `archs`.

    Nothing is read from the device, except with `skip_non_finite`. With `imitate`, the
    architectures after the first also learn its heatmaps (Yu et al. 2019, in-place distillation).
    """
    # A forward pass changes BatchNorm statistics, even if its step is skipped.
    buffers = list(state.model.buffers()) if settings.skip_non_finite else []
    backup = [buffer.clone() for buffer in buffers]
    state.optimizer.zero_grad(set_to_none=True)
    num_images = sum(len(batch.images) for batch in batches)
    losses: dict[str, Tensor] = {}
    first: list[tuple[list[Tensor], Targets]] = []
    for i, batch in enumerate(batches):
        views = make_views(batch.to(state.process.device), archs, settings)
        share = len(batch.images) / num_images  # of a short batch too, all images weigh alike
        with average_gradients(state.model, i + 1 == len(batches)):
            outputs, terms = add_gradients(state, criterion, settings, views, imitate, share)
        add_terms(losses, terms)
        first = first or [(outputs, views[0].targets)]
    [(outputs, targets)] = first
    result = StepResult(state.epoch, batches, archs, outputs, targets, losses)
    if settings.skip_non_finite and not is_finite(state, losses):
        for buffer, copy in zip(buffers, backup, strict=True):
            buffer.copy_(copy)
        return result._replace(skipped=True)
    return result._replace(gradient_norm=update_weights(state, settings.clip_norm))


def add_gradients(
    state: StepState,
    criterion: Criterion,
    settings: StepSettings,
    views: Sequence[View],
    imitate: Imitation | None = None,
    share: float = 1.0,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Add the gradients of `share` times the mean loss over `views`.

    Return the outputs of the first view (float32) and the loss terms times `share`, all detached.
    """
    first_outputs: list[Tensor] = []
    sums: dict[str, Tensor] = {}
    for view in views:
        with half_precision(view.images.device, settings.half_precision):
            arch = () if view.arch is None else (view.arch,)
            outputs = [output.float() for output in state.model(view.images, *arch)]
        losses = criterion(view.images, outputs, view.targets)
        outputs = view.without_copies(outputs)
        if first_outputs and imitate is not None:
            losses |= imitate(outputs, first_outputs, view.targets)
        losses = {name: term * share / len(views) for name, term in losses.items()}
        state.scaler.scale(total(losses)).backward()
        first_outputs = first_outputs or [output.detach() for output in outputs]
        add_terms(sums, losses)
    return first_outputs, sums


def update_weights(state: StepState, clip_norm: float = 0.0) -> Tensor:
    """Clip the gradients to the norm `clip_norm` (0: no clipping) and step the optimizer.

    Return the unscaled norm before clipping, as a tensor on the device.
    """
    state.scaler.unscale_(state.optimizer)
    if clip_norm:
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), clip_norm)
    else:
        norm = gradient_norm(state.model)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return norm


def gradient_norm(model: nn.Module) -> Tensor:
    """L2 norm of the gradients of all parameters together, on the device, in few kernels."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
    return torch.linalg.vector_norm(torch.stack(norms))


def is_finite(state: StepState, losses: Mapping[str, Tensor]) -> bool:
    """Whether loss and gradients are finite in all processes.

    With loss scaling only the loss is checked: the scaler itself skips steps whose gradients
    overflow.
    """
    finite = torch.isfinite(total(losses))
    if not state.scaler.is_enabled():
        finite = finite & torch.isfinite(gradient_norm(state.model))
    return all_true(state.process, finite)


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """The loss: the sum of its terms."""
    return cast(Tensor, sum(losses.values()))


def add_terms(sums: dict[str, Tensor], losses: Mapping[str, Tensor]) -> None:
    """Add `losses`, detached, to the `sums` of the same names."""
    for name, term in losses.items():
        sums[name] = sums.get(name, 0) + term.detach()


def groups(loader: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield lists of `size` batches; the last list of an epoch may be shorter."""
    batches = iter(loader)
    while group := list(itertools.islice(batches, size)):
        yield group


def average_gradients(model: nn.Module, is_last: bool) -> contextlib.AbstractContextManager:
    """A context in which DDP averages gradients over processes in the last batch only."""
    is_shared = isinstance(model, nn.parallel.DistributedDataParallel)
    return model.no_sync() if is_shared and not is_last else contextlib.nullcontext()


@contextlib.contextmanager
def worker_errors(loader: DataLoader, epoch: int, meter: Meter) -> Iterator[None]:
    """A context that turns the death of a loader process into a one-line ValueError."""
    try:
        yield
    except RuntimeError as error:
        message = str(error).partition("\n")[0]
        if not message.startswith("DataLoader worker"):
            raise
        raise ValueError(
            f"in epoch {epoch}, step {meter.step + 1}: {message} WORKERS is {loader.num_workers}; "
            "fewer need less memory. The same command resumes from the last checkpoint"
        ) from None
