"""A device graph as files: a torch.export program, an ONNX model, and the card beside them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from yacs.config import CfgNode

from lib.codec import codec_of
from lib.core.group import GroupParams
from lib.core.images import MEAN, STD
from lib.keypoints import keypoints_of
from lib.utils.transforms import STRIDE


def make_program(graph: nn.Module, size: tuple[int, int] | None) -> ExportedProgram:
    """`graph` as torch.export has it, for one picture of `size` (width, height).

    None: for any number of pictures of any one size whose sides are multiples of 64.
    """
    if size:
        example, free = torch.zeros(1, size[1], size[0], 3, dtype=torch.uint8), None
    else:  # an example whose numbers all differ, and none is 1: that would be a constant
        example = torch.zeros(2, 3 * STRIDE, 4 * STRIDE, 3, dtype=torch.uint8)
        rows, columns = (STRIDE * Dim(name, min=1, max=512) for name in ("rows", "columns"))
        free = ({0: Dim("batch", min=1, max=1024), 1: rows, 2: columns},)
    return torch.export.export(graph, (example,), dynamic_shapes=free)


def write_program(path: Path, program: ExportedProgram) -> None:
    """What `torch.export.load(path).module()` reads back: a module that PyTorch alone can run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constants that share memory
        torch.export.save(program, path)


def write_onnx(path: Path, program: ExportedProgram, outputs: Sequence[str]) -> None:
    """The program as one ONNX file: input `pictures`, outputs as named."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # what it lacks is not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own calls
        model = torch.onnx.export(
            *(program, ()),
            input_names=["pictures"],
            output_names=list(outputs),
            dynamo=True,
            verbose=False,
        ).model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # lines and paths of the code it comes from
    onnx.save(model, path)


def make_card(
    cfg: CfgNode, graph: nn.Module, size: tuple[int, int] | None, provenance: dict[str, Any]
) -> dict[str, Any]:
    """What a device must know beside the graph, as plain values."""
    spec = keypoints_of(cfg, is_train=False)
    params = GroupParams.from_config(cfg)
    if params.num_joints > spec.num_joints:
        spec = spec.with_center()
    return {
        "input": {
            "name": "pictures",
            "layout": "batch, height, width, RGB; 8 bits",
            "size": size,  # width, height; null: any
            "scale_type": cfg.TEST.SCALE_TYPE,  # where any: the short or the long side becomes ...
            "side": -(-cfg.DATASET.INPUT_SIZE // STRIDE) * STRIDE,
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
        "codec": cfg.MODEL.CODEC,
        "pixel_center": codec_of(cfg).pixel_center,
        "flip_test": cfg.TEST.FLIP_TEST,  # in the graph
        "grouping": {
            "joint_order": params.joint_order,
            "max_people": params.max_people,
            "detection_threshold": params.detection_threshold,
            "tag_threshold": params.tag_threshold,
            "use_detection_val": params.use_detection_val,
            "refine": cfg.TEST.REFINE,
        },
        "provenance": provenance,
    }
