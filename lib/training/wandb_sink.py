"""Scalars for Weights & Biases; WANDB_MODE=offline, WANDB_PROJECT and others are its variables."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from lib.training.background import Start, id_of_run

wandb: Any = import_module("wandb")


class WandbRun:
    """A run whose x axis is the step of the training; a resume goes on in it."""

    def __init__(self, start: Start) -> None:
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "litepose"),
            name=start.name,
            id=id_of_run(start.folder / "wandb.id", start, lambda: uuid.uuid4().hex[:12]),
            resume="allow",
            dir=str(start.folder),
            config=dict(start.config),
            settings=wandb.Settings(console="off"),  # it would wrap stdout from this thread
        )
        # Steps of its own must rise; after a resume from an earlier checkpoint ours do not.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({"step": step, **values})

    def close(self) -> None:
        self.run.finish()


start = WandbRun
