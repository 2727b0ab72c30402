"""The int8 models of a network (`tools.export --int8`): for ONNX Runtime, and for OpenVINO.

OpenVINO runs maps with one scale per channel where a depthwise convolution reads them, which loses
less. ONNX Runtime has no such kernels.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.core.images import normalize
from lib.deploy.damage import layer_damage
from lib.deploy.export import make_program, onnx_content, write_onnx
from lib.deploy.fold import fold_norms
from lib.deploy.graph import Graph
from lib.deploy.quantize import quantize
from lib.deploy.round_weights import round_weights
from lib.models.equalize import equalize
from lib.models.pose_mobilenet import LitePose
from lib.utils.tables import markdown
from tools.export.runtimes import load, quiet, save_openvino

MAX_DAMAGE = 1e-5  # of a layer in 8 bits; see `lib.deploy.damage`
IMAGES = 2  # to measure the damage of every layer on
LISTED = 12  # layers in the table
MAX_DAMAGE_OPENVINO = 1e-4  # the same in OpenVINO
CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData")


def write_int8(
    target: Path, graph: Graph, size: tuple[int, int] | None, images: Sequence[np.ndarray]
) -> str:
    """Write the int8 model of `graph`, calibrated on `images` (1, H, W, 3); return a table.

    Channels are equalized, weights rounded with their biases corrected, and the layers that lose
    most in 8 bits stay in floats. `graph` is not changed.
    """
    inputs = [normalize(torch.from_numpy(image)) for image in images]
    folded = equalized(graph, inputs)
    round_weights(folded, inputs)
    damage = layer_damage(folded, inputs[:IMAGES], graph.settings.num_joints)
    floats = [one.layer for one in damage if one.share > MAX_DAMAGE]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rounded.onnx"
        copied = type(graph)(graph.settings, folded).eval()
        write_onnx(path, make_program(copied, size), copied.outputs)
        quantize(path, target, images, floats)
    rows = [
        [one.layer, f"{one.share:.5f}", "float" if one.layer in floats else "8 bits"]
        for one in damage[:LISTED]
    ]
    title = f"{len(floats)} of {len(damage)} layers stay in floats:"
    return f"{title}\n\n{markdown(['layer', 'damage in 8 bits', 'stays'], rows)}\n"


def write_openvino_int8(
    target: Path, graph: Graph, size: tuple[int, int] | None, images: Sequence[np.ndarray]
) -> str:
    """Write the int8 model of `graph` as *.xml and *.bin, quantized by NNCF; return a line."""
    nncf, openvino = load("nncf", "openvino-int8"), load("openvino", "openvino")
    inputs = [normalize(torch.from_numpy(image)) for image in images]
    folded = equalized(graph, inputs)
    damage = layer_damage(folded, inputs[:IMAGES], graph.settings.num_joints)
    floats = {one.layer for one in damage if one.share > MAX_DAMAGE_OPENVINO}
    copied = type(graph)(graph.settings, folded).eval()
    content = onnx_content(make_program(copied, size), copied.outputs)
    model = openvino.Core().read_model(content)
    names = operations_in_floats(model, floats)
    with quiet():
        quantized = nncf.quantize(
            model,
            nncf.Dataset(list(images)),
            preset=nncf.QuantizationPreset.MIXED,  # zero points where maps are not symmetric
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=names, validate=False),
        )
    save_openvino(quantized, target)
    return f"{target.name}: {len(floats)} of {len(damage)} layers stay in floats"


def equalized(graph: Graph, inputs: Sequence[torch.Tensor]) -> torch.fx.GraphModule:
    """A copy of the network with channels of like ranges where it is a LitePose, norms folded."""
    network = copy.deepcopy(graph.network)
    if isinstance(network, LitePose):
        equalize(network, inputs)
    return fold_norms(network)


def operations_in_floats(model: Any, floats: Collection[str]) -> list[str]:
    """Names of OpenVINO's operations before the first convolution, after the last, of `floats`."""
    operations = model.get_ordered_ops()
    places = [i for i, one in enumerate(operations) if one.get_type_name() in CONVOLUTIONS]
    weights = {f"network.{layer}.weight" for layer in floats}
    return [
        one.get_friendly_name()
        for i, one in enumerate(operations)
        if one.get_type_name() not in ("Constant", "Parameter", "Result")
        and (not places[0] <= i <= places[-1] or weights & names_of_inputs(one))
    ]


def names_of_inputs(operation: Any) -> set[str]:
    """Names of what an operation reads; the weights of grouped convolutions are reshaped first."""
    nodes = [value.get_node() for value in operation.input_values()]
    nodes += [value.get_node() for node in nodes for value in node.input_values()]
    return {node.get_friendly_name() for node in nodes}
