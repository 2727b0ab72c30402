"""Sinks that send scalars elsewhere, in a thread.

No step of a training waits for them, and none of their errors ends it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

logger = logging.getLogger(__name__)

LAST_SECONDS = 20  # that a training waits at its end for what is not sent yet


class Start(NamedTuple):
    """What a sink is told of a run."""

    name: str  # of the run: its output folder
    folder: Path  # LOG_DIR of the run
    config: Mapping[str, Any]  # {"TRAIN.LR": 0.001, ...}
    is_resumed: bool


class Sink(Protocol):
    """A place for scalars; its methods are called in one thread and may raise anything."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Background:
    """Passes scalars to a sink, until it fails: that is logged once, in one line."""

    def __init__(self, name: str, start: Callable[[], Sink]) -> None:
        self.name = name
        self.has_failed = False
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(start,), daemon=True)
        self._thread.start()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if not self.has_failed:
            self._queue.put((step, values))

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(LAST_SECONDS)
        if self._thread.is_alive():
            logger.warning("%s: the last values were not sent in %d s", self.name, LAST_SECONDS)

    def _run(self, start: Callable[[], Sink]) -> None:
        try:
            sink = start()
            while (entry := self._queue.get()) is not None:
                sink.scalars(*entry)
            sink.close()
        except Exception as error:  # of a network, a disk, a login, another version
            self.has_failed = True
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.warning("%s: %s; it gets nothing more of this run", self.name, reason)


def open_sink(name: str, start: Start) -> Background | None:
    """The sink "wandb" or "mlflow"; None, after a line, if its package is not installed."""
    try:
        module = import_module(f"lib.training.{name}_sink")
    except Exception as error:  # its package may be of a version that does not fit
        logger.warning("LOG.SINKS: nothing goes to %s (%s); pip install %s", name, error, name)
        return None
    return Background(name, lambda: module.start(start))


def id_of_run(path: Path, start: Start, make: Callable[[], str]) -> str:
    """The id of a resumed run, from the file at `path`; for a new run a new one, written there."""
    if start.is_resumed and path.exists():
        return path.read_text(encoding="utf-8").strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    number = make()
    path.write_text(number, encoding="utf-8")
    return number
