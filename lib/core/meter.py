"""Measures training: speed, mean losses, gradient norm, and steps with a non-finite loss."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from lib.dataset.samples import Batch
from lib.dataset.target_generators import Targets
from lib.utils.dist import ALONE, Process, broadcast, gather

if TYPE_CHECKING:  # importing it would load all networks
    from lib.models.arch import ArchSpec

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
UNLOGGED = 1000  # steps after which losses are read and checked although nothing is logged


class StepResult(NamedTuple):
    """Inputs and outputs of a training step; tensors are detached and stay on the device."""

    epoch: int
    batches: Sequence[Batch]  # on the CPU
    archs: Sequence[ArchSpec | None]
    outputs: list[Tensor]  # S of (B, C, h, w), of the first batch and architecture
    targets: Targets  # of the first batch and architecture
    losses: dict[str, Tensor]  # weighted terms
    gradient_norm: Tensor | None = None  # before clipping
    skipped: bool = False  # non-finite: no weight was updated


class Trace(NamedTuple):
    """What is stored of a step until its losses are read from the device."""

    place: str  # epoch, step, image ids, architectures
    archs: Sequence[ArchSpec | None]
    losses: dict[str, Tensor]
    gradient_norm: Tensor | None

    def non_finite(self, losses: dict[str, float]) -> str:
        terms = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
        return f"the loss is not finite in {self.place}: {terms}"


# (step, values by name, the last step): called each time the values are printed
Sink = Callable[[int, dict[str, float], StepResult], None]


@dataclass
class Meter:
    """Counts the steps of a run, and logs the mean losses of every `every` steps.

    Reading from the device waits for it, so losses stay there between two log lines. The logged
    values also go to `sink`. `describe` returns numbers of a sub-network (such as its GMACs), which
    are averaged like losses. `work` is proportional to the time that the first n steps take.
    """

    total_steps: int
    every: int
    step: int = 0  # steps done; not 0 after a resume
    verbose: bool = True
    sink: Sink | None = None
    process: Process = ALONE
    describe: Callable[[ArchSpec], dict[str, float]] | None = None
    work: Callable[[int], float] = float
    traces: list[Trace] = field(default_factory=list)  # since the last log line

    def __post_init__(self) -> None:
        in_terminal = self.verbose and sys.stderr.isatty()
        self.bar = tqdm(
            total=self.total_steps, initial=self.step, desc="train", disable=not in_terminal
        )
        self._restart()
        self.begin, self.begin_step = time.perf_counter(), self.step

    def timed(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield from `items`; the time spent waiting for them counts as "data wait"."""
        source = iter(items)
        while True:
            begin = time.perf_counter()
            item = next(source, None)
            self.waited += time.perf_counter() - begin
            if item is None:
                return
            yield item

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time (an evaluation, a checkpoint) does not count in images/s."""
        begin = time.perf_counter()
        yield
        self.since += time.perf_counter() - begin

    def update(self, result: StepResult, lr: float) -> None:
        """Count a step; log every `every` steps, or never if that is 0."""
        self._count(result)
        if result.skipped:
            self._warn_skipped(self.traces.pop())
            return
        if self.step % (self.every or UNLOGGED) and self.step != self.total_steps:
            return
        values = self._values(lr)
        if self.every:
            self._print(result.epoch, values)
            if self.sink is not None:
                self.sink(self.step, values, result)
        if self.step == self.total_steps:
            self.bar.close()
        self._restart()

    def check(self) -> list[dict[str, float]]:
        """The losses of the steps since the last log line, a dict per step.

        ValueError, in all processes, if any of them had a non-finite loss; it names the first such
        step.
        """
        losses = read_losses(self.traces)
        bad = next((i for i, terms in enumerate(losses) if not math.isfinite(total(terms))), None)
        mine = None if bad is None else [bad, self.traces[bad].non_finite(losses[bad])]
        every = [report for report in gather(self.process, mine) if report is not None]
        first = broadcast(self.process, min(every, default=None))
        if first is not None:
            raise ValueError(f"{first[1]}; a smaller TRAIN.LR or a warm-up may help")
        return losses

    def _count(self, result: StepResult) -> None:
        self.step += 1
        images = sum(len(batch.images) for batch in result.batches)
        self.images += images * self.process.world_size  # the sampler gives each process as many
        image_ids = [i for batch in result.batches for i in batch.image_ids.tolist()]
        archs = " and ".join(arch.summary for arch in result.archs if arch)
        images = f"images {image_ids}" + (f", architecture {archs}" if archs else "")
        place = f"epoch {result.epoch}, step {self.step} ({images})"
        self.traces.append(Trace(place, result.archs, result.losses, result.gradient_norm))
        self.bar.update()

    def _warn_skipped(self, trace: Trace) -> None:
        [losses] = read_losses([trace])
        if not math.isfinite(total(losses)):
            logger.warning("%s; the step is skipped", trace.non_finite(losses))
        elif self.process.is_main:
            why = "gradients, or another process's loss, are not finite"
            logger.warning("skipped %s: %s", trace.place, why)

    def _values(self, lr: float) -> dict[str, float]:
        """Means over the steps since the last log line; the gradient norm without overflows."""
        losses = mean_terms(self.check())
        elapsed = time.perf_counter() - self.since
        norms = [t.gradient_norm for t in self.traces if t.gradient_norm is not None]
        finite = [n for n in torch.stack(norms).tolist() if math.isfinite(n)] if norms else []
        archs = [arch for trace in self.traces for arch in trace.archs if arch]
        numbers = mean_terms([self.describe(arch) for arch in archs]) if self.describe else {}
        return {
            "loss": total(losses),
            **losses,
            **({"gradient norm": sum(finite) / len(finite)} if finite else {}),
            "lr": lr,
            "images/s": self.images / elapsed,
            "data wait": self.waited / elapsed,
            **{f"arch/{name}": value for name, value in numbers.items()},
        }

    def _print(self, epoch: int, values: dict[str, float]) -> None:
        speed = f"{values['images/s']:.1f} images/s, data wait {values['data wait']:.0%}"
        self.bar.set_postfix_str(f"epoch {epoch}, loss {values['loss']:.3g}, {speed}")
        # In a terminal the bar replaces the line, which then goes to the log file only.
        logger.log(
            logging.INFO if self.bar.disable else logging.DEBUG,
            f"epoch {epoch}, step {self.step}/{self.total_steps}: loss {values['loss']:.3g}, "
            f"gradient norm {values.get('gradient norm', math.nan):.2g}, lr {values['lr']:.2g}, "
            f"{speed}, {self.minutes_to_go():.1f} minutes to go",
        )

    def minutes_to_go(self) -> float:
        done = self.work(self.step) - self.work(self.begin_step)
        left = self.work(self.total_steps) - self.work(self.step)
        return (time.perf_counter() - self.begin) / 60 * left / done

    def _restart(self) -> None:
        self.since = time.perf_counter()
        self.waited = 0.0
        self.images = 0
        self.traces = []


def read_losses(traces: Sequence[Trace]) -> list[dict[str, float]]:
    """The losses of each step as floats, in a single read from the device."""
    terms = [term for trace in traces for term in trace.losses.values()]
    values = iter(torch.stack(terms).tolist() if terms else ())
    return [{name: next(values) for name in trace.losses} for trace in traces]


def mean_terms(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each name over all steps; a step that lacks it counts as 0."""
    names = dict.fromkeys(name for terms in steps for name in terms)
    return {name: sum(terms.get(name, 0) for terms in steps) / len(steps) for name in names}


def total(losses: dict[str, float]) -> float:
    """The loss: the sum of its terms."""
    return sum(losses.values())
