"""A training that is killed or stopped ends in the weights of one that was not."""

from __future__ import annotations

import functools
import random
import shutil
import signal
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lib.core.meter import Meter
from lib.dataset.pose_dataset import PoseDataset
from lib.training import run
from lib.utils.checkpoint import load_checkpoint
from lib.utils.cli import STOPPED
from lib.utils.dist import Process
from tests.helpers import TINY, tiny_config
from tests.runs import (
    SMALL,
    SUPERNET,
    assert_equal_files,
    assert_same_end,
    at_step,
    dies,
    killed,
    signal_me,
    train,
)

STEPS = ["TRAIN.IMAGES_PER_GPU", "1", "TRAIN.END_EPOCH", "2", "TRAIN.SAVE_STEPS", "2"]


@pytest.fixture
def config(coco_root, tmp_path):
    """Two epochs of six steps, with a checkpoint after every other."""

    def make(*opts: str):
        return tiny_config(coco_root, tmp_path, *STEPS, *opts)

    return make


@pytest.mark.parametrize(
    ("arch", "opts", "kills"),
    [
        (TINY, [], [1, 5]),
        (TINY, ["WORKERS", "2", "TRAIN.LR_SCHEDULE", "cosine"], [3, 9]),
        (TINY, ["TRAIN.OPTIMIZER", "sgd", "TRAIN.LR_STEP", "[1]", "TRAIN.EMA", "0.9"], [6, 7]),
        (TINY, ["TRAIN.ACCUMULATE", "2", "TRAIN.CLIP_NORM", "0.1", "TRAIN.EMA", "0.9"], [2, 5]),
        (SMALL, SUPERNET, [4, 11]),
    ],
    ids=["adam", "workers", "sgd, average", "accumulated, clipped, average", "supernet"],
)
def test_a_run_killed_at_any_step_ends_the_same(config, tmp_path, arch, opts, kills):
    """Bit for bit; a kill costs the steps since the last checkpoint and nothing else."""
    cfg = config(*opts)
    train(cfg, tmp_path / "whole", arch=arch)
    for step in kills:
        killed(step, lambda: train(cfg, tmp_path / "part", arch=arch))
        assert not (tmp_path / "part/final_state0.pth.tar").exists()
    torch.manual_seed(99)  # the state of the last process is another one
    train(cfg, tmp_path / "part", arch=arch)
    assert_same_end(tmp_path / "whole", tmp_path / "part")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_gets_a_signal_saves_that_very_step(config, tmp_path, number):
    """Without TRAIN.SAVE_STEPS too."""
    cfg, before = config("TRAIN.SAVE_STEPS", "0"), signal.getsignal(number)
    train(cfg, tmp_path / "whole")
    for step in (4, 6, 7):  # 6: the end of an epoch
        with at_step(step, signal_me(number)):
            assert train(cfg, tmp_path / "part") == STOPPED
        saved = load_checkpoint(tmp_path / "part/checkpoint.pth.tar")
        assert 6 * saved["epoch"] + saved["step"] == step
    assert train(cfg, tmp_path / "part") is None
    assert_same_end(tmp_path / "whole", tmp_path / "part")
    assert signal.getsignal(number) == before


def test_an_ignored_ctrl_c_stays_ignored(config, tmp_path):
    """As in a job that a script starts in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with at_step(4, signal_me(signal.SIGINT)):
            assert train(config(), tmp_path / "run") is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_does_not_wait(config, tmp_path):
    def twice() -> None:
        signal_me(signal.SIGINT)()
        signal_me(signal.SIGINT)()

    with at_step(3, twice), pytest.raises(KeyboardInterrupt):
        train(config(), tmp_path / "run")


def test_two_processes_stop_after_the_same_step_and_go_on(config, tmp_path, together):
    """One of them gets a signal; both stop, then resume, and end in the same weights."""
    cfg = config("TRAIN.EMA", "0.9")

    def whole(process: Process) -> int | None:
        return train(cfg, tmp_path / "whole", process)

    def part(process: Process) -> int | None:
        return train(cfg, tmp_path / "part", process)

    def stopped(process: Process) -> int | None:
        if process.is_main:
            return part(process)
        with at_step(2, signal_me(signal.SIGTERM)):
            return part(process)

    assert together(whole, 2) == [None, None]
    assert together(stopped, 2) == [STOPPED, STOPPED]
    saved = load_checkpoint(tmp_path / "part/checkpoint.pth.tar")
    assert (saved["epoch"], saved["step"]) == (0, 3)  # a vote is read one step later
    assert together(part, 2) == [None, None]
    assert_same_end(tmp_path / "whole", tmp_path / "part")


def test_a_run_killed_in_an_evaluation_does_that_again(config, tmp_path, monkeypatch):
    """And no step, though no checkpoint but that of an epoch's end was asked for."""
    cfg = config("TRAIN.SAVE_STEPS", "0", "TRAIN.VALIDATE_EVERY", "1", "TRAIN.EMA", "0.9")
    train(cfg, tmp_path / "whole")

    def until_then() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "predict_set", lambda *_, **__: signal_me(signal.SIGKILL)())
            train(cfg, tmp_path / "part")

    dies(until_then)
    saved = load_checkpoint(tmp_path / "part/checkpoint.pth.tar")
    assert (saved["epoch"], saved["step"]) == (0, 6)
    steps = []
    monkeypatch.setattr(Meter, "update", record(steps, Meter.update))
    train(cfg, tmp_path / "part")
    assert steps == [*range(7, 13)]
    assert_same_end(tmp_path / "whole", tmp_path / "part")
    best = "model_best.pth.tar"
    assert_equal_files(tmp_path / "whole" / best, tmp_path / "part" / best)


def record(steps: list[int], update: Callable) -> Callable:
    """Meter.update, which appends the number of each step to `steps`."""

    def updated(self: Meter, *args, **kwargs) -> None:
        update(self, *args, **kwargs)
        steps.append(self.step)

    return updated


def test_images_of_finished_steps_are_not_read_again(config, tmp_path, monkeypatch):
    cfg = config("TRAIN.SAVE_STEPS", "0", "TRAIN.END_EPOCH", "1")
    with at_step(4, signal_me(signal.SIGTERM)):
        train(cfg, tmp_path / "run")
    keys, item = [], PoseDataset.__getitem__

    def read(self: PoseDataset, key: tuple[int, int]):
        keys.append(key)
        return item(self, key)

    monkeypatch.setattr(PoseDataset, "__getitem__", read)
    train(cfg, tmp_path / "run")
    assert len(keys) == 2


def test_a_step_uses_no_global_random_generator(config, tmp_path):
    """So there is no state of Python's and NumPy's to save, and none of a second process's."""
    train(config("TRAIN.END_EPOCH", "1", *SUPERNET), tmp_path / "run", arch=SMALL)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002

    def states() -> list:
        return [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]  # noqa: NPY002

    before = []
    with at_step(7, lambda: before.extend(states())):
        train(config(*SUPERNET), tmp_path / "run", arch=SMALL)
    assert states() == before


def test_a_run_killed_before_its_last_file_writes_it(config, tmp_path):
    cfg = config("TRAIN.EMA", "0.9")
    train(cfg, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    (tmp_path / "part/final_state0.pth.tar").unlink()
    train(cfg, tmp_path / "part")
    assert_same_end(tmp_path / "whole", tmp_path / "part")


def test_a_resume_within_an_epoch_needs_the_same_steps(config, tmp_path):
    killed(3, lambda: train(config(), tmp_path / "run"))
    with pytest.raises(ValueError, match=r"PER_GPU 1 x .*config has .*PER_GPU 2"):
        train(config("TRAIN.IMAGES_PER_GPU", "2"), tmp_path / "run")


def test_between_epochs_the_steps_may_change(config, tmp_path):
    train(config("TRAIN.END_EPOCH", "1"), tmp_path / "run")
    larger = config("TRAIN.IMAGES_PER_GPU", "2", "TRAIN.LR_STEP", "[2]", "TRAIN.END_EPOCH", "3")
    train(larger, tmp_path / "run")
    saved = load_checkpoint(tmp_path / "run/checkpoint.pth.tar")
    assert saved["scheduler"]["last_epoch"] == 9  # the schedule counts in the new steps


def test_a_compiled_network_is_saved_and_resumed_as_any_other(config, tmp_path, monkeypatch):
    """Without code generation, which takes minutes. SGD leaves rounding small; Adam's first steps
    are as long for a gradient of nothing but rounding as for any other.
    """
    once = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", once)
    opts = ["TRAIN.OPTIMIZER", "sgd", "TRAIN.EMA", "0.9", "TRAIN.VALIDATE_EVERY", "1"]
    cfg = config(*opts, "MODEL.COMPILE", "True")
    train(cfg, tmp_path / "whole")
    with at_step(4, signal_me(signal.SIGTERM)):
        assert train(cfg, tmp_path / "part") == STOPPED
    train(cfg, tmp_path / "part")
    assert_same_end(tmp_path / "whole", tmp_path / "part")
    train(config(*opts), tmp_path / "plain")
    compiled, plain = (
        load_checkpoint(tmp_path / name / "checkpoint.pth.tar")["state_dict"]
        for name in ("whole", "plain")
    )
    assert compiled.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, atol=1e-5, rtol=1e-4)


def test_a_supernet_is_not_compiled(config, tmp_path):
    with pytest.raises(ValueError, match=r"MODEL\.COMPILE cannot be used for a supernet"):
        train(config(*SUPERNET, "MODEL.COMPILE", "True"), tmp_path / "run", arch=SMALL)
