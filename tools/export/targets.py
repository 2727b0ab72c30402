"""Files for other runtimes (`tools.export --to`): how each is written, and what the card says."""

from __future__ import annotations

import copy
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.export import Dim

from lib.core.images import MEAN, STD
from lib.core.inference import InferenceSettings
from lib.deploy.compiled import CompiledNetwork
from lib.deploy.export import make_program, onnx_content, write_onnx
from lib.deploy.graph import CandidateGraph, Graph, NetworkGraph
from lib.utils.files import write_file
from lib.utils.transforms import STRIDE
from tools.export.check import TOLERANCE, run_of
from tools.export.forms import Run, open_form
from tools.export.runtimes import first_line, load, quiet, save_openvino

Size = tuple[int, int] | None  # width, height; None: any


class Target(NamedTuple):
    """A runtime, and how a graph without BatchNorms becomes its files."""

    library: str  # key of INSTALL
    modules: tuple[str, ...]  # to import
    files: tuple[str, ...]  # in --out; the first one is what `tools.export.forms` opens
    write: Callable[[Graph, Size, Path], dict[str, Any]]  # graph, size, folder -> entry of the card
    network_alone: bool = False  # the files return the network's maps, whatever --graph is
    any_size: bool = True
    tolerance: float = TOLERANCE  # of maps; more than rounding: people may differ


def check_target(name: str, size: Size) -> None:
    """ValueError where the runtime `name` is not installed, or needs a fixed size."""
    target = TARGETS[name]
    if not (size or target.any_size):
        raise ValueError(f"--to {name} needs --size WxH: its memory is planned for one size")
    for module in target.modules:
        load(module, target.library)


def write_target(name: str, graph: Graph, size: Size, folder: Path) -> dict[str, Any]:
    """Write the files of the runtime `name`; its entry of the card."""
    target = TARGETS[name]
    return {"files": list(target.files), **target.write(graph, size, folder)}


class OpenTarget(NamedTuple):
    """The files of a runtime, opened, and what they must return."""

    files: list[Path]
    run: Run  # images (B, H, W, 3) uint8 -> outputs
    reference: Graph  # the same outputs in PyTorch
    folded: Graph  # the same, without BatchNorms
    target: Target

    def candidates(self, kind: type[CandidateGraph]) -> Run | None:
        """Images -> the outputs of this graph; None where the files were asked for maps."""
        if self.target.network_alone:
            network = CompiledNetwork(self.run, one_by_one=True)
            return run_of(kind(self.reference.settings, network).eval())
        return self.run if isinstance(self.reference, kind) else None


def open_target(target: Target, graph: Graph, folded: Graph, folder: Path) -> OpenTarget:
    """The files in `folder`; graph, folded: what was exported, with and without BatchNorms."""
    files = [folder / name for name in target.files]
    run = open_form(files[0], torch.get_num_threads())
    if target.network_alone:
        graph, folded = (NetworkGraph(one.settings, one.network).eval() for one in (graph, folded))
    return OpenTarget(files, run, graph, folded, target)


# --- ncnn -------------------------------------------------------------------------------


def write_ncnn(
    graph: Graph, size: Size, folder: Path, name: str = "model.ncnn", half: bool = False
) -> dict[str, Any]:
    """Convert the network alone, by pnnx from ONNX: ncnn has no layers to find peaks with.

    half: weights in float16. ncnn may compute in float16 with either.
    """
    names = tuple(f"stage{i}" for i in range(len(graph.settings.with_heatmaps)))
    width, height = size or (4 * STRIDE, 3 * STRIDE)
    example = torch.zeros(1, 3, height, width)
    rows, columns = (STRIDE * Dim(name, min=1, max=512) for name in ("rows", "columns"))
    sizes = None if size else ({2: rows, 3: columns},)
    program = torch.export.export(graph.network, (example,), dynamic_shapes=sizes)
    with tempfile.TemporaryDirectory() as work:
        write_onnx(Path(work) / "model.onnx", program, names)
        layers, weights = run_pnnx(Path(work), half)
    refuse_unknown(line.split()[0] for line in layers.splitlines()[2:])
    write_file(folder / f"{name}.bin", weights)
    write_file(folder / f"{name}.param", layers)
    with torch.no_grad():
        shapes = [output.shape for output in graph.network(example)]
    return {
        "versions": {name: version(name) for name in NCNN.modules},
        "input": {
            "name": "in0",
            "layout": "RGB, height, width; float32: (value of 8 bits - mean) * norm",
            "mean": [255 * mean for mean in MEAN],
            "norm": [1 / (255 * std) for std in STD],
        },
        "outputs": [
            {
                "name": f"out{i}",
                **channels_of(graph.settings, i, shape[1]),
                "pixels_of_input": width // shape[3],
            }
            for i, shape in enumerate(shapes)
        ],
        "then": steps_after(graph.settings),
    }


def run_pnnx(folder: Path, half: bool = False) -> tuple[str, bytes]:
    """model.onnx in `folder` as ncnn's text of layers, and weights in float32 or float16."""
    command = [load("pnnx", "ncnn").EXEC_PATH, "model.onnx", f"fp16={int(half)}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    layers, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    if done.returncode or not (layers.is_file() and weights.is_file()):
        lines = (done.stderr or done.stdout).decode(errors="replace").split("\n")
        said = next((line for line in reversed(lines) if line.strip()), f"code {done.returncode}")
        raise ValueError(f"pnnx cannot convert this network: {said.strip()[:200]}")
    return layers.read_text(encoding="utf-8"), weights.read_bytes()


def refuse_unknown(types: Iterable[str]) -> None:
    """ValueError where ncnn lacks one of these layers: pnnx writes them without an error."""
    ncnn = load("ncnn", "ncnn")
    unknown = [kind for kind in sorted(set(types)) if ncnn.create_layer(kind) is None]
    if unknown:
        raise ValueError(f"ncnn cannot run this network: it has no layer {', '.join(unknown)}")


def channels_of(settings: InferenceSettings, stage: int, channels: int) -> dict[str, Any]:
    """First and last + 1 channels of heatmaps and of tags in an output; None: none, or unused."""
    joints = settings.num_joints
    return {
        "heatmaps": [0, joints] if settings.with_heatmaps[stage] else None,
        "tags": [joints, channels] if settings.with_ae[stage] else None,
    }


def steps_after(settings: InferenceSettings) -> list[str]:
    """What a device does with the outputs, in order; lib/deploy/graph.py does the same."""
    steps = ["resize the outputs to the size of the last one: bilinear, align_corners false"]
    steps.append("heatmaps: the mean of those of all outputs; tags: those of all outputs, L maps")
    if settings.flip_test:
        steps[:0] = ["also run the flipped image; flip its outputs back"]
        steps.append("swap its joints by flip_index; average heatmaps, append its tags")
    if settings.with_center and settings.ignore_center:
        steps.append("drop the last heatmap and its tag: the center")
    if settings.project2image:
        steps.append("resize heatmaps and tags to the size of the input")
    if settings.mask_borders:
        steps.append("heatmaps are 0 in rows and columns of the input that are all black")
    side = 2 * settings.codec.reach(settings.group.nms_kernel // 2) + 1
    steps.append(
        f"candidates: the grouping.max_people largest values of each heatmap that are the largest "
        f"within {side} x {side} pixels (of equal ones the first, row by row), x and y refined by "
        "the codec, in pixels of the input, and the tags there: lib/deploy/graph.py"
    )
    steps.append("group, and fill_missing with grouping.refine, of tools/device_runner.py")
    return steps


NCNN = Target(
    library="ncnn",
    modules=("pnnx", "ncnn"),
    files=("model.ncnn.bin", "model.ncnn.param"),
    write=write_ncnn,
    network_alone=True,
)
NCNN_FP16 = NCNN._replace(
    files=("model-fp16.ncnn.bin", "model-fp16.ncnn.param"),
    write=partial(write_ncnn, name="model-fp16.ncnn", half=True),
    tolerance=0.1,  # the published M: 0.03, at the same AP; a wrong layer differs by about 1
)


# --- ExecuTorch ---------------------------------------------------------------------------


def write_executorch(graph: Graph, size: Size, folder: Path) -> dict[str, Any]:
    """Convert the whole graph; XNNPACK runs what it can, ExecuTorch's own kernels the rest."""
    # XNNPACK takes no weights that are channels last in memory.
    graph = copy.deepcopy(graph).to(memory_format=torch.contiguous_format)  # pyright: ignore
    exir, xnnpack = (load(module, "executorch") for module in EXECUTORCH.modules[:2])
    program = make_program(graph, size)
    try:
        with quiet():
            edge = exir.to_edge_transform_and_lower(
                program, partitioner=[xnnpack.XnnpackPartitioner()]
            )
            content = edge.to_executorch().buffer
    except Exception as error:  # of any class, from any of its passes
        raise ValueError(f"ExecuTorch cannot convert this graph: {first_line(error)}") from None
    write_file(folder / EXECUTORCH.files[0], content)
    return {
        "versions": {"executorch": version("executorch")},
        "input": "that of the card, batch 1; method forward",
        "outputs": list(graph.outputs),
        "backend": "XNNPACK",
    }


EXECUTORCH = Target(
    library="executorch",
    modules=(
        "executorch.exir",
        "executorch.backends.xnnpack.partition.xnnpack_partitioner",
        "executorch.runtime",
    ),
    files=("model.pte",),
    write=write_executorch,
    any_size=False,
)

# --- OpenVINO -----------------------------------------------------------------------------


def write_openvino(graph: Graph, size: Size, folder: Path) -> dict[str, Any]:
    """Convert the whole graph from ONNX; weights stay in float32."""
    openvino = load("openvino", "openvino")
    model = openvino.Core().read_model(onnx_content(make_program(graph, size), graph.outputs))
    save_openvino(model, folder / OPENVINO.files[0])
    return {
        "versions": {"openvino": version("openvino")},
        "input": "that of the card",
        "outputs": list(graph.outputs),
    }


OPENVINO = Target(
    library="openvino",
    modules=("openvino",),
    files=("model.xml", "model.bin"),
    write=write_openvino,
)

TARGETS = {"openvino": OPENVINO, "ncnn": NCNN, "ncnn-fp16": NCNN_FP16, "executorch": EXECUTORCH}
