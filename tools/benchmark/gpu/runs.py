"""The loader, several processes, and a resumed training on the device, with a rendered data set."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from yacs.config import CfgNode

import dist_train
from lib.config import as_opts, load_config
from lib.core.loss import MultiLossFactory
from lib.core.trainer import StepSettings, train_step
from lib.dataset.build import available_cores, build_dataset, make_dataloader
from lib.dataset.samples import collate
from lib.models import build_model, place
from lib.models.arch import ArchSpec
from lib.models.layers.sync import synchronize_norms
from lib.utils.checkpoint import unwrap
from lib.utils.dist import ALONE
from tools.benchmark.gpu.common import (
    ROOT,
    Context,
    Row,
    attempt,
    backends,
    read_network,
    rendered,
)
from tools.benchmark.gpu.parity import state_of
from tools.benchmark.train import random_samples

CFG = ROOT / "experiments/coco/mobilenet/mobile.yaml"
REPEATS = 64  # of the rendered images in an epoch of the loader
COMMAND_SECONDS = 90  # after which a command is ended


def data_opts(context: Context, out: Path) -> dict[str, Any]:
    """A short training on the rendered data set that writes below `out`."""
    return {
        "DATASET.ROOT": rendered(context),
        "OUTPUT_DIR": out / "output",
        "LOG_DIR": out / "log",
        "WORKERS": 0,
        "PRINT_FREQ": 1,
        "VERBOSE": False,
        "DEBUG.DEBUG": False,
        "TRAIN.END_EPOCH": 1,
        "TRAIN.IMAGES_PER_GPU": 4,
        "DATASET.MAX_IMAGES": 16,
    }


def arch_of_runs(context: Context) -> ArchSpec:
    """That of "search-XS" in NETWORKS, at its size."""
    _, arch = read_network(context.network("search-XS"), {})
    assert arch is not None
    return arch


# --- loader -------------------------------------------------------------------------------


def loader_part(device: torch.device, context: Context) -> Iterator[Row]:
    """Samples per second of the training loader, by its number of processes."""
    size, batch = (64, 4) if context.small else (448, 32)
    counts = sorted({min(workers, available_cores()) for workers in (0, 4, 8, 16)})
    for workers in counts:

        def measure(workers: int = workers) -> Row:
            opts = data_opts(context, context.folder) | {
                "WORKERS": workers,
                "TRAIN.IMAGES_PER_GPU": batch,
                "DATASET.MAX_IMAGES": 0,
            }
            cfg = load_config(CFG, as_opts(opts), img_size=size)
            return {"samples/s": loaded_per_second(cfg, 2 * context.seconds)}

        yield attempt({"workers": workers, "px": size, "batch": batch}, measure, device)


def loaded_per_second(cfg: CfgNode, seconds: float) -> float:
    """Samples per second once all processes of the loader work."""
    dataset = build_dataset(cfg)
    dataset.records = dataset.records * REPEATS
    loader = make_dataloader(cfg, dataset)
    batches = iter(loader)
    for _ in range(max(1, loader.num_workers)):  # each has made one
        next(batches)
    begin, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch.images)
        if time.perf_counter() - begin > seconds:
            break
    return count / (time.perf_counter() - begin)


# --- several processes --------------------------------------------------------------------


def ddp_part(device: torch.device, context: Context) -> Iterator[Row]:
    """DDP and synchronized BatchNorm in this process; then torchrun on all GPUs."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    yield attempt(
        {"run": f"DDP of one process, {backend}"}, lambda: compare_ddp(device, context), device
    )
    count = torch.cuda.device_count() if device.type == "cuda" else 2
    yield attempt(
        {"run": f"torchrun, {count} processes, {backend}"},
        lambda: run_torchrun(context, count),
        device,
    )


def compare_ddp(device: torch.device, context: Context) -> Row:
    """Losses and gradient norms of three steps, with and without DDP and SyncBN."""
    network = context.network("search-XS")._replace(batch=4)
    cfg, arch = read_network(network, {})
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    batch = collate(random_samples(cfg, network.batch))
    ids = [torch.cuda.current_device()] if device.type == "cuda" else None
    begin = time.perf_counter()
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.HashStore(),  # pyright: ignore[reportPrivateImportUsage]
        rank=0,
        world_size=1,
        timeout=timedelta(seconds=60),
    )
    try:
        results = []
        for shared in (False, True):
            torch.manual_seed(0)
            model: nn.Module = place(build_model(cfg, arch), device, cfg.MODEL.CHANNELS_LAST)
            if shared:
                synchronized = synchronize_norms(model.train())
                model = nn.parallel.DistributedDataParallel(synchronized, device_ids=ids)
            state = state_of(cfg, model.train(), device)
            with backends(benchmark=False, allow_tf32=False):
                steps = [train_step(state, criterion, settings, [batch]) for _ in range(3)]
            norms = torch.stack(
                [step.gradient_norm for step in steps if step.gradient_norm is not None]
            )
            losses = torch.stack([torch.stack([*step.losses.values()]).sum() for step in steps])
            results.append((losses.cpu(), norms.cpu()))
    finally:
        dist.destroy_process_group()
    (losses, norms), (shared_losses, shared_norms) = results
    return {
        "seconds": time.perf_counter() - begin,
        "loss": shared_losses[-1].item(),
        "first loss, relative": ((shared_losses - losses) / losses)[0].abs().item(),
        "first gradients, relative": ((shared_norms - norms) / norms)[0].abs().item(),
        "third loss, relative": ((shared_losses - losses) / losses)[-1].abs().item(),
    }


def run_torchrun(context: Context, count: int) -> Row:
    """An epoch of four steps by `dist_train.py` with `count` processes and SyncBN."""
    arch = context.folder / "search-XS.json"
    arch_of_runs(context).to_json(arch)
    opts = data_opts(context, context.folder / "torchrun")
    opts |= {"MODEL.SYNC_BN": True, "DATASET.MAX_IMAGES": 16 * count}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={count}", str(ROOT / "dist_train.py")]
    command += ["--cfg", str(CFG), "--superconfig", str(arch), *as_opts(opts)]
    begin = time.perf_counter()
    code, output = run_command(command, COMMAND_SECONDS)
    losses = [float(text) for text in re.findall(r": loss (\S+),", output)]
    row: Row = {"seconds": time.perf_counter() - begin, "exit code": code}
    if losses:
        row["loss"] = losses[-1]
    if code != 0:
        row["error"] = " / ".join(output.strip().splitlines()[-8:])[-1500:]
    return row


def run_command(command: list[str], seconds: float) -> tuple[int, str]:
    """Exit code and output of a command; all its processes end with it."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        end_group(process.pid)
        output, _ = process.communicate(timeout=10)
        output += f"\nended after {seconds:.0f} s"
    finally:
        end_group(process.pid)
    return process.returncode, output


def end_group(process: int) -> None:
    """End a process and all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)


# --- resume -------------------------------------------------------------------------------


def resume_part(device: torch.device, context: Context) -> Iterator[Row]:
    """Weights after two epochs, compared with those of the same run, again and resumed."""
    out = context.folder / "resume"
    for precision, opts in (("float32", {}), ("float16", {"FP16.ENABLED": True})):
        if precision == "float16":
            opts |= {"FP16.DYNAMIC_LOSS_SCALE": True}
        reference: dict[str, Tensor] = {}

        def whole(opts: Any = opts, reference: Any = reference, name: str = precision) -> Row:
            reference |= trained(context, device, out / name / "whole", 2, opts)
            return {"weights": len(reference)}

        def again(opts: Any = opts, reference: Any = reference, name: str = precision) -> Row:
            return weights_differ(
                trained(context, device, out / name / "again", 2, opts), reference
            )

        def resumed(opts: Any = opts, reference: Any = reference, name: str = precision) -> Row:
            trained(context, device, out / name / "resumed", 1, opts)
            return weights_differ(
                trained(context, device, out / name / "resumed", 2, opts), reference
            )

        for run, call in (("two epochs", whole), ("again", again), ("one, then resumed", resumed)):
            yield attempt({"precision": precision, "run": run}, call, device)


def trained(
    context: Context, device: torch.device, out: Path, epochs: int, opts: dict[str, Any]
) -> dict[str, Tensor]:
    """The weights after `epochs`, as `dist_train.py` trains and resumes; deterministic kernels."""
    pairs = data_opts(context, out) | {
        "TRAIN.END_EPOCH": epochs,
        "CUDNN.BENCHMARK": False,
        "CUDNN.DETERMINISTIC": True,
        **opts,
    }
    arch = arch_of_runs(context)
    cfg = load_config(CFG, as_opts(pairs), img_size=arch.img_size)
    out.mkdir(parents=True, exist_ok=True)
    process = ALONE._replace(device=device)
    with backends():
        dist_train.set_backends(cfg)
        model = dist_train.start_model(cfg, arch, process)
        criterion = dist_train.start_criterion(cfg, None, device)
        dist_train.train(cfg, model, criterion, None, process, out, out / "log")
    return {name: value.cpu() for name, value in unwrap(model).state_dict().items()}


def weights_differ(weights: dict[str, Tensor], reference: dict[str, Tensor]) -> Row:
    """Whether all weights and statistics are equal, and the largest difference."""
    pairs = [(weights[name].double(), value.double()) for name, value in reference.items()]
    largest = max((a - b).abs().max().item() for a, b in pairs)
    return {
        "equal": all(torch.equal(a, b) for a, b in pairs),
        "max difference": largest,
        "largest weight": max(value.abs().max().item() for _, value in pairs),
    }
