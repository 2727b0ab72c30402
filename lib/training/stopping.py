"""Being asked to stop: SIGTERM and SIGINT wait for the end of a step, the same in all processes."""

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
    """Within `with`, signals are noted, and `agreed` says at the end of each step what they mean.

    A second SIGINT (Ctrl-C) does not wait: KeyboardInterrupt. Several processes vote; a vote is
    read one step after it was cast, so nobody waits for it, and all read the same one.
    """

    def __init__(self, process: Process, timeout: float = 1800) -> None:
        self.asked = False
        self._vote: torch.Tensor | None = None
        self._sent: dist.Work | None = None
        self._group = None
        if process.world_size > 1:  # on the CPU: reading the vote must not wait for a GPU
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None and self._sent is not None:
            self._sent.wait()

    def agreed(self) -> bool:
        """Call at the end of each step: whether this one is the last."""
        if self._group is None:
            return self.asked
        stop = False
        if self._sent is not None:
            self._sent.wait()
            stop = bool(self._vote.item())
        self._vote = torch.tensor(float(self.asked))
        self._sent = dist.all_reduce(
            self._vote, dist.ReduceOp.MAX, group=self._group, async_op=True
        )
        return stop

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


def ignore_end() -> None:
    """torchrun ends the others once one process has left: let each leave with its own code."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
