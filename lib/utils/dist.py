"""One process, or several started by torchrun (or by the original's flags)."""

from __future__ import annotations

import json
import os
import time
import uuid
from argparse import Namespace
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.utils import cli


class Process(NamedTuple):
    """Who this process is, and what it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


ALONE = Process(0, 1, torch.device("cpu"))  # whoever shares nothing with anybody


def choose_device(cfg: CfgNode, gpu: int | None = None) -> torch.device:
    """--gpu, else torchrun's local rank, else the first of GPUS; the CPU where there is no GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if gpu is None:
        gpu = int(os.environ.get("LOCAL_RANK", cfg.GPUS[0]))
    if gpu >= torch.cuda.device_count():
        raise ValueError(f"there is no GPU {gpu}; this machine has {torch.cuda.device_count()}")
    return torch.device("cuda", gpu)


def start_process(cfg: CfgNode, args: Namespace) -> Process:
    """Join the other processes, if there are any.

    torchrun's environment comes first; else `--world-size N --rank R --dist-url URL` make this
    process the R-th of N.
    """
    device = choose_device(cfg, args.gpu)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=cfg.DIST_TIMEOUT)
    backend = cfg.DIST_BACKEND if device.type == "cuda" else "gloo"
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        store, rank, world_size = next(dist.rendezvous("env://", timeout=timeout))
        store = meet(store, rank, world_size, timeout)
        dist.init_process_group(
            *(backend, None, timeout), rank=rank, world_size=world_size, store=store
        )
    elif args.world_size > 1:
        if not 0 <= args.rank < args.world_size:
            raise ValueError(f"--rank is {args.rank}; possible: 0 to {args.world_size - 1}")
        dist.init_process_group(
            *(backend, args.dist_url, timeout),
            rank=args.rank,
            world_size=args.world_size,
        )
    else:
        return Process(0, 1, device)
    return Process(dist.get_rank(), dist.get_world_size(), device)


def meet(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    """The part of `store` that the processes of this start of the job have for themselves.

    A job that torchrun starts again gets the store of the one before: what that has left there, as
    addresses at which nobody is, must not be read. Each node counts the starts by itself, and some
    start again more often than others; so the first process gives each start a name, and answers
    whoever asks for it under a name of its own. RuntimeError after `timeout`.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("start", own)
        for other in range(1, world_size):
            asker = store.get(f"{own}/{other}").decode()
            store.set(f"answer to {asker}", "")
        return dist.PrefixStore(own, store)
    name, until = "", time.monotonic() + timeout.total_seconds()
    while not store.check([f"answer to {own}"]):
        if time.monotonic() > until:
            raise RuntimeError(f"the first process has not come within {timeout}")
        name = store.get("start").decode()  # of the start before, until the first process is there
        store.set(f"{name}/{rank}", own)
        time.sleep(0.05)
    return dist.PrefixStore(name, store)


def wrap(model: nn.Module, process: Process) -> nn.Module:
    """The model as this process trains it: with gradients averaged over all processes."""
    if process.world_size == 1:
        return model
    ids = [process.device.index] if process.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids)


def gather_json(process: Process, value: Any) -> list[Any]:
    """On the first process, what each of them gave, by rank; nothing on the others.

    JSON text crosses as bytes in tensors: nothing is pickled, and no file system is shared.
    """
    if process.world_size == 1:
        return [value]
    own = _to_bytes(value)
    lengths = [torch.zeros_like(_length(own)) for _ in range(process.world_size)]
    dist.all_gather(lengths, _length(own))
    longest = int(max(lengths))
    padded = F.pad(own, (0, longest - len(own)))
    gathered = [torch.empty_like(padded) for _ in lengths] if process.is_main else None
    dist.gather(padded, gathered, dst=0)
    if gathered is None:
        return []
    return [_from_bytes(text[:n]) for text, n in zip(gathered, map(int, lengths), strict=True)]


def broadcast_json(process: Process, value: Any) -> Any:
    """The first process's `value`, on all; the others wait for it."""
    if process.world_size == 1:
        return value
    own = _to_bytes(value)
    length = _length(own)
    dist.broadcast(length, src=0)
    text = own if process.is_main else own.new_empty(int(length))
    dist.broadcast(text, src=0)
    return _from_bytes(text)


def agree(process: Process, work: Callable[[], int]) -> int:
    """The exit code of what the first process does, on all; the others wait for it.

    A user's mistake has been told before anybody gets its code: the launcher ends all processes
    as soon as one has failed.
    """
    return broadcast_json(process, cli.code_of(work) if process.is_main else None)


def share_buffers(model: nn.Module, process: Process) -> None:
    """Give all processes the first one's BatchNorm statistics, which are those that are saved."""
    if process.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def all_true(process: Process, flag: Tensor) -> bool:
    """Whether `flag`, one bool on the process's device, is true in all processes."""
    if process.world_size > 1:
        flag = flag.float()
        dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag.item())


def leave(process: Process) -> None:
    """Part from the other processes, at the end."""
    if process.world_size > 1:
        dist.destroy_process_group()


def barrier(process: Process) -> None:
    """Wait for the other processes."""
    if process.world_size > 1:
        dist.barrier()


def _to_bytes(value: Any) -> Tensor:
    """(n,) uint8: JSON, where the process group takes it."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)


def _from_bytes(text: Tensor) -> Any:
    return json.loads(text.cpu().numpy().tobytes())


def _length(text: Tensor) -> Tensor:
    return torch.tensor([len(text)], device=text.device)
