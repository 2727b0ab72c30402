"""The int8 model of a network (`tools.export --int8`), for ONNX Runtime and for OpenVINO."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.core.images import normalize
from lib.deploy.damage import layer_damage
from lib.deploy.equalize import equalize
from lib.deploy.export import make_program, write_onnx
from lib.deploy.fold import fold_norms
from lib.deploy.graph import Graph
from lib.deploy.quantize import quantize
from lib.deploy.round_weights import round_weights
from lib.utils.images import read_image
from lib.utils.tables import markdown
from tools.demo.media import find_images

logger = logging.getLogger(__name__)

MAX_DAMAGE = 2e-3  # of a layer in 8 bits; see `lib.deploy.damage`
IMAGES, SIDE = 4, 256  # of squares, to measure the damage of every layer on
LISTED = 12  # layers in the table


def write_int8(
    target: Path, graph: Graph, size: tuple[int, int] | None, images: Sequence[np.ndarray]
) -> str:
    """Write the int8 model of `graph`, calibrated on `images` (1, H, W, 3); return a table.

    The channels before the layers that lose most in 8 bits get equal ranges; of these layers, those
    that still lose much stay in floats. The weights of all others are rounded, and their biases
    corrected. `graph` is not changed.
    """
    inputs = [normalize(torch.from_numpy(image)) for image in images]
    folded = fold_norms(graph.network)  # a copy
    squares = [center(one) for one in inputs[:IMAGES]]
    joints = graph.settings.num_joints
    damage = layer_damage(folded, squares, joints)
    lossy = [one.layer for one in damage if one.share > MAX_DAMAGE]
    equal = [name for name in lossy if equalize(folded, name, inputs)]
    now = {one.layer: one.share for one in layer_damage(folded, squares, joints, lossy)}
    floats = [name for name in lossy if now[name] > MAX_DAMAGE]
    round_weights(folded, inputs, floats)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rounded.onnx"
        copied = type(graph)(graph.settings, folded).eval()
        write_onnx(path, make_program(copied, size), copied.outputs)
        quantize(path, target, images, floats)
    rows = []
    for one in damage[:LISTED]:
        after = f"{now[one.layer]:.5f}" if one.layer in equal else ""
        stays = "float" if one.layer in floats else "8 bits"
        rows.append([one.layer, f"{one.share:.5f}", after, stays])
    head = ["layer", "damage in 8 bits", "with channels of equal ranges", "stays"]
    return f"{len(floats)} of {len(damage)} layers stay in floats:\n\n{markdown(head, rows)}\n"


def center(image: torch.Tensor) -> torch.Tensor:
    """The middle of images (B, 3, H, W), at most SIDE pixels on each side."""
    top, left = (max(0, side - SIDE) // 2 for side in image.shape[2:])
    return image[:, :, top : top + SIDE, left : left + SIDE]


def folder_inputs(
    folder: Path, count: int, prepare: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Inputs that `prepare` makes of at most `count` images of --calibrate.

    A damaged or very long image is left out, with a warning; ValueError where none is left.
    """
    names = find_images(folder, "--calibrate")
    number = 0
    for index in spread(names, count):
        try:
            prepared = prepare(read_image(folder / names[index]))
        except ValueError as error:
            logger.warning("%s is left out of the calibration: %s", names[index], error)
            continue
        number += 1
        yield prepared
    if not number:
        raise ValueError(f"--calibrate: no image of {folder} can be used")


def spread(items: Sequence[Any], count: int) -> np.ndarray:
    """Indices of at most `count` items from all over a list: neighbors are often alike."""
    return np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
