"""TRAIN.PATIENCE ends a training, interrupted or not, in all its processes."""

from __future__ import annotations

import logging

import pytest

from lib.training import run
from lib.utils.checkpoint import load_checkpoint
from tests.helpers import tiny_config
from tests.runs import assert_same_end, killed, train

APS = [0.1, 0.3, 0.2, 0.3, 0.5, 0.5, 0.5, 0.5]  # after each epoch; equal is not better
WHY = "TRAIN.PATIENCE: the last 2 evaluations had no better AP than 0.300; ended after epoch 4"


@pytest.fixture
def config(coco_root, tmp_path, monkeypatch):
    """Epochs of three steps; the AP of each is that of APS."""

    def score(data, predictions, folder) -> dict[str, float]:
        return {"AP": APS[load_checkpoint(folder / run.CHECKPOINT)["epoch"]]}

    monkeypatch.setattr(run, "evaluate_predictions", score)

    def make(*opts: str, patience: int = 2):
        keys = ["TRAIN.IMAGES_PER_GPU", "2", "TRAIN.END_EPOCH", "8", "TRAIN.VALIDATE_EVERY", "1"]
        return tiny_config(coco_root, tmp_path, *keys, "TRAIN.PATIENCE", str(patience), *opts)

    return make


def epochs(folder) -> int:
    return load_checkpoint(folder / run.CHECKPOINT)["epoch"]


@pytest.mark.parametrize("opts", [(), ("TRAIN.SAVE_EVERY", "0")])
def test_a_training_ends_when_ap_has_not_risen(config, tmp_path, caplog, opts):
    with caplog.at_level(logging.INFO):
        assert train(config(*opts), tmp_path / "run") is None
    assert WHY in caplog.messages
    assert epochs(tmp_path / "run") == 4
    assert (tmp_path / "run" / run.FINAL).exists()


def test_a_training_without_patience_goes_on(config, tmp_path):
    train(config(patience=0), tmp_path / "run")
    assert epochs(tmp_path / "run") == 8


def test_the_count_survives_an_interruption(config, tmp_path):
    """Killed in the third and the fourth epoch."""
    cfg = config("TRAIN.SAVE_STEPS", "1")
    train(cfg, tmp_path / "whole")
    for step in (8, 11):
        killed(step, lambda: train(cfg, tmp_path / "run"))
    train(cfg, tmp_path / "run")
    assert epochs(tmp_path / "run") == 4
    assert_same_end(tmp_path / "whole", tmp_path / "run")


def test_more_patience_goes_on_where_a_training_ended(config, tmp_path, caplog):
    train(config(), tmp_path / "run")
    before = (tmp_path / "run" / run.CHECKPOINT).read_bytes()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        train(config(), tmp_path / "run")
    assert WHY in caplog.messages
    assert (tmp_path / "run" / run.CHECKPOINT).read_bytes() == before
    train(config(patience=3), tmp_path / "run")
    assert epochs(tmp_path / "run") == 8  # AP .5 after epoch 5


def test_all_processes_end_together(config, tmp_path, together):
    cfg = config("TRAIN.IMAGES_PER_GPU", "1")
    assert together(lambda process: train(cfg, tmp_path / "run", process), 2) == [None, None]
    assert epochs(tmp_path / "run") == 4


def test_patience_without_evaluations_is_a_mistake(config):
    with pytest.raises(ValueError, match=r"TRAIN\.PATIENCE is 2, TRAIN\.VALIDATE_EVERY 0"):
        config("TRAIN.VALIDATE_EVERY", "0")
