"""A graph as files: a torch.export program, an ONNX model, and the card with its conventions."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lib.codec import CODECS
from lib.core.images import MEAN, STD
from lib.core.inference import InferenceSettings
from lib.deploy.graph import Graph, NetworkGraph
from lib.utils.files import write_file
from lib.utils.transforms import STRIDE

# The format of model.onnx: the oldest that holds all operations, for the oldest ONNX Runtime.
OPSET, IR_VERSION = 18, 8


def make_program(graph: nn.Module, size: tuple[int, int] | None) -> ExportedProgram:
    """`graph` as a torch.export program for one image of `size` (width, height).

    None: for any number of images of any one size whose sides are multiples of 64.
    """
    if size:
        return torch.export.export(graph, (torch.zeros(1, size[1], size[0], 3).byte(),))
    return any_size_program(graph, torch.zeros(2, 3 * STRIDE, 4 * STRIDE, 3).byte(), rows=1)


def any_size_program(module: nn.Module, example: Tensor, rows: int) -> ExportedProgram:
    """`module` for any number of images of any one size whose sides are multiples of 64.

    example: such images; sizes that are equal, or 1, would become constants of the program.
    rows: the dimension of the images' rows; their columns follow.
    """
    height, width = (STRIDE * Dim(name, min=1, max=512) for name in ("rows", "columns"))
    dynamic = ({0: Dim("batch", min=1, max=1024), rows: height, rows + 1: width},)
    return torch.export.export(module, (example,), dynamic_shapes=dynamic)


def program_file(program: ExportedProgram) -> bytes:
    """The content of a file for `torch.export.load(path).module()`, which needs PyTorch alone.

    Such a file may hold pickles of anything, which are executed when it is loaded. So this
    repository loads none, except bytes that it has just made itself.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about constants that share memory
        content = io.BytesIO()  # the writer of torch ends the process on a full disk
        torch.export.save(program, content)
    return content.getvalue()


def write_onnx(path: Path, program: ExportedProgram, outputs: Sequence[str]) -> None:
    """Write `onnx_content` to `path`."""
    write_file(path, onnx_content(program, outputs))


def onnx_content(program: ExportedProgram, outputs: Sequence[str]) -> bytes:
    """The program as an ONNX file with the input `images` and the names of its `outputs`."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # about optional packages
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about deprecated calls within torch.onnx
        exported = torch.onnx.export(
            with_clamps(program),
            (),
            input_names=["images"],
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    model.ir_version = IR_VERSION
    for node in model.graph.node:
        del node.metadata_props[:]  # paths of the source code on this machine
    return model.SerializeToString()


def with_clamps(program: ExportedProgram) -> ExportedProgram:
    """A copy of `program` that computes ReLU6 by `clamp`, which torch.onnx knows.

    It decomposes `hardtanh_` into `clamp` itself, over a dozen intermediate forms with symbolic
    sizes: more than half of the time of an export for any size. The ONNX model is the same.
    """
    copied = copy.deepcopy(program)
    for node in copied.graph.nodes:
        # In place, it also changes a view of its input, so there must be none.
        if node.target is torch.ops.aten.hardtanh_.default and len(node.args[0].users) == 1:
            node.target = torch.ops.aten.clamp.default  # of the same arguments
    return copied


def make_card(
    settings: InferenceSettings,
    graph: Graph,
    size: tuple[int, int] | None,
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """All that a device needs besides the graph, as plain values for JSON."""
    spec, params = settings.spec, settings.group
    if params.num_joints > spec.num_joints:
        spec = spec.with_center()
    card = {
        "input": {
            "name": "images",
            "layout": "batch, height, width, RGB; 8 bits",
            "size": size,  # width, height; null: any
            "scale_type": settings.scale_type,  # any size: the short or the long side becomes ...
            "side": -(-settings.input_size // STRIDE) * STRIDE,
            "multiple_of": STRIDE,  # and the other one, rounded up
            "mean": MEAN,  # in the graph, of values from 0 to 1
            "std": STD,
        },
        "outputs": list(graph.outputs),
        "data_set": spec.name,
        "joints": spec.joints,
        "flip_index": spec.flip_index,
        "limbs": spec.limb_index,
        "sigmas": spec.sigmas,
        "codec": next(name for name, codec in CODECS.items() if codec is params.codec),
        "pixel_center": params.codec.pixel_center,
        "flip_test": settings.flip_test,  # in the graph
        "grouping": {
            "joint_order": params.joint_order,
            "max_people": params.max_people,
            "detection_threshold": params.detection_threshold,
            "tag_threshold": params.tag_threshold,
            "use_detection_val": params.use_detection_val,
            "refine": settings.refine,
        },
        "provenance": provenance,
    }
    if isinstance(graph, NetworkGraph):
        card["maps"] = {
            "num_joints": settings.num_joints,  # heatmaps, which come first; then the tags
            "with_heatmaps": list(settings.with_heatmaps),  # of each output: averaged
            "with_ae": list(settings.with_ae),  # of each output: whether its tags are used
            "tag_per_joint": params.tag_per_joint,
            "ignored_center": settings.with_center and settings.ignore_center,  # the last heatmap
            "project2image": settings.project2image,  # resized to the size of the input
            "mask_borders": settings.mask_borders,  # 0 in rows and columns that are all black
            "nms_kernel": params.nms_kernel,
            "adjust": settings.adjust,  # the codec refines x and y
        }
    return card
