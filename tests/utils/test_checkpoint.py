"""A checkpoint is whole, fits, and holds values only; else one line says what is wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from lib.models import build_model
from lib.models.arch import uniform_arch
from lib.utils import checkpoint
from lib.utils.checkpoint import (
    TrainingState,
    load_checkpoint,
    load_weights,
    resume,
    save_checkpoint,
    save_training,
    save_weights,
)
from lib.utils.optim import get_optimizer, get_scheduler
from tests.helpers import TINY, fill, tiny_config

OTHER = uniform_arch(64, 8, (8, 8, 16, 24), (8, 8, 8), depths=(1, 1, 1, 1), block=(2, 3))


@pytest.fixture
def cfg(tmp_path):
    return tiny_config(tmp_path, tmp_path)


def network(cfg, arch=TINY, seed: int | None = None):
    model = build_model(cfg, arch)
    if seed is not None:
        fill(model, seed)
    return model


def training_state(cfg, arch=TINY, seed: int = 0) -> TrainingState:
    model = network(cfg, arch, seed)
    optimizer = get_optimizer(cfg, model)
    scheduler = get_scheduler(cfg, optimizer, 5)
    return TrainingState(
        model, optimizer, scheduler, torch.amp.GradScaler("cpu", enabled=False), arch.to_dict()
    )


def train_a_little(state: TrainingState, seed: int) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    sum(output.square().mean() for output in state.model(images)).backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.scheduler.step()


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


# --- weights ----------------------------------------------------------------------------


def test_saved_weights_come_back(cfg, tmp_path):
    model, again = network(cfg, seed=1), network(cfg, seed=2)
    save_weights(tmp_path / "w.pth.tar", model)
    load_weights(again, tmp_path / "w.pth.tar")
    assert_same(model, again)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth.tar"]


@pytest.mark.parametrize("prefix", ["module.", "1.", "module.1.", "1.module."])
def test_the_names_of_a_wrapped_network_fit(cfg, tmp_path, prefix):
    model, again = network(cfg, seed=1), network(cfg, seed=2)
    torch.save({prefix + k: v for k, v in model.state_dict().items()}, tmp_path / "w.pth")
    load_weights(again, tmp_path / "w.pth")
    assert_same(model, again)


def test_a_wrapped_network_is_saved_under_bare_names(cfg, tmp_path):
    model = network(cfg, seed=1)
    save_weights(tmp_path / "w.pth.tar", torch.nn.DataParallel(model))
    assert list(load_checkpoint(tmp_path / "w.pth.tar")) == list(model.state_dict())


def test_a_full_checkpoint_is_accepted_as_weights(cfg, tmp_path):
    state, again = training_state(cfg, seed=1), network(cfg, seed=2)
    save_training(state, tmp_path / "c.pth.tar")
    load_weights(again, tmp_path / "c.pth.tar")
    assert_same(state.model, again)


def test_weights_of_another_architecture_name_what_does_not_fit(cfg, tmp_path):
    save_weights(tmp_path / "w.pth.tar", network(cfg, OTHER))
    model = network(cfg, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"w\.pth\.tar does not fit this model") as caught:
        load_weights(model, tmp_path / "w.pth.tar")
    assert "6 of another shape (" in str(caught.value)
    assert "stage.3.0.point_conv.0.weight (24, 32, 1, 1) for (16, 32, 1, 1)" in str(caught.value)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_missing_and_unexpected_tensors_are_counted_and_named(cfg, tmp_path):
    weights = network(cfg).state_dict()
    del weights["first.2.weight"]
    torch.save(weights | {"extra.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"1 missing \(first.2.weight\); 1 unexpected \(extra.weight\)"
    ):
        load_weights(network(cfg), tmp_path / "w.pth")


def test_a_backbone_keeps_the_new_head(cfg, tmp_path):
    donor, model, before = network(cfg, seed=1), network(cfg, seed=2), network(cfg, seed=2)
    save_weights(tmp_path / "w.pth.tar", donor)
    load_weights(model, tmp_path / "w.pth.tar", skip=("deconv", "final"))
    for name, tensor in model.state_dict().items():
        source = before if name.startswith(("deconv", "final")) else donor
        assert torch.equal(tensor, source.state_dict()[name]), name


def test_a_backbone_of_another_data_set_fits(cfg, tmp_path):
    crowd_pose = tiny_config(tmp_path, tmp_path, data_set="crowd_pose")
    save_weights(tmp_path / "w.pth.tar", network(crowd_pose, seed=1))
    model = network(cfg, seed=2)
    load_weights(model, tmp_path / "w.pth.tar", skip=("deconv", "final"))
    with pytest.raises(ValueError, match=r"of another shape \(final_refined"):
        load_weights(model, tmp_path / "w.pth.tar")


# --- files that are none ----------------------------------------------------------------


def message_of(path: Path) -> str:
    with pytest.raises(ValueError, match=".") as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_truncated_checkpoint_is_told_to_be_damaged(cfg, tmp_path, legacy):
    torch.save(
        {"state_dict": network(cfg).state_dict(), "epoch": 3},
        tmp_path / "whole.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    whole = (tmp_path / "whole.pth").read_bytes()
    for length in (1, 2, 10, 100, 1000, 5000, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path = tmp_path / "cut.pth"
        path.write_bytes(whole[:length])
        assert "damaged" in message_of(path) or "not a checkpoint" in message_of(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n", b"PK\x03\x04", b"{}"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    assert "checkpoint" in message_of(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    assert message_of(tmp_path / "none.pth") == f"there is no checkpoint {tmp_path / 'none.pth'}"


def test_a_folder_is_no_checkpoint(tmp_path):
    assert "checkpoint" in message_of(tmp_path)


def test_a_checkpoint_without_weights_lists_its_keys(cfg, tmp_path):
    save_checkpoint(tmp_path / "c.pth", epoch=3, best_ap=0.5)
    with pytest.raises(ValueError, match=r"c\.pth holds no state dict; its keys: epoch, best_ap"):
        load_weights(network(cfg), tmp_path / "c.pth")


def test_a_tensor_is_no_checkpoint(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "t.pth")
    assert "holds a Tensor" in message_of(tmp_path / "t.pth")


class Malice:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("legacy", [False, True, None], ids=["zip", "legacy", "bare pickle"])
def test_a_malicious_checkpoint_is_refused_and_not_executed(tmp_path, legacy):
    path, marker = tmp_path / "evil.pth", tmp_path / "executed"
    state = {"state_dict": {"w": torch.zeros(1)}, "extra": Malice(marker)}
    if legacy is None:
        path.write_bytes(pickle.dumps(state["extra"]))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    assert "refused" in message_of(path)
    assert not marker.exists()
    with path.open("rb") as file:  # the file is as malicious as it looks
        pickle.load(file) if legacy is None else torch.load(file, weights_only=False)
    assert marker.exists()


# --- saving and going on ----------------------------------------------------------------


def test_an_interrupted_save_leaves_the_old_file_whole(cfg, tmp_path, monkeypatch):
    state = training_state(cfg)
    path = tmp_path / "checkpoint.pth.tar"
    save_training(state, path)
    before = path.read_bytes()

    def killed(tree, target):
        Path(target).write_bytes(before[: len(before) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save_training(state, path)
    assert path.read_bytes() == before
    resume(training_state(cfg), path)


def test_resuming_restores_everything(cfg, tmp_path):
    state = training_state(cfg, seed=1)
    for seed in range(3):
        train_a_little(state, seed)
    state.epoch, state.best_ap = 4, 0.25
    torch.manual_seed(11)
    save_training(state, tmp_path / "c.pth.tar")
    drawn = torch.rand(3)
    again = training_state(cfg, seed=2)
    resume(again, tmp_path / "c.pth.tar")
    assert torch.equal(torch.rand(3), drawn)
    assert (again.epoch, again.best_ap) == (4, 0.25)
    assert again.scheduler.state_dict() == state.scheduler.state_dict()
    assert_same(state.model, again.model)
    for seed in range(3, 5):  # what the optimizer remembers shows in the next steps
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


@pytest.mark.parametrize("key", ["epoch", "best_ap", "optimizer", "scheduler", "scaler", "random"])
def test_a_checkpoint_that_lacks_a_part_is_told_which(cfg, tmp_path, key):
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
