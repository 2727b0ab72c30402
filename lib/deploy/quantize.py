"""Quantization after training: 8-bit weights, one scale per channel, and 8-bit maps.

The network is quantized up to its last convolution; normalization, the sums and the up-sampling of
its predictions, peaks and positions stay in floats.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from lib.utils.files import replacing

CONVOLUTIONS = ("Conv", "ConvTranspose")
ACTIVATIONS = ("Clip", "Relu")
QUANTIZED = (*CONVOLUTIONS, *ACTIVATIONS, "Concat")  # not Add: sums of residuals stay in floats


class Inputs(CalibrationDataReader):
    """Images (1, H, W, 3) uint8, one after the other, for the input `name` of a graph."""

    def __init__(self, name: str, images: Iterable[np.ndarray]) -> None:
        self.name = name
        self.images = iter(images)

    def get_next(self) -> dict[str, np.ndarray]:
        image = next(self.images, None)
        return {} if image is None else {self.name: image}  # {} ends the calibration


def quantize(
    path: Path, target: Path, images: Iterable[np.ndarray], floats: Collection[str] = ()
) -> None:
    """Write the int8 model of `path` to `target`; `images` give the ranges of the maps.

    floats: names of layers, such as "stage.0.0.inv.0", that stay in floats, and so do their inputs.
    In the QDQ format: pairs of QuantizeLinear and DequantizeLinear mark what runs in integers,
    weights signed, maps unsigned but for `signed_inputs`.
    """
    model = onnx.load(path)
    logging.getLogger().addFilter(_is_no_advice)
    try:
        with replacing(target) as partial:
            quantize_static(
                path,
                partial,
                Inputs(model.graph.input[0].name, images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=quantized_nodes(model, floats),
                extra_options={
                    "CalibMovingAverage": True,  # the mean of the images' ranges
                    "TensorQuantOverrides": signed_inputs(model),
                },
            )
            quantized = onnx.load(partial)
            connect_to_floats(quantized.graph, model.graph, floats)
            onnx.save(quantized, partial)
    finally:
        logging.getLogger().removeFilter(_is_no_advice)


def quantized_nodes(model: onnx.ModelProto, floats: Collection[str] = ()) -> list[str]:
    """Names of the nodes up to the last convolution that run in 8 bits; `floats` do not."""
    nodes = list(model.graph.node)
    last = max(i for i, node in enumerate(nodes) if node.op_type in CONVOLUTIONS)
    return [
        node.name
        for node in nodes[: last + 1]
        if node.op_type in QUANTIZED and not any(layer_of(name) in floats for name in node.input)
    ]


def signed_inputs(model: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    """Overrides by the name of a map: those of both signs that transposed convolutions read.

    They are in signed integers, whose zero is 0. With another zero OpenVINO computes transposed
    convolutions in floats.
    """
    producers = {name: node.op_type for node in model.graph.node for name in node.output}
    names = {node.input[0] for node in model.graph.node if node.op_type == "ConvTranspose"}
    signed = sorted(name for name in names if producers.get(name) not in ACTIVATIONS)
    return {name: [{"quant_type": QuantType.QInt8, "symmetric": True}] for name in signed}


def connect_to_floats(
    graph: onnx.GraphProto, original: onnx.GraphProto, floats: Collection[str]
) -> None:
    """Give the layers `floats` of a quantized graph the maps before they are rounded, in place.

    quantize_static rounds all maps, and leaves out activations after which a map is rounded: the
    rounding has their bounds. ONNX Runtime would also round the weights of a layer between two
    rounded maps.
    """
    producers = {node.output[0]: node for node in graph.node}
    activations = {node.output[0]: node for node in original.node if node.op_type in ACTIVATIONS}
    inputs = set()
    for node in graph.node:
        if node.op_type in CONVOLUTIONS and layer_of(node.input[1]) in floats:
            rounded = producers.get(node.input[0])
            if rounded is not None and rounded.op_type == "DequantizeLinear":
                node.input[0] = producers[rounded.input[0]].input[0]
            inputs.add(node.input[0])
    for name in sorted(inputs & activations.keys()):
        if producers[name].op_type in CONVOLUTIONS:
            restore(graph, original, activations[name])
    for op_type in ("DequantizeLinear", "QuantizeLinear"):  # pairs without a reader
        read = {name for node in graph.node for name in node.input}
        for node in [node for node in graph.node if node.op_type == op_type]:
            if node.output[0] not in read:
                graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    for constant in [one for one in graph.initializer if one.name not in read]:
        graph.initializer.remove(constant)


def restore(graph: onnx.GraphProto, original: onnx.GraphProto, activation: onnx.NodeProto) -> None:
    """Add an activation of the `original` graph, whose output its convolution has in `graph`."""
    index = next(i for i, node in enumerate(graph.node) if activation.output[0] in node.output)
    graph.node[index].output[0] = activation.input[0]
    graph.node.insert(index + 1, activation)
    known = {one.name for one in graph.initializer}
    bounds = set(activation.input[1:]) - known
    graph.initializer.extend(one for one in original.initializer if one.name in bounds)


def layer_of(weights: str) -> str:
    """ "network.stage.0.0.inv.0.weight" -> "stage.0.0.inv.0" """
    return weights.removeprefix("network.").rpartition(".")[0]


def _is_no_advice(record: logging.LogRecord) -> bool:
    """False for the advice to simplify the model first, which the export did."""
    return "pre-processing" not in record.getMessage()
