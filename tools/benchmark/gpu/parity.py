"""The machine, and whether the GPU computes what the CPU does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from yacs.config import CfgNode

import dist_train
from lib.core.group import HeatmapParser
from lib.core.loss import MultiLossFactory
from lib.core.maps import DeviceMaps, HostMaps
from lib.core.trainer import StepSettings, StepState, add_gradients, train_step
from lib.core.views import make_views
from lib.dataset.samples import collate
from lib.models import build_model, place
from lib.models.arch import ArchSpec
from lib.predictor import Predictor
from lib.training.optim import get_optimizer, get_scaler, get_scheduler
from lib.utils.dist import ALONE
from lib.utils.images import read_image
from lib.utils.run_card import hardware
from tools.benchmark.gpu.common import (
    FP16,
    NO_GPU,
    Context,
    Row,
    attempt,
    backends,
    read_network,
    rendered,
    seconds_of,
)
from tools.benchmark.scene import Scene
from tools.benchmark.train import random_samples

CPU = torch.device("cpu")
PRECISIONS: dict[str, tuple[Mapping[str, Any], bool]] = {  # settings, and TF32 in convolutions
    "float32, no TF32": ({}, False),
    "float32, TF32 (the default)": ({}, True),
    "float16, loss scale 65536": (FP16, True),
    "float16, loss scale 1": ({"FP16.ENABLED": True}, True),
}


# --- device -------------------------------------------------------------------------------


def device_part(device: torch.device, context: Context) -> Iterator[Row]:
    """The machine, its bandwidth and the rate of matrix products."""
    for name, value in describe(device).items():
        yield {"name": name, "value": value}
    size, count = (256, 2**20) if context.small else (8192, 2**28)

    def copy() -> Row:
        source, target = torch.rand(2, count, device=device)
        seconds = seconds_of(lambda: target.copy_(source), device, context.seconds / 4)
        return {"value": 2 * source.nbytes / seconds / 1e9}

    yield attempt({"name": "copy, GB/s read and written"}, copy, device)
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("TF32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
        ("float16", torch.float16, False),
    ):

        def product(dtype: torch.dtype = dtype, tf32: bool = tf32) -> Row:
            a = torch.rand(size, size, device=device).to(dtype)
            before = torch.backends.cuda.matmul.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = tf32
            try:
                seconds = seconds_of(lambda: a @ a, device, context.seconds / 4)
            finally:
                torch.backends.cuda.matmul.allow_tf32 = before
            return {"value": 2 * size**3 / seconds / 1e12}

        yield attempt({"name": f"matrix product, {name}, TFLOP/s"}, product, device)


def describe(device: torch.device) -> dict[str, Any]:
    """Names and versions."""
    values: dict[str, Any] = {
        "torch": torch.__version__,
        "CPU": hardware()["cpu"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "?",
        "threads": torch.get_num_threads(),
        "GPU": NO_GPU,
    }
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(0)
        values |= {
            "GPU": facts.name,
            "GPUs": torch.cuda.device_count(),
            "memory, GB": facts.total_memory / 1e9,
            "capability": f"{facts.major}.{facts.minor}",
            "multiprocessors": facts.multi_processor_count,
            "CUDA": torch.version.cuda,
            "driver": driver(),
            "cuDNN": torch.backends.cudnn.version(),
        }
    return values


def driver() -> str:
    """The version of the GPU's driver, where its tool is installed."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "?"
    return " ".join(done.stdout.split())


# --- a step -------------------------------------------------------------------------------


def parity_part(device: torch.device, context: Context) -> Iterator[Row]:
    """Forward pass, losses and gradients of search-XS, compared with float32 on the CPU.

    Differences are norms of the difference over the norm; `max` is the largest absolute one.
    """
    network = context.network("search-XS")._replace(batch=2)
    cfg, arch = read_network(network, {})
    reference = one_step(cfg, arch, CPU)

    def compare(
        opts: Mapping[str, Any], where: torch.device, dtype: torch.dtype, tf32: bool
    ) -> Row:
        with backends(allow_tf32=tf32):
            values = one_step(read_network(network, opts)[0], arch, where, dtype)
        return {
            column: number
            for name, expected in reference.items()
            for column, number in difference(name, values[name], expected).items()
        }

    yield attempt({"step": "CPU, float64"}, lambda: compare({}, CPU, torch.float64, False), CPU)
    for name, (opts, tf32) in PRECISIONS.items():
        labels = {"step": f"{device.type.upper()}, {name}"}
        yield attempt(
            labels,
            lambda opts=opts, tf32=tf32: compare(opts, device, torch.float32, tf32),
            device,
        )


def one_step(
    cfg: CfgNode, arch: ArchSpec | None, device: torch.device, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Outputs, loss terms and unscaled gradients of two of 64 images, on the CPU in float64."""
    torch.manual_seed(0)
    model = place(build_model(cfg, arch), device, cfg.MODEL.CHANNELS_LAST).to(dtype).train()
    state = state_of(cfg, model, device)
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    batch = collate(random_samples(cfg, 2)).to(device)
    views = make_views(batch, [None], settings)
    views = [view._replace(images=view.images.to(dtype)) for view in views]
    outputs, terms = add_gradients(state, criterion, settings, views, share=len(batch.images) / 64)
    state.scaler.unscale_(state.optimizer)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    values = {f"output {i}": output for i, output in enumerate(outputs)}
    values["losses"] = torch.stack([*terms.values()])
    values["gradients"] = torch.cat([gradient.flatten().cpu().double() for gradient in gradients])
    with torch.no_grad():
        values["evaluation"] = model.eval()(views[0].images)[-1]
    return {name: value.detach().cpu().double() for name, value in values.items()}


def state_of(cfg: CfgNode, model: torch.nn.Module, device: torch.device) -> StepState:
    """The state of a training of `model` before its first step."""
    optimizer = get_optimizer(cfg, model)
    return StepState(
        model=model,
        optimizer=optimizer,
        scheduler=get_scheduler(cfg, optimizer, 1),
        scaler=get_scaler(cfg, device),
        process=ALONE._replace(device=device),
    )


def difference(name: str, value: Tensor, expected: Tensor) -> dict[str, float]:
    """The relative and the largest absolute difference."""
    error = value.flatten() - expected.flatten()
    relative = error.norm() / expected.norm().clamp(min=1e-30)
    return {f"{name}, relative": relative.item(), f"{name}, max": error.abs().max().item()}


# --- decoding -----------------------------------------------------------------------------


def people_part(device: torch.device, context: Context) -> Iterator[Row]:
    """Decoding of equal maps, and whole predictions, on the CPU and on the device."""
    cfg, _ = read_network(context.network("search-XS"), {})
    parser = HeatmapParser(cfg)
    height, width = (64, 96) if context.small else (448, 640)
    for people in (0, 2, 20, 40):
        scene = Scene(people, parser.params.num_joints, height, width, 2, seed=people, upsampling=4)

        def decode(scene: Scene = scene) -> Row:
            det, tag = scene.render()
            maps = DeviceMaps(torch.from_numpy(det).to(device), torch.from_numpy(tag).to(device))
            return same_people(parser.group(HostMaps(det, tag)), parser.group(maps))

        yield attempt({"people of": f"maps with {people} people"}, decode, device)
    yield attempt({"people of": "rendered images"}, lambda: predict_both(device, context), device)


def same_people(host: Sequence[Any], other: Sequence[Any]) -> Row:
    """How far two results of decoding differ."""
    row: Row = {"CPU": len(host[0]), "device": len(other[0])}
    if host[0].shape == other[0].shape:
        row["max difference"] = float(np.abs(host[0] - other[0]).max(initial=0))
        row["scores"] = float(np.abs(np.subtract(host[1], other[1])).max(initial=0))
    return row


def predict_both(device: torch.device, context: Context) -> Row:
    """Keypoints of rendered images, without TF32, by the network that comes with the project."""
    files = sorted((rendered(context) / "images").rglob("*.jpg"))[:4]
    images = [read_image(file) for file in files]
    results = []
    for where in (CPU, device):
        predictor = Predictor.load("litepose-xs-crowdpose", device=where)
        with backends(allow_tf32=False):
            results.append([predictor(image) for image in images])
    rows = [
        same_people((a.keypoints, a.scores), (b.keypoints, b.scores))
        for a, b in zip(*results, strict=True)
    ]
    return {
        "CPU": sum(row["CPU"] for row in rows),
        "device": sum(row["device"] for row in rows),
        "max difference": max(row.get("max difference", np.inf) for row in rows),
        "scores": max(row.get("scores", np.inf) for row in rows),
    }


# --- synchronization ----------------------------------------------------------------------

STEPS: dict[str, Mapping[str, Any]] = {
    "float32": {},
    "float32, clipped": {"TRAIN.CLIP_NORM": 1.0},
    "float32, SGD, unbiased codec": {"TRAIN.OPTIMIZER": "sgd", "MODEL.CODEC": "unbiased"},
    "float16": FP16,
    "float16, clipped": {**FP16, "TRAIN.CLIP_NORM": 1.0},
}


def no_sync_part(device: torch.device, context: Context) -> Iterator[Row]:
    """Whether a training step never waits for the GPU."""
    if device.type != "cuda":
        yield {"step": "all", "waits": NO_GPU}
        return
    for name, opts in STEPS.items():
        yield attempt(
            {"step": name},
            lambda opts=opts: step_without_waiting(context, "search-XS", opts),
            device,
        )
    sandwich = {**FP16, "SUPERNET.SAMPLING": "sandwich"}
    yield attempt(
        {"step": "supernet, sandwich"},
        lambda: step_without_waiting(context, "supernet", sandwich),
        device,
    )


def step_without_waiting(context: Context, name: str, opts: Mapping[str, Any]) -> Row:
    """A step in the mode in which CUDA reports each wait as an error, after one to allocate."""
    device = torch.device("cuda")
    cfg, arch = read_network(context.network(name)._replace(size=256), opts)
    process = ALONE._replace(device=device)
    model = dist_train.start_model(cfg, arch, process).train()
    state, plan = state_of(cfg, model, device), dist_train.supernet_plan(cfg, model)
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    batch = tree_map_only(Tensor, Tensor.pin_memory, collate(random_samples(cfg, 2)))
    archs, imitate = (plan.archs(0), plan.imitate) if plan else ([None], None)
    for mode in ("default", "error"):
        torch.cuda.set_sync_debug_mode(mode)
        try:
            train_step(state, criterion, settings, [batch], archs, imitate)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {"waits": "never"}
