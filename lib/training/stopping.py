"""Stops training on SIGTERM and SIGINT at the end of a step, the same step in all processes."""

from __future__ import annotations

import signal
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from lib.utils.dist import Process

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Records SIGTERM and SIGINT within `with`; `agreed` returns whether to stop.

    A second SIGINT (Ctrl-C) raises KeyboardInterrupt at once. Several processes vote after each
    step, and read the vote one step later, when it has arrived without waiting:

        step            1    2    3
        rank 1 gets          SIGTERM
        all vote        0    1    1
        all read        -    0    1   -> all stop after step 3
    """

    def __init__(self, process: Process, timeout: float = 1800) -> None:
        self.requested = False
        self._vote = torch.zeros(())
        self._sent: dist.Work | None = None
        self._group = None
        if process.world_size > 1:  # on the CPU: reading the vote must not wait for a GPU
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    def __enter__(self) -> StopRequest:
        # An ignored signal stays ignored: shells start background jobs of scripts that way.
        numbers = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None and self._sent is not None:
            self._sent.wait()

    def agreed(self) -> bool:
        """Whether all processes stop now; call it after each step."""
        if self._group is None:
            return self.requested
        stop = False
        if self._sent is not None:
            self._sent.wait()
            stop = bool(self._vote.item())
        self._vote = torch.tensor(float(self.requested))
        self._sent = dist.all_reduce(
            self._vote, dist.ReduceOp.MAX, group=self._group, async_op=True
        )
        return stop

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


def ignore_sigterm() -> None:
    """Ignore SIGTERM, which torchrun sends to all processes after the first exit with code 75."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
