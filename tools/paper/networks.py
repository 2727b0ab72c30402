"""The networks of the paper's tables: built, counted, timed."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from lib.config import load_config
from lib.deploy.export import make_program, write_onnx
from lib.deploy.fold import fold_norms
from lib.deploy.graph import NetworkGraph
from lib.models import build_model
from lib.models.arch import ArchSpec
from lib.models.baselines.lightweight_openpose import LightweightOpenPose
from lib.search.latency import median_times
from lib.utils.complexity import count_macs, count_params
from tools.benchmark.activations import PeakActivations
from tools.export.forms import noise_image, open_onnx
from tools.paper.tables import DEVICES, OPENPOSE, PAIRS, TABLES, Row

OPENPOSE_SIZE = 368
TWO_OUTPUTS = "experiments/coco/mobilenet/mobile.yaml"  # as all networks of the tables have
WAYS = {  # to run a network -> numbers, memory format
    "contiguous": (torch.float32, torch.contiguous_format),
    "channels last": (torch.float32, torch.channels_last),
    "bf16": (torch.bfloat16, torch.channels_last),
}
ONNX = "ONNX Runtime"  # and one more, on the CPU
SLOW = ("HigherHRNet-W48",)  # as long as all the others together
Times = dict[str, dict[str, float]]  # name of a network -> way -> milliseconds


class Cost(NamedTuple):
    """What can be said of a network without running it."""

    size: int  # of the input, pixels
    params: int
    macs: int
    paper_macs: int  # by the paper's rule
    activations: int  # bytes, float32


def build(row: Row) -> tuple[nn.Module, int]:
    """The network, untrained, and the side of its input in pixels."""
    if row.experiment == OPENPOSE:
        return LightweightOpenPose(), OPENPOSE_SIZE
    arch = ArchSpec.from_json(f"{row.arch}.json") if row.arch else None
    path = f"experiments/{row.experiment}.yaml"
    cfg = load_config(path, img_size=arch.img_size if arch else None)
    return build_model(cfg, arch), cfg.DATASET.INPUT_SIZE


def cost_of(row: Row) -> Cost:
    with torch.device("meta"):
        model, size = build(row)
        with PeakActivations() as memory:
            macs = count_macs(model, size)
    return Cost(size, count_params(model), macs["true"], macs["paper"], memory.peak)


def default_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def timed() -> dict[str, Row]:
    """The networks whose latency is measured: each once, though two tables may have it."""
    rows = (*TABLES["CrowdPose test"], *TABLES["COCO val"])
    return {row.name: row for row in reversed(rows)}


def measure(rounds: int, onnx: bool) -> Times:
    """All networks in all ways, in turns; SLOW ones among themselves, in a quarter of the turns."""
    rows = timed()
    slow = {name: rows[name] for name in SLOW if name in rows}
    quick = {name: row for name, row in rows.items() if name not in slow}
    return take_turns(quick, rounds, onnx) | take_turns(slow, -(-rounds // 4), onnx)


def take_turns(rows: Mapping[str, Row], rounds: int, onnx: bool) -> Times:
    device = default_device()
    times: dict[str, dict[str, float]] = {name: {} for name in rows}
    places, calls = [], []
    for name, row in rows.items():
        model, size = build(row)
        for way, (dtype, memory) in WAYS.items():
            places.append((name, way))
            calls.append(forward(copy.deepcopy(model), size, device, dtype, memory))
        if onnx:
            places.append((name, ONNX))
            calls.append(onnx_forward(model, size))
    for (name, way), milliseconds in zip(places, median_times(calls, rounds), strict=True):
        times[name][way] = milliseconds
    return times


def forward(
    model: nn.Module,
    size: int,
    device: torch.device,
    dtype: torch.dtype,
    memory: torch.memory_format,
) -> Callable[[], None]:
    """A call that runs `model` on one picture."""
    model = model.eval().to(device, dtype, memory_format=memory)
    picture = torch.rand(1, 3, size, size).to(device, dtype).contiguous(memory_format=memory)

    @torch.inference_mode()
    def call() -> None:
        model(picture)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return call


def onnx_forward(model: nn.Module, size: int) -> Callable[[], Sequence[np.ndarray]]:
    """The same in ONNX Runtime: exported without BatchNorms, from a picture of 8 bits."""
    cfg = load_config(TWO_OUTPUTS)
    graph = NetworkGraph(cfg, fold_norms(model)).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(path, make_program(graph, (size, size)), graph.outputs)
        run = open_onnx(path, torch.get_num_threads())
    picture = noise_image((size, size))
    return lambda: run(picture)


def ratios(times: Times) -> list[dict[str, Any]]:
    """How many times as fast the second of each pair is, here and in the paper."""
    rows = timed()
    found = []
    for slow, fast in PAIRS if times else ():
        here = {way: times[slow][way] / times[fast][way] for way in times[fast]}
        said = zip(rows[slow].said.milliseconds, rows[fast].said.milliseconds, strict=True)
        paper = dict(zip(DEVICES, (one / other for one, other in said), strict=True))
        found.append({"slow": slow, "fast": fast, "here": here, "paper": paper})
    return found
