"""Sinks that send scalars elsewhere, in a thread.

No step of a training waits for them, and none of their errors ends it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lib.utils.files import atomic_write
from lib.utils.text import first_line

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
            logger.warning("%s: %s; it gets nothing more of this run", self.name, first_line(error))


class Once:
    """A sink that gets no point twice when a run resumes with the same settings.

    Such a run repeats the steps after its checkpoint exactly. With other settings they have other
    values, and all are sent. A file has the last step of each name.
    """

    def __init__(self, sink: Sink, path: Path, start: Start) -> None:
        self.sink = sink
        self.path = path
        text = json.dumps(start.config, sort_keys=True, default=str)
        self.settings = hashlib.sha256(text.encode()).hexdigest()
        self.last: dict[str, int] = {}  # name -> step
        if start.is_resumed:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                record = json.loads(path.read_text(encoding="utf-8"))
                if record["settings"] == self.settings:
                    self.last = {str(name): int(step) for name, step in record["last"].items()}

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        new = {name: value for name, value in values.items() if step > self.last.get(name, -1)}
        if not new:
            return
        self.sink.scalars(step, new)
        self.last |= dict.fromkeys(new, step)
        with contextlib.suppress(OSError):  # points may then be sent twice
            atomic_write(self.path, json.dumps({"settings": self.settings, "last": self.last}))

    def close(self) -> None:
        self.sink.close()


def open_sink(name: str, start: Start) -> Background | None:
    """The sink "wandb" or "mlflow"; None, after a line, if its package is not installed."""
    try:
        module = import_module(f"lib.training.{name}_sink")
    except Exception as error:  # its package may be of a version that does not fit
        logger.warning("LOG.SINKS: nothing goes to %s (%s); pip install %s", name, error, name)
        return None
    sent = start.folder / f"{name}.sent.json"
    return Background(name, lambda: Once(module.start(start), sent, start))


def id_of_run(path: Path, start: Start, make: Callable[[], str]) -> str:
    """The id of a resumed run, from the file at `path`; for a new run a new one, written there."""
    if start.is_resumed and path.exists():
        return path.read_text(encoding="utf-8").strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    number = make()
    path.write_text(number, encoding="utf-8")
    return number
