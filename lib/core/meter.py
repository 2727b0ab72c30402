"""What is seen of a training: speed, losses, gradients, and where a loss left the numbers."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from lib.dataset.samples import Batch
from lib.dataset.target_generators import Targets
from lib.models.arch import ArchSpec
from lib.training.board import Board
from lib.utils.dist import ALONE, Process, broadcast, gather

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class Step(NamedTuple):
    """What was learned from, and what came out."""

    epoch: int
    batches: Sequence[Batch]  # as the loader gave them
    archs: Sequence[ArchSpec | None]
    outputs: list[Tensor]  # of the first batch
    targets: Targets  # of the first batch
    losses: dict[str, Tensor]  # detached, still on the device
    gradient_norm: Tensor | None = None  # before clipping, still on the device


class Trace(NamedTuple):
    """What is kept of a step until its losses are read."""

    step: int  # as the log counts
    epoch: int
    image_ids: list[Tensor]
    archs: Sequence[ArchSpec | None]
    losses: dict[str, Tensor]
    gradient_norm: Tensor | None

    def tell(self, values: dict[str, float]) -> str:
        """Where the loss left the numbers, in one line."""
        images = [image_id for ids in self.image_ids for image_id in ids.tolist()]
        archs = " and ".join(arch.summary for arch in self.archs if arch)
        terms = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        of = f", architecture {archs}" if archs else ""
        return (
            f"the loss is not finite in epoch {self.epoch}, step {self.step} (images {images}{of})"
            f": {terms}"
        )


@dataclass
class Meter:
    """Speed, data wait, losses and gradients of a run; read from the device every `every` steps.

    What is printed goes to the `board` too, where there is one. `describe` puts a supernet's
    sub-network in figures; their means stand beside the losses, which are those of the same steps.
    """

    total_steps: int
    every: int
    step: int = 0  # steps done; not 0 after a resume
    verbose: bool = True
    board: Board | None = None
    process: Process = ALONE
    describe: Callable[[ArchSpec], dict[str, float]] | None = None
    traces: list[Trace] = field(default_factory=list)  # since the last print

    def __post_init__(self) -> None:
        in_terminal = self.verbose and sys.stderr.isatty()
        self.bar = tqdm(
            total=self.total_steps, initial=self.step, desc="train", disable=not in_terminal
        )
        self._restart()
        self.begin, self.begin_step = time.perf_counter(), self.step

    def timed(self, items: Iterable[Item]) -> Iterator[Item]:
        """The `items`; the time spent waiting for them is counted."""
        source = iter(items)
        while True:
            asked = time.perf_counter()
            item = next(source, None)
            self.waited += time.perf_counter() - asked
            if item is None:
                return
            yield item

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done meanwhile is not training: the speed does not count it."""
        begun = time.perf_counter()
        yield
        self.since += time.perf_counter() - begun

    def update(self, step: Step, lr: float) -> None:
        """Count one step; every now and then, print it."""
        self._count(step)
        if self.step % self.every and self.step != self.total_steps:
            return
        values = self._values(lr)
        self._print(step.epoch, values)
        if self.board is not None:
            self.board.scalars(self.step, {f"train/{name}": v for name, v in values.items()})
            self.board.pictures(
                *(self.step, step.batches[0], step.outputs, step.targets, step.archs[0])
            )
        if self.step == self.total_steps:
            self.bar.close()
        self._restart()

    def skip(self, step: Step) -> None:
        """Count one step that changed nothing, and name it where its loss was at fault."""
        self._count(step)
        trace = self.traces.pop()
        [values] = read([trace])
        if not math.isfinite(total(values)):
            logger.warning("%s; the step is skipped", trace.tell(values))
        elif self.process.is_main:
            where = f"in epoch {trace.epoch}, step {trace.step}"
            logger.warning("no update %s: gradients or another loss are not finite", where)

    def check(self) -> list[dict[str, float]]:
        """The losses of the steps since the last print.

        ValueError naming the first step of any process at which they left the numbers.
        """
        losses = read(self.traces)
        bad = next((i for i, terms in enumerate(losses) if not math.isfinite(total(terms))), None)
        own = None if bad is None else [bad, self.traces[bad].tell(losses[bad])]
        found = [each for each in gather(self.process, own) if each is not None]
        first = broadcast(self.process, min(found, default=None))
        if first is not None:
            raise ValueError(f"{first[1]}; a smaller TRAIN.LR or a warm-up may help")
        return losses

    def _count(self, step: Step) -> None:
        self.step += 1
        self.images += sum(len(batch.images) for batch in step.batches)
        ids = [batch.image_ids for batch in step.batches]
        self.traces.append(
            Trace(self.step, step.epoch, ids, step.archs, step.losses, step.gradient_norm)
        )
        self.bar.update()

    def _values(self, lr: float) -> dict[str, float]:
        losses = self.check()
        elapsed = time.perf_counter() - self.since
        means = mean_terms(losses)
        return {
            "loss": total(means),
            **means,
            **self._gradients(),
            "lr": lr,
            "images/s": self.images / elapsed,
            "data wait": self.waited / elapsed,
            **self._archs(),
        }

    def _gradients(self) -> dict[str, float]:
        """The mean norm of the steps since the last print, those that a scaler left out aside."""
        norms = [t.gradient_norm for t in self.traces if t.gradient_norm is not None]
        finite = [n for n in torch.stack(norms).tolist() if math.isfinite(n)] if norms else []
        return {"gradient norm": sum(finite) / len(finite)} if finite else {}

    def _archs(self) -> dict[str, float]:
        """The mean of what `describe` says of the sub-networks since the last print."""
        archs = [arch for trace in self.traces for arch in trace.archs if arch]
        if self.describe is None or not archs:
            return {}
        means = mean_terms([self.describe(arch) for arch in archs])
        return {f"arch/{name}": value for name, value in means.items()}

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
            "epoch %d, step %d/%d: loss %.3g, gradient norm %.2g, lr %.2g, %.1f images/s, "
            "data wait %.0f %%, %.1f minutes to go",
            *(epoch, self.step, self.total_steps, values["loss"]),
            *(values.get("gradient norm", math.nan), values["lr"]),
            *(values["images/s"], 100 * values["data wait"], minutes),
        )

    def _restart(self) -> None:
        self.since = time.perf_counter()
        self.waited = 0.0
        self.images = 0
        self.traces = []


def read(traces: Sequence[Trace]) -> list[dict[str, float]]:
    """The losses of each step, from the device at once."""
    terms = [term for trace in traces for term in trace.losses.values()]
    values = iter(torch.stack(terms).tolist() if terms else ())
    return [{name: next(values) for name in trace.losses} for trace in traces]


def mean_terms(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each name over all steps; where a step lacks it, it is 0."""
    names = dict.fromkeys(name for terms in steps for name in terms)
    return {name: sum(terms.get(name, 0) for terms in steps) / len(steps) for name in names}


def total(losses: dict[str, float]) -> float:
    """The loss itself."""
    return sum(losses.values())
