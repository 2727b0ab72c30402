"""LitePose for PyTorch Hub.

predictor = torch.hub.load(".", "litepose", source="local")  # or weights="checkpoint.pth.tar"
people = predictor("street.jpg")
"""

from __future__ import annotations

import os
from typing import Any

from lib.predictor import Predictor
from lib.utils import shipped

dependencies = ["torch", "numpy", "scipy", "cv2", "yacs", "yaml", "safetensors"]


def litepose(weights: str | os.PathLike[str] = shipped.DEFAULT, **options: Any) -> Predictor:
    """The `Predictor` of a file of weights: a function from an image to its people.

    weights: a checkpoint, an extracted sub-network, published weights, an exported model.onnx, or
    the name of weights that come with the project.
    options: those of `Predictor.load`, such as device="cpu", input_size=448 or joints="coco".
    """
    return Predictor.load(weights, **options)
