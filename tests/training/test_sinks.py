"""Scalars for services: no step waits for them, and what fails there ends no training."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib.training import background
from lib.training.background import Background, Once, Start, id_of_run
from lib.training.scalars import read_scalars
from tests.faults.jobs import wait_until
from tests.helpers import tiny_config
from tests.runs import at_step, dies, killed, train

START = Start("output/run", Path("log"), {}, is_resumed=False)


@pytest.fixture
def config(coco_root, tmp_path):
    """Two epochs of three steps, and two evaluations."""

    def make(*opts: str):
        keys = ["TRAIN.IMAGES_PER_GPU", "2", "TRAIN.END_EPOCH", "2", "TRAIN.VALIDATE_EVERY", "1"]
        return tiny_config(coco_root, tmp_path, *keys, *opts)

    return make


class Recorder:
    """Stands for the run of a service; fails in the call `fails_at`, counted from 1."""

    def __init__(self, fails_at: int = 0) -> None:
        self.calls: list = []
        self.fails_at = fails_at

    def log(self, values: dict) -> None:
        self.calls.append(values)
        if len(self.calls) == self.fails_at:
            raise ConnectionError("the server is gone\nlong details")

    def finish(self) -> None:
        self.calls.append("finished")

    def define_metric(self, *_, **__) -> None:
        pass


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package: its runs, and the arguments of `init`."""
    package = SimpleNamespace(runs=[], inits=[], fails_at=0, Settings=lambda **keys: keys)

    def init(**keys):
        package.inits.append(keys)
        if package.fails_at < 0:
            raise RuntimeError("no API key")
        package.runs.append(Recorder(package.fails_at))
        return package.runs[-1]

    package.init = init
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.delitem(sys.modules, "lib.training.wandb_sink", raising=False)
    yield package
    sys.modules.pop("lib.training.wandb_sink", None)


def warnings_of(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_service_gets_what_the_file_has(config, tmp_path, wandb):
    train(config("LOG.SINKS", "[jsonl, wandb]"), tmp_path / "run")
    [run] = wandb.runs
    *calls, last = run.calls
    assert last == "finished"
    curves = read_scalars(tmp_path / "run/scalars.jsonl")
    assert [call["step"] for call in calls if "train/loss" in call] == list(curves["train/loss"])
    assert [call["step"] for call in calls if "val/AP" in call] == [3, 6]
    assert wandb.inits[0]["config"]["TRAIN.END_EPOCH"] == 2
    assert not list((tmp_path / "run/log").glob("events*"))


def test_a_resume_goes_on_in_its_run_and_a_new_training_in_a_new_one(config, tmp_path, wandb):
    cfg = config("LOG.SINKS", "[wandb]", "TRAIN.SAVE_STEPS", "1")
    killed(4, lambda: train(cfg, tmp_path / "run"))
    before = (tmp_path / "run/log/wandb.id").read_text()
    train(cfg, tmp_path / "run")
    train(config("LOG.SINKS", "[wandb]", "AUTO_RESUME", "False"), tmp_path / "run")
    first, second = (init["id"] for init in wandb.inits)
    assert first == before != second
    assert not (tmp_path / "run/scalars.jsonl").exists()


@pytest.mark.parametrize(
    ("fails_at", "reason"), [(-1, "no API key"), (2, "the server is gone")], ids=["start", "middle"]
)
def test_a_service_that_fails_is_left_after_one_line(
    config, tmp_path, wandb, caplog, fails_at, reason
):
    wandb.fails_at = fails_at
    assert train(config("LOG.SINKS", "[jsonl, wandb]"), tmp_path / "run") is None
    assert warnings_of(caplog) == [f"wandb: {reason}; it gets nothing more of this run"]
    assert len(read_scalars(tmp_path / "run/scalars.jsonl")["train/loss"]) == 6


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_one_line_with_the_command_that_installs_it(
    config, tmp_path, monkeypatch, caplog, name
):
    monkeypatch.setitem(sys.modules, name, None)  # an import fails
    monkeypatch.delitem(sys.modules, f"lib.training.{name}_sink", raising=False)
    train(config("LOG.SINKS", f"[{name}, jsonl]"), tmp_path / "run")
    [line] = warnings_of(caplog)
    assert line.startswith(f"LOG.SINKS: nothing goes to {name} (")
    assert line.endswith(f"; pip install {name}")
    assert len(read_scalars(tmp_path / "run/scalars.jsonl")["train/loss"]) == 6


def test_without_sinks_nothing_is_written(config, tmp_path):
    train(config("LOG.SINKS", "[]"), tmp_path / "run")
    assert not (tmp_path / "run/log").exists()
    assert not (tmp_path / "run/scalars.jsonl").exists()
    assert (tmp_path / "run/final_state0.pth.tar").exists()


def test_nobody_waits_for_a_service_that_hangs(monkeypatch, caplog):
    """Neither a step nor, for long, the end of a training."""
    monkeypatch.setattr(background, "LAST_SECONDS", 0.1)
    goes_on = threading.Event()
    sink = SimpleNamespace(scalars=lambda *_: goes_on.wait(60), close=lambda: None)
    service = Background("slow", lambda: sink)
    began = time.monotonic()
    for step in range(1000):
        service.scalars(step, {"train/loss": 1.0})
    service.close()
    assert time.monotonic() - began < 30
    assert [line.split(":")[0] for line in warnings_of(caplog)] == ["slow"]
    goes_on.set()


def points(run: Recorder, name: str) -> list[int]:
    return [call["step"] for call in run.calls if name in call]


def test_a_resume_sends_what_was_not_sent_before(config, tmp_path, wandb):
    """Killed after step 5 was sent, it goes on from the checkpoint of step 3."""
    opts = ("LOG.SINKS", "[wandb]", "TRAIN.SAVE_STEPS", "3")
    out, sent = tmp_path / "run", tmp_path / "run/log/wandb.sent.json"

    def die_once_it_is_sent() -> None:
        wait_until(lambda: sent.exists() and '"train/loss": 5' in sent.read_text())
        os.kill(os.getpid(), signal.SIGKILL)

    def until_then() -> None:
        with at_step(5, die_once_it_is_sent):
            train(config(*opts), out)

    dies(until_then)
    train(config(*opts), out)
    assert points(wandb.runs[-1], "train/loss") == [6]
    assert points(wandb.runs[-1], "val/AP") == [6]


def test_a_point_is_sent_once_unless_settings_differ_or_the_run_is_new(tmp_path):
    path, seen = tmp_path / "sent.json", []
    sink = SimpleNamespace(scalars=lambda step, values: seen.append((step, *values)), close=None)
    for start, lr in ((START, 1), (START._replace(is_resumed=True), 1)):
        once = Once(sink, path, start._replace(config={"TRAIN.LR": lr}))
        once.scalars(3, {"train/loss": 0.5})
        once.scalars(3, {"val/AP": 0.5, "train/loss": 0.5})  # an evaluation after the same step
    assert seen == [(3, "train/loss"), (3, "val/AP")]
    for resumed, lr in ((True, 2), (False, 2)):
        once = Once(sink, path, START._replace(is_resumed=resumed, config={"TRAIN.LR": lr}))
        once.scalars(2, {"train/loss": 0.5})
    path.write_text('{"settings": 3, "last"')  # damaged
    Once(sink, path, START._replace(is_resumed=True)).scalars(2, {"train/loss": 0.5})
    assert seen[2:] == [(2, "train/loss")] * 3


def test_the_id_of_a_run_is_kept_for_its_resumes(tmp_path):
    numbers = iter("abc")
    path = tmp_path / "log/wandb.id"
    ids = [
        id_of_run(path, START._replace(is_resumed=resumed), lambda: next(numbers))
        for resumed in (True, True, False, True)
    ]
    assert ids == ["a", "a", "b", "b"]


# --- the packages themselves ---------------------------------------------------------------


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb, an optional sink, is not installed")
def test_wandb_writes_a_run_offline(config, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(config("LOG.SINKS", "[wandb]"), tmp_path / "run")
    assert warnings_of(caplog) == []
    [file] = (tmp_path / "run/log/wandb").glob("offline-run-*/run-*.wandb")
    for name in (b"train/loss", b"val/AP", b"TRAIN.END_EPOCH"):
        wait_until(lambda name=name: name in file.read_bytes())  # a process of wandb writes it


@pytest.mark.skipif(
    find_spec("mlflow") is None, reason="mlflow, an optional sink, is not installed"
)
def test_mlflow_stores_a_run_and_its_resume(config, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    cfg = config("LOG.SINKS", "[jsonl, mlflow]", "TRAIN.SAVE_STEPS", "1")
    train(cfg, tmp_path / "run")
    train(config("LOG.SINKS", "[jsonl, mlflow]", "TRAIN.END_EPOCH", "3"), tmp_path / "run")
    assert warnings_of(caplog) == []
    from mlflow import MlflowClient

    client, number = MlflowClient(), (tmp_path / "run/log/mlflow.id").read_text()
    run = client.get_run(number)
    assert run.info.status == "FINISHED"
    assert run.data.params["TRAIN.END_EPOCH"] == "2"
    assert len(client.search_runs([run.info.experiment_id])) == 1
    curves = read_scalars(tmp_path / "run/scalars.jsonl")
    for name in ("train/loss", "val/AP"):
        stored = {metric.step: metric.value for metric in client.get_metric_history(number, name)}
        assert stored == pytest.approx(curves[name], rel=1e-5)
