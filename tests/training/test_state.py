"""A run resumes where it was saved, or one line explains why it cannot."""

from __future__ import annotations

import pytest
import torch

from lib.training.run import start_state
from lib.training.state import TrainingState, resume, save_training
from lib.utils.checkpoint import load_checkpoint, save_checkpoint, save_weights
from lib.utils.dist import ALONE
from tests.helpers import OTHER, TINY, network, tiny_config


@pytest.fixture
def cfg(tmp_path):
    return tiny_config(tmp_path, tmp_path)


def training_state(cfg, arch=TINY, seed: int = 0) -> TrainingState:
    return start_state(cfg, network(cfg, arch, seed), ALONE, images=10, steps=5)


def train_a_little(state: TrainingState, seed: int) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    sum(output.square().mean() for output in state.model(images)).backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.scheduler.step()


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert list(first) == list(second)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_resuming_restores_everything(cfg, tmp_path):
    state = training_state(cfg, seed=1)
    for seed in range(3):
        train_a_little(state, seed)
    state.epoch, state.best_ap = 4, 0.25
    torch.manual_seed(11)
    save_training(state, tmp_path / "c.pth.tar")
    numbers = torch.rand(3)
    again = training_state(cfg, seed=2)
    resume(again, tmp_path / "c.pth.tar")
    assert torch.equal(torch.rand(3), numbers)
    assert (again.epoch, again.best_ap) == (4, 0.25)
    assert again.scheduler.state_dict() == state.scheduler.state_dict()
    assert_same(state.model, again.model)
    for seed in range(3, 5):  # the optimizer's moments show in the next steps
        train_a_little(state, seed)
        train_a_little(again, seed)
    assert_same(state.model, again.model)


def test_a_resume_of_another_architecture_says_what_to_do(cfg, tmp_path):
    save_training(training_state(cfg, OTHER), tmp_path / "c.pth.tar")
    state = training_state(cfg)
    with pytest.raises(ValueError, match=r"another OUTPUT_DIR.*AUTO_RESUME False") as caught:
        resume(state, tmp_path / "c.pth.tar")
    assert str(tmp_path / "c.pth.tar") in str(caught.value)


def test_bare_weights_cannot_be_resumed_from(cfg, tmp_path):
    save_weights(tmp_path / "w.pth.tar", network(cfg))
    with pytest.raises(ValueError, match=r"cannot be resumed from: it lacks .*epoch.*optimizer"):
        resume(training_state(cfg), tmp_path / "w.pth.tar")


@pytest.mark.parametrize(
    "key", ["epoch", "best_ap", "state_dict", "optimizer", "scheduler", "scaler", "random"]
)
def test_the_missing_part_of_a_checkpoint_is_named(cfg, tmp_path, key):
    save_training(training_state(cfg), tmp_path / "c.pth.tar")
    saved = load_checkpoint(tmp_path / "c.pth.tar")
    del saved[key]
    save_checkpoint(tmp_path / "c.pth.tar", **saved)
    with pytest.raises(ValueError, match=f"cannot be resumed from: it lacks {key}"):
        resume(training_state(cfg), tmp_path / "c.pth.tar")


def test_a_resume_with_another_optimizer_says_so(cfg, tmp_path):
    save_training(training_state(cfg), tmp_path / "c.pth.tar")
    sgd = tiny_config(tmp_path, tmp_path, "TRAIN.OPTIMIZER", "sgd")
    with pytest.raises(ValueError, match="another optimizer"):
        resume(training_state(sgd), tmp_path / "c.pth.tar")
