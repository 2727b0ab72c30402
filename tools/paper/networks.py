"""The networks of the paper's tables: built, counted, timed."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lib.config import load_config
from lib.core.inference import InferenceSettings
from lib.deploy.export import make_program, write_onnx
from lib.deploy.fold import fold_norms
from lib.deploy.graph import NetworkGraph
from lib.models import build_model, place
from lib.models.arch import ArchSpec
from lib.models.baselines.lightweight_openpose import LightweightOpenPose
from lib.search.latency import median_times
from lib.utils.complexity import count_macs, count_params
from tools.benchmark.activations import PeakActivations
from tools.benchmark.pieces import forward_call
from tools.export.forms import noise_image, open_form
from tools.paper.tables import DEVICES, OPENPOSE, PAIRS, TABLES, Row

OPENPOSE_SIZE = 368
TWO_OUTPUTS = "experiments/coco/mobilenet/mobile.yaml"  # as many as all networks of the tables
WAYS = {  # name of a column -> dtype, memory format
    "contiguous": (torch.float32, torch.contiguous_format),
    "channels last": (torch.float32, torch.channels_last),
    "bf16": (torch.bfloat16, torch.channels_last),
}
ONNX = "ONNX Runtime"  # one more column, on the CPU
SLOW = ("HigherHRNet-W48",)  # takes as long as all the others together
Times = dict[str, dict[str, float]]  # name of a network -> way -> milliseconds


class Cost(NamedTuple):
    """What a network costs on any machine."""

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
    """Name -> network whose latency is measured; those of both data sets once."""
    rows = (*TABLES["CrowdPose test"], *TABLES["COCO val"])
    return {row.name: row for row in reversed(rows)}


def measure(rounds: int, onnx: bool) -> Times:
    """Medians of `rounds` turns; SLOW networks take turns among themselves, a quarter as many."""
    rows = timed()
    slow = {name: rows[name] for name in SLOW if name in rows}
    quick = {name: row for name, row in rows.items() if name not in slow}
    return take_turns(quick, rounds, onnx) | take_turns(slow, -(-rounds // 4), onnx)


def take_turns(rows: Mapping[str, Row], rounds: int, onnx: bool) -> Times:
    device = default_device()
    times: Times = {name: {} for name in rows}
    places, calls = [], []
    for name, row in rows.items():
        model, size = build(row)
        for way, (dtype, memory) in WAYS.items():
            places.append((name, way))
            copied = place(copy.deepcopy(model).to(dtype), device, memory == torch.channels_last)
            calls.append(forward_call(copied, 3, size, memory))
        if onnx:
            places.append((name, ONNX))
            calls.append(onnx_call(model, size))
    medians = median_times(calls, rounds, device)
    for (name, way), milliseconds in zip(places, medians, strict=True):
        times[name][way] = milliseconds
    return times


def onnx_call(model: nn.Module, size: int) -> Callable[[], Sequence[Any]]:
    """A call that runs `model`, BatchNorms folded, in ONNX Runtime on an 8-bit image."""
    settings = InferenceSettings.from_config(load_config(TWO_OUTPUTS))
    graph = NetworkGraph(settings, fold_norms(model)).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(path, make_program(graph, (size, size)), graph.outputs)
        run = open_form(path, torch.get_num_threads())
    images = noise_image((size, size))
    return lambda: run(images)


def speed_ups(times: Times) -> list[dict[str, Any]]:
    """Of each pair: the slow network's milliseconds over the fast one's, here and in the paper."""
    rows = timed()
    pairs = []
    for slow, fast in PAIRS if times else ():
        here = {way: times[slow][way] / times[fast][way] for way in times[fast]}
        ms = rows[slow].milliseconds, rows[fast].milliseconds
        assert ms[0]
        assert ms[1]
        paper = {device: ms[0][i] / ms[1][i] for i, device in enumerate(DEVICES)}
        pairs.append({"slow": slow, "fast": fast, "here": here, "paper": paper})
    return pairs
