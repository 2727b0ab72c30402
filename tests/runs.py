"""Whole runs in this process or a fork, interrupted at will, and their files compared."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from yacs.config import CfgNode

import dist_train
from lib.core.meter import Meter
from lib.core.trainer import StepState
from lib.models.arch import ArchSpec, uniform_arch
from lib.training.optim import get_optimizer, get_scaler, get_scheduler
from lib.utils.checkpoint import load_checkpoint, unwrap
from lib.utils.dist import ALONE, Process
from tests.helpers import TINY, as_opts

CPU = torch.device("cpu")
# A supernet that trains in milliseconds, and settings to go with it.
SMALL = uniform_arch(64, 16, (16, 16, 24, 32), (16, 16, 16), depths=(1, 1, 2, 1), block=(2, 3))
SPACE = {
    "MODEL.NAME": "pose_supermobilenet",
    "SUPERNET.RATIOS": [1.0, 0.5],
    "SUPERNET.RESOLUTIONS": [64, 128],
    "SUPERNET.EXPANSIONS": [2],
    "SUPERNET.KERNELS": [3],
}
SUPERNET = as_opts(SPACE | {"SUPERNET.SAMPLING": "sandwich"})
FILES = ("checkpoint.pth.tar", "final_state0.pth.tar")  # of a finished run


def train(cfg: CfgNode, out: Path, process: Process = ALONE, arch: ArchSpec = TINY) -> int | None:
    """Train as `dist_train.py` does, without its flags; the exit code."""
    dist_train.set_backends(cfg)
    model = dist_train.start_model(cfg, arch, process)
    criterion = dist_train.start_criterion(cfg, None, CPU)
    plan = dist_train.supernet_plan(cfg, unwrap(model))
    out.mkdir(parents=True, exist_ok=True)
    return dist_train.train(cfg, model, criterion, plan, process, out, out / "log")


def step_state(
    cfg: CfgNode, model: nn.Module, process: Process = ALONE, steps_per_epoch: int = 9
) -> StepState:
    """What `train_step` and `do_train` change."""
    optimizer = get_optimizer(cfg, model)
    return StepState(
        model=model,
        optimizer=optimizer,
        scheduler=get_scheduler(cfg, optimizer, steps_per_epoch),
        scaler=get_scaler(cfg, process.device),
        process=process,
    )


@contextlib.contextmanager
def at_step(step: int, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` at the end of step `step`, counted from 1, before anything is saved."""
    update = Meter.update

    def updated(self: Meter, *args, **kwargs) -> None:
        update(self, *args, **kwargs)
        if self.step == step:
            act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Meter, "update", updated)
        yield


def signal_me(number: int) -> Callable[[], None]:
    """A function that sends a signal to this process."""
    return lambda: os.kill(os.getpid(), number)


def killed(step: int, work: Callable[[], None]) -> None:
    """`work` in a forked process that gets SIGKILL at the end of step `step`."""

    def until_then() -> None:
        with at_step(step, signal_me(signal.SIGKILL)):
            work()

    dies(until_then)


def dies(until_then: Callable[[], None]) -> None:
    """Call it in a forked process, which has to die of SIGKILL."""
    process = multiprocessing.get_context("fork").Process(target=until_then)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def flat(tree, name="") -> dict:
    """Every leaf of nested dicts and lists."""
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        return {name: tree}
    return {k: v for key, value in items for k, v in flat(value, f"{name}/{key}").items()}


def assert_equal_files(one: Path, other: Path, leave_out: tuple[str, ...] = ()) -> None:
    first, second = flat(load_checkpoint(one)), flat(load_checkpoint(other))
    assert list(first) == list(second)
    for name, value in first.items():
        if name.startswith(leave_out):
            continue
        expected = second[name]
        assert torch.equal(value, expected) if torch.is_tensor(value) else value == expected, name


def assert_same_end(one: Path, other: Path) -> None:
    """Two output folders have equal checkpoints and final weights."""
    for name in FILES:
        assert_equal_files(one / name, other / name)
