"""8-bit integers in place of floats, after training: weights per channel, maps by what they hold.

The network is quantized up to its last convolution; normalization, the sums and the enlargement of
its predictions, peaks and positions stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

CONVOLUTIONS = ("Conv", "ConvTranspose")
QUANTIZED = (*CONVOLUTIONS, "Add", "Clip", "Concat", "Relu")


class Inputs(CalibrationDataReader):
    """Pictures (1, H, W, 3) uint8, one after the other."""

    def __init__(self, pictures: Iterable[np.ndarray]) -> None:
        self.pictures: Iterator[np.ndarray] = iter(pictures)

    def get_next(self) -> dict[str, np.ndarray] | None:
        picture = next(self.pictures, None)
        return None if picture is None else {"pictures": picture}


def quantize(path: Path, target: Path, pictures: Iterable[np.ndarray]) -> None:
    """Write to `target` the model at `path` in int8, with the ranges that maps of `pictures` have.

    In the QDQ form: pairs of QuantizeLinear and DequantizeLinear say what runs in integers, weights
    in signed ones, one scale per output channel, maps in unsigned ones.
    """
    logging.getLogger().addFilter(_is_no_advice)
    try:
        quantize_static(
            *(path, target, Inputs(pictures)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=quantized_nodes(onnx.load(path)),
        )
    finally:
        logging.getLogger().removeFilter(_is_no_advice)


def quantized_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes up to the last convolution that can do with 8 bits."""
    nodes = list(model.graph.node)
    last = max(i for i, node in enumerate(nodes) if node.op_type in CONVOLUTIONS)
    return [node.name for node in nodes[: last + 1] if node.op_type in QUANTIZED]


def _is_no_advice(record: logging.LogRecord) -> bool:
    """False for the advice to simplify the model first, which export did."""
    return "pre-processing" not in record.getMessage()
