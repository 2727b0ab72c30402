"""The scalar log holds what led to the weights that there are, whatever happened to the run."""

from __future__ import annotations

import json

import pytest

from lib.training.scalars import append_scalars, cut_scalars, read_scalars


@pytest.fixture
def log(tmp_path):
    """Steps 10, 20 and 30."""
    path = tmp_path / "scalars.jsonl"
    for step in (10, 20, 30):
        append_scalars(path, step, {"train/loss": step / 100, "train/lr": 0.001})
    return path


def test_every_line_is_json_that_anybody_can_read(log):
    append_scalars(log, 30, {"val/AP": 0.5, "val/AR": float("nan")})
    lines = [json.loads(line, parse_constant=pytest.fail) for line in log.read_text().splitlines()]
    assert lines[0] == {"step": 10, "train/loss": 0.1, "train/lr": 0.001}
    assert lines[-1] == {"step": 30, "val/AP": 0.5}


def test_curves_come_back(log):
    append_scalars(log, 20, {"val/AP": 0.5})
    assert read_scalars(log) == {
        "train/loss": {10: 0.1, 20: 0.2, 30: 0.3},
        "train/lr": {10: 0.001, 20: 0.001, 30: 0.001},
        "val/AP": {20: 0.5},
    }
    assert list(read_scalars(log)["train/loss"]) == [10, 20, 30]


def test_a_step_that_was_done_again_counts_as_it_was_last(log):
    append_scalars(log, 20, {"train/loss": 9})
    assert read_scalars(log)["train/loss"] == {10: 0.1, 20: 9, 30: 0.3}


def test_a_run_that_goes_on_from_an_earlier_step_drops_what_came_after(log):
    """Also where the lines to come are of other steps."""
    cut_scalars(log, 20)
    append_scalars(log, 25, {"train/loss": 0.25})
    assert read_scalars(log)["train/loss"] == {10: 0.1, 20: 0.2, 25: 0.25}
    assert [path.name for path in log.parent.iterdir()] == [log.name]


def test_a_line_cut_off_costs_nothing_but_itself(log):
    whole = log.read_bytes()
    log.write_bytes(whole[:-8])
    assert list(read_scalars(log)["train/loss"]) == [10, 20]
    cut_scalars(log, 99)
    append_scalars(log, 30, {"train/loss": 0.3, "train/lr": 0.001})
    assert log.read_bytes() == whole


def test_cutting_what_is_not_there_makes_nothing(tmp_path):
    cut_scalars(tmp_path / "scalars.jsonl", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_written_is_told_and_stops_nothing(tmp_path, caplog):
    append_scalars(tmp_path / "nowhere" / "scalars.jsonl", 1, {"train/loss": 1})
    [line] = [record.getMessage() for record in caplog.records]
    assert "cannot write" in line
    assert "No such file" in line


@pytest.mark.parametrize("text", ["", "\n", "[1, 2]\n", "{}\n", '{"step": 3}\n', "\xff\x00"])
def test_a_log_without_scalars_is_named(tmp_path, text):
    path = tmp_path / "scalars.jsonl"
    with pytest.raises(ValueError, match=r"cannot read .*scalars.jsonl: No such file"):
        read_scalars(path)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"scalars.jsonl has no scalars yet"):
        read_scalars(path)
