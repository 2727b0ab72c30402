"""Quantization after training: 8-bit weights, one scale per channel, and 8-bit maps.

The network is quantized up to its last convolution; normalization, the sums and the up-sampling of
its predictions, peaks and positions stay in floats.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from pathlib import Path

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
QUANTIZED = (*CONVOLUTIONS, "Clip", "Concat", "Relu")  # not Add: sums of residuals stay in floats


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

    floats: names of layers, such as "stage.0.0.inv.0", that stay in floats. In the QDQ format:
    pairs of QuantizeLinear and DequantizeLinear mark what runs in integers, weights signed, maps
    unsigned.
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
                extra_options={"CalibMovingAverage": True},  # the mean of the images' ranges
            )
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


def layer_of(weights: str) -> str:
    """ "network.stage.0.0.inv.0.weight" -> "stage.0.0.inv.0" """
    return weights.removeprefix("network.").rpartition(".")[0]


def _is_no_advice(record: logging.LogRecord) -> bool:
    """False for the advice to simplify the model first, which the export did."""
    return "pre-processing" not in record.getMessage()
