"""0 is "never" for everything that a run does every so many steps or epochs."""

from __future__ import annotations

import logging

import pytest
import torch

from lib.core.meter import UNLOGGED, Meter, StepResult
from lib.dataset.samples import Batch
from lib.training import run
from tests.helpers import tiny_config
from tests.runs import train

NEVER = ("PRINT_FREQ", "0", "TRAIN.SAVE_EVERY", "0", "TRAIN.SAVE_STEPS", "0")


def test_a_run_that_saves_and_logs_never_saves_its_last_epoch(
    coco_root, tmp_path, monkeypatch, caplog
):
    saved = []
    monkeypatch.setattr(run, "save_training", lambda state, path, keep: saved.append(state.epoch))
    cfg = tiny_config(coco_root, tmp_path, *NEVER, "TRAIN.END_EPOCH", "3")
    with caplog.at_level(logging.DEBUG):
        assert train(cfg, tmp_path / "run") is None
    assert saved == [3]
    assert (tmp_path / "run" / run.FINAL).exists()
    assert "loss" not in caplog.text
    assert not (tmp_path / "run/scalars.jsonl").exists()


@pytest.mark.parametrize(("every", "calls"), [(0, []), (1000, [1000, 2000, 2500])])
def test_losses_that_are_not_logged_are_not_collected_for_ever(every, calls):
    logged, stored = [], []
    meter = Meter(2500, every, verbose=False, sink=lambda step, values, result: logged.append(step))
    batch = Batch(torch.zeros(1, 1, 1, 3), *[torch.zeros(1)] * (len(Batch._fields) - 1))
    result = StepResult(0, [batch], [None], [], None, {"heatmap/0": torch.ones(())})
    for _ in range(2500):
        meter.update(result, lr=1.0)
        stored.append(len(meter.traces))
    assert logged == calls
    assert max(stored) < UNLOGGED
