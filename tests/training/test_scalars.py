"""The scalar log holds the steps that led to the weights, however often the run was resumed."""

from __future__ import annotations

import json
import re

import pytest

from lib.keypoints import COCO, CROWD_POSE
from lib.training.scalars import append_scalars, legal_name, read_scalars, truncate_scalars
from tests.helpers import full_disk


@pytest.fixture
def log(tmp_path):
    """Steps 10, 20 and 30."""
    path = tmp_path / "scalars.jsonl"
    for step in (10, 20, 30):
        append_scalars(path, step, {"train/loss": step / 100, "train/lr": 0.001})
    return path


def test_every_line_is_strict_json(log):
    append_scalars(log, 30, {"val/AP": 0.5, "val/AR": float("nan")})
    lines = [json.loads(line, parse_constant=pytest.fail) for line in log.read_text().splitlines()]
    assert lines[0] == {"step": 10, "train/loss": 0.1, "train/lr": 0.001}
    assert lines[-1] == {"step": 30, "val/AP": 0.5}


def test_curves_are_read_as_they_were_written(log):
    append_scalars(log, 20, {"val/AP": 0.5})
    assert read_scalars(log) == {
        "train/loss": {10: 0.1, 20: 0.2, 30: 0.3},
        "train/lr": {10: 0.001, 20: 0.001, 30: 0.001},
        "val/AP": {20: 0.5},
    }
    assert list(read_scalars(log)["train/loss"]) == [10, 20, 30]


def test_the_last_line_of_a_repeated_step_counts(log):
    append_scalars(log, 20, {"train/loss": 9})
    assert read_scalars(log)["train/loss"] == {10: 0.1, 20: 9, 30: 0.3}


def test_a_resume_from_an_earlier_step_removes_the_lines_beyond_it(log):
    """Also where the lines to come are of other steps."""
    truncate_scalars(log, 20)
    append_scalars(log, 25, {"train/loss": 0.25})
    assert read_scalars(log)["train/loss"] == {10: 0.1, 20: 0.2, 25: 0.25}
    assert [path.name for path in log.parent.iterdir()] == [log.name]


def test_an_incomplete_line_costs_nothing_but_itself(log):
    whole = log.read_bytes()
    log.write_bytes(whole[:-8])
    assert list(read_scalars(log)["train/loss"]) == [10, 20]
    truncate_scalars(log, 99)
    append_scalars(log, 30, {"train/loss": 0.3, "train/lr": 0.001})
    assert log.read_bytes() == whole


def test_names_are_legal_in_tensorboard_and_those_of_earlier_files_are_read_as_these(log):
    names = [f"val/{name}" for name in {*COCO.metric.columns, *CROWD_POSE.metric.columns}]
    legal = [legal_name(name) for name in names]
    assert all(re.fullmatch(r"[-/\w.]+", name) for name in legal)
    assert len(set(legal)) == len(set(names))
    append_scalars(log, 30, {name.replace(" ", "_"): 0.5 for name in names})  # as they were
    assert set(legal) < set(read_scalars(log))
    assert legal_name("val/AP (M)") == legal_name("val/AP_(M)") == "val/AP_M"


def test_a_full_disk_leaves_whole_lines(log):
    whole = log.read_bytes()
    with full_disk(len(whole) + 10), pytest.raises(OSError, match=r"No space|File too"):
        append_scalars(log, 40, {"train/loss": 0.4})
    assert log.read_bytes() == whole
    append_scalars(log, 40, {"train/loss": 0.4})
    assert list(read_scalars(log)["train/loss"]) == [10, 20, 30, 40]


def test_truncating_a_missing_file_creates_none(tmp_path):
    truncate_scalars(tmp_path / "scalars.jsonl", 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "\n", "[1, 2]\n", "{}\n", '{"step": 3}\n', "\xff\x00"])
def test_a_log_without_scalars_is_named(tmp_path, text):
    path = tmp_path / "scalars.jsonl"
    with pytest.raises(ValueError, match=r"cannot read .*scalars.jsonl: No such file"):
        read_scalars(path)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"scalars.jsonl has no scalars yet"):
        read_scalars(path)
