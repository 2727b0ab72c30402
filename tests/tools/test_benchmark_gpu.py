"""The measurements of a GPU run on a CPU, at small sizes; a part that fails stops nothing."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.helpers import ROOT
from tools.benchmark import __main__ as benchmark
from tools.benchmark.gpu import common, run

CPU = torch.device("cpu")


@pytest.fixture
def measured(tmp_path, capsys):
    """Run parts; the report, and what was printed."""

    def go(*flags: str):
        path = tmp_path / "gpu.json"
        benchmark.main(["gpu", "--seconds", "0", "--out", str(path), *flags])
        return json.loads(path.read_text("utf-8")), capsys.readouterr().out

    gc.freeze()  # each row collects garbage: a second among the objects of thousands of tests
    yield go
    gc.unfreeze()


@pytest.fixture
def parts(monkeypatch):
    """The table of parts, to change."""
    monkeypatch.setattr(run, "PARTS", dict(run.PARTS))
    return run.PARTS


def test_parts_measure_something_on_a_cpu(measured):
    names = ["device", "people", "inference", "decode", "targets", "no-sync", "compile"]
    report, out = measured("--parts", *names)
    assert list(report["parts"]) == names
    for name, entry in report["parts"].items():
        assert entry["status"] == "done", entry
        assert entry["rows"]
        assert not any("error" in row for row in entry["rows"]), entry
        assert f"## {name}" in out
    assert "no CUDA device" in out
    same = report["parts"]["people"]["rows"]
    assert all(row["CPU"] == row["device"] and row["max difference"] == 0 for row in same)


def test_a_part_that_fails_stops_nothing(measured, parts):
    def fails(device, context):
        yield {"figure": 1.0}
        yield common.attempt({"figure": 2.0}, lambda: {"ratio": 1 // 0}, device)
        raise OSError("first line\nsecond line")

    parts |= {"train": fails, "loader": lambda *_: iter([{"figure": float("nan")}])}
    report, out = measured("--parts", "train", "loader")
    [first, second, last] = report["parts"]["train"]["rows"]
    assert first == {"figure": 1.0}
    assert second["error"].startswith("ZeroDivisionError: ")
    assert "test_benchmark_gpu.py:" in second["error"]
    assert last["error"].startswith("OSError: first line (")
    assert report["parts"]["train"]["status"] == "failed"
    assert report["parts"]["loader"]["rows"] == [{"figure": "nan"}]
    assert "parts: 1 failed, 1 done; 2 errors" in out


def test_a_part_ends_at_its_limit_and_those_after_the_budget_do_not_start(measured, parts):
    def sleeps(device, context):
        yield {"figure": 1.0}
        time.sleep(60)

    parts |= {"train": sleeps}
    report, _ = measured("--parts", "train", "device", "--budget", "0.3")
    entry = report["parts"]["train"]
    assert entry["status"] == "failed"
    assert entry["rows"][0] == {"figure": 1.0}
    assert entry["rows"][1]["error"].startswith("Timeout: ")
    assert report["parts"]["device"] == {"status": "not started", "rows": []}


def test_a_kept_report_is_continued(measured, parts):
    calls = []

    def counted(device, context):
        calls.append(1)
        yield {"figure": len(calls)}

    parts |= {"train": counted, "loader": counted}
    measured("--parts", "train")
    report, _ = measured("--parts", "train", "loader", "--keep")
    assert [report["parts"][name]["rows"] for name in ("train", "loader")] == [
        [{"figure": 1}],
        [{"figure": 2}],
    ]


def test_an_unknown_part_is_named_in_one_line(measured):
    with pytest.raises(ValueError, match=r"^--parts: there is no part 'speed'; parts: device, .*$"):
        measured("--parts", "device", "speed")


STUCK = """
import signal, sys, time
from tools.benchmark import __main__ as benchmark
from tools.benchmark.gpu import run
def lost(device, context):
    yield {"figure": 1.0}
    raise run.DeviceLost("CUDA error")
def hangs(device, context):
    yield {"figure": 1.0}
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(600)
_, kind, limit, out = sys.argv
run.PARTS["train"], run.GRACE, run.LIMITS["train"] = globals()[kind], 0.5, float(limit)
benchmark.main(["gpu", "--out", out, "--parts", "train", "compile"])
"""


def start_stuck(kind: str, limit: float, out) -> subprocess.Popen:
    """A run whose first part is `kind`."""
    command = [sys.executable, "-c", STUCK, kind, str(limit), str(out)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("kind", ["lost", "hangs"])
def test_another_process_continues_after_a_part_that_cannot_be_ended(tmp_path, kind):
    process = start_stuck(kind, 0.5, tmp_path / "gpu.json")
    assert process.wait(120) == 0
    report = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    assert report["parts"]["train"]["status"] == "failed"
    assert report["parts"]["train"]["rows"][0] == {"figure": 1.0}
    assert report["parts"]["compile"]["status"] == "done"


def test_a_killed_run_leaves_its_rows(tmp_path):
    path = tmp_path / "gpu.json"
    process = start_stuck("hangs", 600, path)
    end = time.monotonic() + 60
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    entry = json.loads(path.read_text("utf-8"))["parts"]["train"]
    assert entry["status"] == "running"
    assert entry["rows"] == [{"figure": 1.0}]


def test_best_speeds_are_ours():
    rows = [
        {"network": "search-XS", "step": "plain eager, float32", "images/s": 9.0},
        {"network": "search-XS", "step": "ours, float32", "images/s": 5.0},
        {"network": "search-XS", "step": "ours, float16", "images/s": 7.0},
        {"network": "search-S", "step": "ours, float32", "error": "OutOfMemoryError: no memory"},
    ]
    assert run.speed.best_speeds(rows) == {"search-XS": ("ours, float16", 7.0)}


@pytest.mark.slow
def test_parts_that_train_run_on_a_cpu(measured, monkeypatch):
    monkeypatch.setattr(run.speed, "STEPS", {"plain": None, "ours, float32": {}})
    names = ["parity", "train", "epochs", "methods", "depthwise", "loader", "resume", "ddp"]
    report, _ = measured("--parts", *names)
    for entry in report["parts"].values():
        assert entry["status"] == "done"
        assert not any("error" in row for row in entry["rows"]), entry
    rows = {name: entry["rows"] for name, entry in report["parts"].items()}
    assert rows["parity"][1]["gradients, relative"] == 0  # the same device and precision
    assert [row["equal"] for row in rows["resume"] if "equal" in row] == [True] * 4
    assert all(row.get("difference, relative", 0) == 0 for row in rows["methods"])
    assert all(row["loss"] < 10 for row in rows["ddp"])
    assert any(row["recipe"].startswith("crowd_pose/") for row in rows["epochs"])


def test_it_needs_no_package_for_video():
    """A GPU machine may lack PyAV, which only tracking reads clips with."""
    code = "import sys; sys.modules['av'] = None; from tools.benchmark.__main__ import parse_args; "
    code += "print(parse_args(['gpu', '--budget', '7']).budget)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "7.0\n"), done.stderr
