"""Files that TensorBoard reads."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

logger = logging.getLogger(__name__)

# Protobuf makes these classes at run time.
_EVENTS: Any = event_pb2
_SUMMARIES: Any = summary_pb2
Event, SessionLog, Summary = _EVENTS.Event, _EVENTS.SessionLog, _SUMMARIES.Summary
_count = itertools.count()


class EventFile:
    """A TensorBoard file whose events are written one by one, when they are added.

    It never ends a training: an error of the disk is logged once, and nothing is written after it.
    (torch's SummaryWriter writes in a thread, where such an error is a wait without end, or is
    raised by any later call.)
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Start a file in `folder`; events of earlier files after `step` are hidden."""
        self.folder = folder
        self.writer: RecordWriter | None = None
        ids = (f"{int(time.time()):010}", socket.gethostname(), os.getpid(), next(_count))
        name = ".".join(["events.out.tfevents", *map(str, ids)])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.writer = RecordWriter((folder / name).open("wb"))
        except OSError as error:
            logger.warning("no TensorBoard files in %s: %s", folder, error.strerror)
        self._write(Event(file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(session_log=start, step=step + 1))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        entries = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(summary=Summary(value=entries), step=step))

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """image: (H, W, 3) uint8 RGB."""
        self._write(Event(summary=summary.image(name, image, dataformats="HWC"), step=step))

    def text(self, name: str, text: str, step: int) -> None:
        self._write(Event(summary=summary.text(name, text), step=step))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def _write(self, event: Any) -> None:
        if self.writer is None:
            return
        event.wall_time = time.time()
        try:
            self.writer.write(event.SerializeToString())
            self.writer.flush()
        except OSError as error:
            logger.warning("TensorBoard files in %s end here: %s", self.folder, error.strerror)
            self.writer = None
