"""The files for clusters run commands that exist."""

from __future__ import annotations

import shlex
import subprocess
from types import SimpleNamespace

import pytest
import yaml

from lib.config import load_config
from lib.models.arch import ArchSpec
from tests.faults.jobs import wait_until
from tests.helpers import ROOT

CLUSTER = ROOT / "examples/cluster"


def commands() -> dict[str, str]:
    """{file: the command line of its training}"""
    job = yaml.safe_load((CLUSTER / "trainjob.yaml").read_text("utf-8"))["spec"]["trainer"]
    task = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text("utf-8"))
    [line] = [
        line
        for line in (CLUSTER / "slurm.sh").read_text("utf-8").splitlines()
        if line.startswith("A=")
    ]
    return {
        "trainjob.yaml": shlex.join([*job["command"], *job["args"]]),
        "skypilot.yaml": task["run"].replace("\\\n", " "),
        "slurm.sh": line.removeprefix('A="').removesuffix('"'),
    }


@pytest.mark.parametrize("name", ["trainjob.yaml", "skypilot.yaml", "slurm.sh"])
def test_the_files_and_keys_of_a_command_exist(name):
    words = shlex.split(commands()[name].replace("=", " "))
    flags = {flag: words[words.index(flag) + 1] for flag in ("--cfg", "--superconfig")}
    opts = words[words.index("--superconfig") + 2 :]
    arch = ArchSpec.from_json(ROOT / flags["--superconfig"])
    cfg = load_config(ROOT / flags["--cfg"], opts, img_size=arch.img_size)
    assert cfg.TRAIN.SAVE_STEPS == 500


@pytest.mark.parametrize("name", ["skypilot.yaml", "slurm.sh"])
def test_scripts_parse(name):
    text = (CLUSTER / name).read_text("utf-8")
    script = yaml.safe_load(text)["run"] if name.endswith("yaml") else text
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_image_has_what_requirements_name():
    """PyTorch is installed alone, from an index that has the build for a CPU."""
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    assert "grep ^torch== requirements.txt" in dockerfile
    pins = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert sum(pin.startswith("torch==") for pin in pins) == 1


TRAINING = """
import signal, sys, time
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("OUTPUT_DIR") + 1]) / "a/b/c"
folder.mkdir(parents=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit((folder / "stopped").write_text("") or 75))
for step in (1, 2):
    with (folder / "scalars.jsonl").open("a") as file:
        file.write(f'{{"step": {step}, "val/AP": {0.3 / step}}}\\n')
    time.sleep(float(sys.argv[1]))
"""


@pytest.mark.parametrize(("least", "seconds"), [(0.0, "0"), (0.5, "60")])
def test_a_sweep_reads_ap_while_a_training_runs(tmp_path, monkeypatch, least, seconds):
    optuna = pytest.importorskip("optuna", reason="optuna, an optional tool, is not installed")
    from examples import sweep

    (tmp_path / "training.py").write_text(TRAINING)
    monkeypatch.setattr(sweep, "TRAIN", [str(tmp_path / "training.py"), seconds])
    monkeypatch.setattr(sweep, "FOLDER", tmp_path)
    study = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=least)
    )
    study.optimize(sweep.objective, n_trials=1)
    [trial] = study.trials
    was_stopped = (tmp_path / "trial-0/a/b/c/stopped").exists()
    if least:
        assert (trial.state.name, trial.intermediate_values) == ("PRUNED", {1: 0.3})
        assert was_stopped
    else:
        assert (trial.state.name, trial.value) == ("COMPLETE", 0.3)
        assert not was_stopped


def test_a_worker_that_is_interrupted_ends_its_training(tmp_path, monkeypatch):
    optuna = pytest.importorskip("optuna", reason="optuna, an optional tool, is not installed")
    from examples import sweep

    def interrupted(_: float) -> None:
        wait_until(lambda: any(tmp_path.rglob("scalars.jsonl")))
        raise KeyboardInterrupt

    (tmp_path / "training.py").write_text(TRAINING)
    monkeypatch.setattr(sweep, "TRAIN", [str(tmp_path / "training.py"), "60"])
    monkeypatch.setattr(sweep, "FOLDER", tmp_path)
    monkeypatch.setattr(sweep, "time", SimpleNamespace(sleep=interrupted))
    with pytest.raises(KeyboardInterrupt):
        optuna.create_study().optimize(sweep.objective, n_trials=1)
    assert (tmp_path / "trial-0/a/b/c/stopped").exists()
