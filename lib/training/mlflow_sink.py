"""Scalars for MLflow, at MLFLOW_TRACKING_URI or where MLflow stores by default."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from lib.training.background import Start, id_of_run

mlflow: Any = import_module("mlflow")
entities: Any = import_module("mlflow.entities")

BATCH = 100  # settings that one call may have
LONGEST = 500  # characters of a setting


class MlflowRun:
    """A run in the experiment MLFLOW_EXPERIMENT_NAME, else "litepose"; a resume goes on in it."""

    def __init__(self, start: Start) -> None:
        self.client = mlflow.MlflowClient()
        self.id = id_of_run(start.folder / "mlflow.id", start, lambda: self._create(start.name))
        self.client.update_run(self.id, "RUNNING")
        if not start.is_resumed:  # a setting is written once
            settings = [
                entities.Param(name, str(value)[:LONGEST]) for name, value in start.config.items()
            ]
            for first in range(0, len(settings), BATCH):
                self.client.log_batch(self.id, params=settings[first : first + BATCH])

    def _create(self, name: str) -> str:
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "litepose")
        experiment = self.client.get_experiment_by_name(title)
        number = experiment.experiment_id if experiment else self.client.create_experiment(title)
        return self.client.create_run(number, run_name=name).info.run_id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [entities.Metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def close(self) -> None:
        self.client.set_terminated(self.id)


start = MlflowRun
