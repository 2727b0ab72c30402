"""Tune two settings of a training with Optuna; each worker runs this same command.

    python -m tools.make_synthetic --root data/synthetic --train 1000 --val 60 --people 1-3
    python -m examples.sweep & python -m examples.sweep & wait

The study is a file: workers on several machines need a shared folder, and no server.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from lib.config import as_opts
from lib.training.scalars import read_scalars
from lib.utils import cli

TRIALS = 8  # of all workers together
FOLDER = Path("output/sweep")
TRAIN = [
    "dist_train.py",
    "--cfg=experiments/synthetic/quickstart.yaml",
    "--superconfig=experiments/synthetic/narrow.json",
]


def objective(trial: optuna.Trial) -> float:
    """The best AP of a training, which is stopped where its AP is below that of others."""
    factor = trial.suggest_float("factor of the tag losses", 1e-3, 1e-1, log=True)
    folder = FOLDER / f"trial-{trial.number}"
    settings = {
        "TRAIN.LR": trial.suggest_float("TRAIN.LR", 3e-4, 3e-2, log=True),
        "LOSS.PUSH_LOSS_FACTOR": [factor, factor],
        "LOSS.PULL_LOSS_FACTOR": [factor, factor],
        "TRAIN.IMAGES_PER_GPU": 8,
        "TRAIN.VALIDATE_EVERY": 1,
        "WORKERS": 0,
        "OUTPUT_DIR": folder,
        "LOG_DIR": folder,
    }
    run = subprocess.Popen([sys.executable, *TRAIN, *as_opts(settings)], stdout=subprocess.DEVNULL)
    reported = 0
    try:
        while run.poll() is None:
            time.sleep(1)
            for epoch, ap in list(enumerate(aps_of(folder), start=1))[reported:]:
                trial.report(ap, step=epoch)
                reported = epoch
                if trial.should_prune():
                    raise optuna.TrialPruned
    finally:
        run.terminate()  # pruned, or this worker ends: it saves a checkpoint
        run.wait()
    if run.returncode:  # such as a non-finite loss
        raise optuna.TrialPruned(f"exit code {run.returncode}")
    return max(aps_of(folder))


def aps_of(folder: Path) -> list[float]:
    """AP after each epoch so far."""
    for path in folder.rglob("scalars.jsonl"):
        return list(read_scalars(path).get("val/AP", {}).values())
    return []


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name="sweep",
        storage=JournalStorage(JournalFileBackend(str(FOLDER / "journal.log"))),
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    done = (TrialState.COMPLETE, TrialState.PRUNED)
    study.optimize(objective, callbacks=[MaxTrialsCallback(TRIALS, states=done)])
    print(f"AP {study.best_value:.3f} with {study.best_params}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: its training ends, too
    cli.run(main)
