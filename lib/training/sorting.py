"""The images by which the channels of a network are sorted (`lib/models/reorder.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from yacs.config import CfgNode

from lib.core.calibrate import Calibration
from lib.dataset.build import build_dataset, make_dataloader


def sorting_images(cfg: CfgNode, device: torch.device) -> Iterator[Tensor] | None:
    """SUPERNET.SORTING_IMAGES training images in batches; None: weights decide the importance."""
    if cfg.SUPERNET.IMPORTANCE == "weights":
        return None
    loader = partial(make_dataloader, cfg)
    images = Calibration(build_dataset(cfg), loader, cfg.SUPERNET.SORTING_IMAGES)
    return images.batches(cfg.DATASET.INPUT_SIZE, device)
