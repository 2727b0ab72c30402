"""Processes that train together: started by torchrun, or by the flags of the original."""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
import uuid
from argparse import Namespace
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store
from torch.distributed.rendezvous import rendezvous
from yacs.config import CfgNode

from lib.utils import cli
from lib.utils.device import UNTRIED, resolve_device

Result = TypeVar("Result")
ORPHANED = 1.0  # seconds between two looks at the launcher


class Process(NamedTuple):
    """One of `world_size` processes, with its rank and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


ALONE = Process(rank=0, world_size=1, device=torch.device("cpu"))


def choose_device(cfg: CfgNode, gpu: int | str | None = None) -> torch.device:
    """The device --gpu, else GPU torchrun's local rank, else the first of GPUS; else the CPU."""
    if gpu is None:
        gpu = int(os.environ.get("LOCAL_RANK") or cfg.GPUS[0])
    return resolve_device(gpu)


def start_process(cfg: CfgNode, args: Namespace, backend: str | None = None) -> Process:
    """Join the process group, if there are several processes.

    torchrun's environment comes first; else `--world-size N --rank R --dist-url URL` make this
    process rank R of N.

    backend: default: DIST_BACKEND on a GPU, gloo on the CPU.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()
    device = choose_device(cfg, args.gpu)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=cfg.DIST_TIMEOUT)
    is_launched = "WORLD_SIZE" in os.environ and "RANK" in os.environ
    if not is_launched and args.world_size <= 1:
        return Process(0, 1, device)
    if device.type in UNTRIED:
        raise ValueError(f"several processes compute on CUDA GPUs or on CPUs, not on {device}")
    if is_launched:
        store, rank, world_size = next(rendezvous("env://", timeout=timeout))
        store = meet(store, rank, world_size, timeout)
    else:
        rank, world_size = args.rank, args.world_size
        if not 0 <= rank < world_size:
            raise ValueError(f"--rank is {rank}; possible: 0 to {world_size - 1}")
        store = None
    # The group is a default argument of its functions. If an optimizer imported it later, the group
    # would live until the interpreter ends, and its threads could abort the process then.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group(
        backend or (cfg.DIST_BACKEND if device.type == "cuda" else "gloo"),
        init_method=None if store else args.dist_url,
        timeout=timeout,
        rank=rank,
        world_size=world_size,
        store=store,
    )
    return Process(rank, world_size, device)


def end_with_parent() -> None:
    """Send SIGTERM to this process once its parent is gone, so that it saves and ends.

    torchrun ends its processes, but a torchrun that was killed cannot. Only its processes are
    watched: a shell that started one process in the background may end before it.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHANED)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def meet(store: Store, rank: int, world_size: int, timeout: timedelta) -> Store:
    """The part of `store` that belongs to this start of the job; RuntimeError after `timeout`.

    When torchrun restarts a job, the processes get the store of the start before. It still holds
    addresses of processes that are gone, and these must not be read. So rank 0 invents a name for
    this start, and everything goes below that name ("<name>/address" instead of "address"). Nodes
    count their restarts differently, so a counter cannot be that name.

    An example with two processes, after a restart; rank 0 is late, "old" is left from before:

        rank 1: start == "old"; set "old/1" = "me"     nobody answers, try again
        rank 0: set start = "new"; wait for "new/1"
        rank 1: start == "new"; set "new/1" = "me"
        rank 0: new/1 == "me"; set "answer to me"      rank 1 knows that "new" is alive
    """
    name = uuid.uuid4().hex  # of this start on rank 0; of this process on the others
    if rank == 0:
        store.set("start", name)
        for other in range(1, world_size):
            process_name = store.get(f"{name}/{other}").decode()  # waits until it is set
            store.set(f"answer to {process_name}", "")
        return PrefixStore(name, store)
    # The other ranks register below the latest start until rank 0 of a living start answers. The
    # answer is to a name, not to a rank: one to this rank may be left from the start before.
    start, end = "", time.monotonic() + timeout.total_seconds()
    while not store.check([f"answer to {name}"]):
        if time.monotonic() > end:
            raise RuntimeError(f"rank 0 did not join within {timeout}")
        start = store.get("start").decode()  # of the start before, while rank 0 is not there
        store.set(f"{start}/{rank}", name)
        time.sleep(0.05)
    return PrefixStore(start, store)


def store_of_group() -> Store:
    """The keys and values that all processes of the group read and write."""
    return _get_default_store()


def wrap(model: nn.Module, process: Process) -> nn.Module:
    """The model with gradients averaged over all processes (DistributedDataParallel)."""
    if process.world_size == 1:
        return model
    ids = [process.device.index] if process.device.type == "cuda" else None
    unused = getattr(model, "has_unused_parameters", False)  # of a supernet
    return nn.parallel.DistributedDataParallel(model, device_ids=ids, find_unused_parameters=unused)


def gather(process: Process, value: Any) -> list[Any]:
    """On rank 0, the values of all processes in order of rank; on the others, an empty list."""
    if process.world_size == 1:
        return [value]
    values = [None] * process.world_size if process.is_main else None
    dist.gather_object(value, values, dst=0)
    return values or []


def broadcast(process: Process, value: Any) -> Any:
    """Return the `value` of rank 0 on all processes."""
    values = [value]
    if process.world_size > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def from_main(process: Process, work: Callable[[], Result]) -> Result:
    """What `work` returns on rank 0, in all processes; they all raise its ValueError, too."""
    answer = None
    if process.is_main:
        try:
            answer = work()
        except ValueError as error:
            answer = error
    shared = broadcast(process, answer)
    if isinstance(shared, ValueError):
        raise shared
    return shared


def agree(process: Process, work: Callable[[], int]) -> int:
    """Run `work` on rank 0 and return its exit code on all processes.

    Rank 0 prints a user's mistake before any process gets the code: the launcher ends all
    processes as soon as one has failed.
    """
    return broadcast(process, cli.code_of(work) if process.is_main else None)


def share_buffers(model: nn.Module, process: Process) -> None:
    """Copy the BatchNorm statistics of rank 0, which are those that are saved, to all processes."""
    if process.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def all_true(process: Process, flag: Tensor) -> bool:
    """Whether `flag` (one bool on the process's device) is true in all processes."""
    if process.world_size > 1:
        flag = flag.float()
        dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag.item())


def leave(process: Process) -> None:
    """Leave the process group, at the end; torchrun starts one for a single process, too."""
    if process.world_size > 1 or dist.is_initialized():
        dist.destroy_process_group()


def barrier(process: Process) -> None:
    """Wait for the other processes."""
    if process.world_size > 1:
        dist.barrier()
