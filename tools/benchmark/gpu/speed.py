"""Speed of training steps, forward passes, depthwise layers and decoding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from lib.config import load_config
from lib.core.group import HeatmapParser
from lib.models import build_model, place
from lib.utils.device import half_precision
from tools.benchmark.depthwise import layer_calls, shapes_of
from tools.benchmark.gpu.common import (
    FP16,
    NO_GPU,
    ROOT,
    Context,
    Row,
    attempt,
    backends,
    forget_peak,
    numbered,
    peak_mb,
    read_network,
    seconds_of,
)
from tools.benchmark.scene import Scene
from tools.benchmark.train import our_step, plain_step, random_samples

CONTIGUOUS = {"MODEL.CHANNELS_LAST": False}
NO_SEARCH = {"CUDNN.BENCHMARK": False}
PLAIN = "plain eager, float32"
STEPS: dict[str, Mapping[str, Any] | None] = {  # None: the plain step
    PLAIN: None,
    "ours, float32": {},
    "ours, float16": FP16,
}
VARIANTS: dict[str, Mapping[str, Any]] = {
    "ours, float16, contiguous": FP16 | CONTIGUOUS,
    "ours, float32, contiguous": CONTIGUOUS,
    "ours, float16, CUDNN.BENCHMARK False": FP16 | NO_SEARCH,
    "ours, float32, CUDNN.BENCHMARK False": NO_SEARCH,
}
COMPILED = {"MODEL.COMPILE": True}
IMAGES = {"COCO": 64_115, "CrowdPose": 12_000}  # of an epoch


# --- training -----------------------------------------------------------------------------


def train_part(device: torch.device, context: Context) -> Iterator[Row]:
    """Images per second of training steps: plain PyTorch and ours."""
    for step, opts in STEPS.items():
        for name in ("search-XS", "search-S", "supernet"):
            yield train_row(context, device, name, step, opts)


def variants_part(device: torch.device, context: Context) -> Iterator[Row]:
    """As `train_part`, in the other memory format and without cuDNN's search for kernels."""
    for step, opts in VARIANTS.items():
        for name in ("search-XS", "search-S", "supernet"):
            if name != "supernet" or "contiguous" not in step:
                yield train_row(context, device, name, step, opts)


def compile_part(device: torch.device, context: Context) -> Iterator[Row]:
    """The steps of search-XS with MODEL.COMPILE True; the first call compiles."""
    for step, opts in (("compiled, float16", FP16 | COMPILED), ("compiled, float32", COMPILED)):
        if device.type == "cuda":
            yield train_row(context, device, "search-XS", step, opts)
        else:
            yield {"network": "search-XS", "step": step, "images/s": NO_GPU}


def train_row(
    context: Context, device: torch.device, name: str, step: str, opts: Mapping[str, Any] | None
) -> Row:
    """Images per second and peak memory of one kind of step."""
    network = context.network(name)

    def measure() -> Row:
        cfg, arch = read_network(network, opts or {})
        samples = random_samples(cfg, network.batch)
        forget_peak(device)
        with backends(benchmark=cfg.CUDNN.BENCHMARK):
            if opts is None:  # its targets are made beforehand, as if by loader processes
                call = plain_step(cfg, arch, samples, device, once=True)
            else:
                call = our_step(cfg, arch, samples, device)
            seconds = seconds_of(numbered(call), device, context.seconds)
        return {
            "images/s": network.batch / seconds,
            "ms a step": 1000 * seconds,
            "peak MB": peak_mb(device),
        }

    labels = {"network": name, "px": network.size, "batch": network.batch, "step": step}
    return attempt(labels, measure, device)


# --- inference ----------------------------------------------------------------------------


def inference_part(device: torch.device, context: Context) -> Iterator[Row]:
    """Images per second of forward passes, without the flip test and without decoding."""
    for name in ("search-XS", "search-S"):
        network = context.network(name)
        for batch in (1, 2 if context.small else 32):
            for half in (False, True):
                labels = {"network": name, "px": network.size, "batch": batch}
                labels["precision"] = "float16" if half else "float32"
                if half and device.type != "cuda":
                    yield {**labels, "images/s": NO_GPU}
                    continue

                def measure(name: str = name, batch: int = batch, half: bool = half) -> Row:
                    return time_forward(context, device, name, batch, half)

                yield attempt(labels, measure, device)


def time_forward(context: Context, device: torch.device, name: str, batch: int, half: bool) -> Row:
    """Forward passes of a network in evaluation mode, with autocast for float16."""
    network = context.network(name)
    cfg, arch = read_network(network, {})
    model = place(build_model(cfg, arch), device, cfg.MODEL.CHANNELS_LAST).eval()
    images = torch.rand(batch, network.size, network.size, 3, device=device).permute(0, 3, 1, 2)

    def forward() -> None:
        with half_precision(device, half):  # entered at each call, as in an evaluation
            model(images)

    with backends(benchmark=True), torch.inference_mode():
        seconds = seconds_of(forward, device, context.seconds / 2)
    return {"images/s": batch / seconds, "ms a batch": 1000 * seconds}


# --- depthwise ----------------------------------------------------------------------------

LAYOUTS = {
    "float32, channels last": (torch.float32, torch.channels_last),
    "float32, contiguous": (torch.float32, torch.contiguous_format),
    "float16, channels last": (torch.float16, torch.channels_last),
    "float16, contiguous": (torch.float16, torch.contiguous_format),
}


def depthwise_part(device: torch.device, context: Context) -> Iterator[Row]:
    """Milliseconds of all depthwise layers of search-XS; then of each shape of them."""
    network = context.network("search-XS")
    cfg, arch = read_network(network, {})
    shapes = shapes_of(build_model(cfg, arch), network.size)
    layouts = {
        name: layout
        for name, layout in LAYOUTS.items()
        if device.type == "cuda" or layout[0] == torch.float32
    }
    each: list[Row] = []
    for name, (dtype, memory) in layouts.items():
        totals: Row = {}
        for shape, count in shapes.items():
            labels = {
                "layers": count,
                "shape": f"{shape.channels} x {shape.size} x {shape.size}",
                "kernel": shape.kernel,
                "stride": shape.stride,
                "layout": name,
            }

            def measure(shape: Any = shape, dtype: Any = dtype, memory: Any = memory) -> Row:
                calls = layer_calls(shape, network.batch, device, dtype, memory)
                names = ("forward", "input", "weights", "floor")
                seconds = context.seconds / 40
                return {
                    part: 1000 * seconds_of(calls[part], device, seconds, warm_up=2)
                    for part in names
                }

            with backends(benchmark=True):
                row = attempt(labels, measure, device)
            each.append(row)
            for part in ("forward", "input", "weights", "floor"):
                totals[part] = totals.get(part, 0) + count * row.get(part, np.nan)
        yield {"layers": sum(shapes.values()), "shape": "all", "layout": name, **totals}
    yield from each


# --- decoding -----------------------------------------------------------------------------


def decode_part(device: torch.device, context: Context) -> Iterator[Row]:
    """Milliseconds from the maps of an image to people, of maps on the CPU and on the device."""
    cfg, _ = read_network(context.network("search-XS"), {})
    parser = HeatmapParser(cfg)
    height, width = (64, 96) if context.small else (448, 640)
    for people in (2, 20):
        det, tag = Scene(
            people, parser.params.num_joints, height, width, 2, seed=1, upsampling=4
        ).render()
        planes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(tag, -1, 0)))
        for where in dict.fromkeys((torch.device("cpu"), device)):

            def measure(where: torch.device = where, det: Any = det, planes: Any = planes) -> Row:
                maps = torch.from_numpy(det).to(where)[None]
                tags = planes.to(where).movedim(0, -1)[None]
                calls = {
                    "ms": lambda: parser.parse(maps, tags),
                    "ms, without missing joints": lambda: parser.parse(maps, tags, refine=False),
                }
                seconds = context.seconds / 4
                return {
                    name: 1000 * seconds_of(call, where, seconds) for name, call in calls.items()
                }

            labels = {"map": f"{height} x {width}", "people": people, "maps on": where.type}
            yield attempt(labels, measure, device)


# --- epochs -------------------------------------------------------------------------------


def epochs_part(device: torch.device, context: Context) -> Iterator[Row]:
    """Hours of an epoch and of the recipes at the speeds of the part `train`."""
    speeds = best_speeds(context.parts.get("train", {}).get("rows", []))
    if not speeds:
        yield {"recipe": "none", "error": "the part train measured nothing"}
    for name, (step, rate) in speeds.items():
        hours = {f"hours, {data}": count / rate / 3600 for data, count in IMAGES.items()}
        yield {"recipe": "an epoch", "network": name, "step": step, "epochs": 1, **hours}
    for path in sorted((ROOT / "experiments").glob("*/mobilenet/*.yaml")):
        cfg = load_config(path)
        is_supernet = cfg.MODEL.NAME == "pose_supermobilenet"
        sandwich = is_supernet and cfg.SUPERNET.SAMPLING == "sandwich"
        passes = 2 + cfg.SUPERNET.SANDWICH_RANDOM if sandwich else 1
        data = "COCO" if path.parts[-3] == "coco" else "CrowdPose"
        for name, (step, rate) in speeds.items():
            if cfg.DATASET.MIX or is_supernet != (name == "supernet"):
                continue
            yield {
                "recipe": str(path.relative_to(ROOT / "experiments")),
                "network": name,
                "step": step,
                "epochs": cfg.TRAIN.END_EPOCH,
                f"hours, {data}": passes * cfg.TRAIN.END_EPOCH * IMAGES[data] / rate / 3600,
            }


def best_speeds(rows: list[Row]) -> dict[str, tuple[str, float]]:
    """Per network, our fastest kind of step and its images per second."""
    best: dict[str, tuple[str, float]] = {}
    for row in rows:
        name, step, rate = row["network"], row["step"], row.get("images/s")
        if isinstance(rate, float) and step != PLAIN and rate > best.get(name, ("", 0))[1]:
            best[name] = step, rate
    return best
