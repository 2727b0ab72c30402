"""LitePose for PyTorch Hub.

predictor = torch.hub.load(".", "litepose", weights="checkpoint.pth.tar", source="local")
people = predictor("street.jpg")
"""

from __future__ import annotations

import os
from typing import Any

from lib.predictor import Predictor

dependencies = ["torch", "numpy", "scipy", "cv2", "yacs", "yaml"]


def litepose(weights: str | os.PathLike[str], **options: Any) -> Predictor:
    """The `Predictor` of a file of weights: a function from an image to its people.

    weights: a checkpoint, an extracted sub-network, published weights or an exported model.onnx.
    options: those of `Predictor.load`, such as device="cpu", input_size=448 or joints="coco".
    """
    return Predictor.load(weights, **options)
