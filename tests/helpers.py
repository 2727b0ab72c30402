"""Helpers of several tests: tiny networks, their settings, and reproducible weights."""

from __future__ import annotations

import contextlib
import copy
import json
import resource
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO as CocoFile
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.config import as_opts, load_config
from lib.core.inference import InferenceSettings
from lib.dataset.image_files import ImageRecord
from lib.dataset.reader import read_annotations, records_of
from lib.deploy.export import make_card, make_program, write_onnx
from lib.deploy.graph import GRAPHS
from lib.keypoints import KeypointSpec
from lib.models import build_model
from lib.models.arch import ArchSpec, uniform_arch
from lib.utils.checkpoint import fit_weights, load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None, reason="openvino, an optional runtime, is not installed"
)
EACH_RUNTIME = ["onnxruntime", pytest.param("openvino", marks=needs_openvino)]
GOLDEN = Path(__file__).resolve().parent / "golden"


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill(model: nn.Module, seed: int) -> None:
    """Fill `model` with weights that depend on `seed` alone (tests/golden/README.md)."""
    rng = np.random.default_rng(seed)
    state = model.state_dict()
    for name in sorted(state):
        state[name].copy_(torch.from_numpy(_sample(rng, name, tuple(state[name].shape))))


def _sample(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith(".weight")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) == 4:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return (rng.standard_normal(shape) * 0.1).astype(np.float32)


def load_weights(model: nn.Module, path: Path, skip: tuple[str, ...] = ()) -> None:
    """Load the weights of a checkpoint as the scripts do."""
    fit_weights(model, load_checkpoint(path), path, skip)


def read_records(path: Path, spec: KeypointSpec) -> list[ImageRecord]:
    """All images of an annotation file."""
    return records_of(read_annotations(path, spec), spec, path)


def seeded_image(seed: int, size: int) -> Tensor:
    """(1, 3, size, size)"""
    noise = np.random.default_rng(seed + 1).standard_normal((1, 3, size, size))
    return torch.from_numpy(noise.astype(np.float32))


# A network that trains in milliseconds, and settings to go with it.
TINY = uniform_arch(64, 8, (8, 8, 16, 16), (8, 8, 8), depths=(1, 1, 1, 1), block=(2, 3))
# Wider than TINY in its last stage: weights of the one do not fit the other.
OTHER = uniform_arch(64, 8, (8, 8, 16, 24), (8, 8, 8), depths=(1, 1, 1, 1), block=(2, 3))
YAMLS = {
    "coco": ROOT / "experiments/coco/mobilenet/mobile.yaml",
    "crowd_pose": ROOT / "experiments/crowd_pose/mobilenet/mobile.yaml",
    "animal": ROOT / "experiments/animal/small.yaml",
}
JOINTS = ROOT / "experiments/animal/joints.yaml"  # the custom keypoints of animal/small.yaml


def tiny_opts(data: Path, out: Path) -> list[str]:
    """Command line of a short run on the data set in `data` that writes below `out`."""
    settings = {
        "DATASET.ROOT": data,
        "OUTPUT_DIR": out / "output",
        "LOG_DIR": out / "log",
        "WORKERS": 0,
        "PRINT_FREQ": 1,
        "VERBOSE": False,
        "DEBUG.DEBUG": False,
        "TRAIN.END_EPOCH": 1,
        "TRAIN.IMAGES_PER_GPU": 4,
    }
    return as_opts(settings)


def tiny_config(data: Path, out: Path, *opts: str, data_set: str = "coco") -> CfgNode:
    """The settings of `tiny_opts` for the network TINY; `opts` win."""
    return load_config(YAMLS[data_set], [*tiny_opts(data, out), *opts], img_size=TINY.img_size)


def network(cfg: CfgNode, arch: ArchSpec = TINY, seed: int | None = None) -> nn.Module:
    """A network of `cfg`; with a seed its weights are those of `fill`."""
    model = build_model(cfg, arch)
    if seed is not None:
        fill(model, seed)
    return model


def write_exported(
    path: Path, cfg: CfgNode, model: nn.Module, kind: str, size: tuple[int, int] | None = None
) -> None:
    """Write `model` with the graph `kind` as the *.onnx `path`, and the card next to it."""
    settings = InferenceSettings.from_config(cfg)
    graph = GRAPHS[kind](settings, model).eval()
    write_onnx(path, make_program(graph, size), graph.outputs)
    path.with_name("card.json").write_text(json.dumps(make_card(settings, graph, size, {})))


class Result(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


def pycocotools_evaluation(spec: KeypointSpec, tree: dict, rows: Sequence[dict]) -> COCOeval:
    """The reference evaluator of result `rows` on the annotations in `tree`, not yet run."""
    ground_truth = CocoFile()
    ground_truth.dataset = copy.deepcopy(tree)
    ground_truth.createIndex()
    detections = ground_truth.loadRes(copy.deepcopy(list(rows)))
    evaluation = COCOeval(ground_truth, detections, "keypoints")
    evaluation.params.kpt_oks_sigmas = np.array(spec.sigmas)
    return evaluation
