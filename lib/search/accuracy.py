"""How good a cut sub-network is: AP after its BatchNorm statistics are made its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.core.calibrate import recalibrate
from lib.core.evaluate import average_precision
from lib.core.images import normalize
from lib.core.inference import InferenceSettings
from lib.core.pipeline import LoaderSettings
from lib.dataset.build import EvaluationSet, make_dataloader
from lib.dataset.pose_dataset import PoseDataset
from lib.models.arch import ArchSpec


@dataclass(frozen=True)
class SubnetAccuracy:
    """arch -> AP, 0 to 1, at the resolution of `arch`."""

    cfg: CfgNode
    cut: Callable[[ArchSpec], nn.Module]
    training: PoseDataset  # to calibrate on
    held_out: EvaluationSet  # to score on
    calibrate: int  # pictures

    def __call__(self, arch: ArchSpec) -> float:
        cfg = at_resolution(self.cfg, arch.img_size)
        network = self.cut(arch)
        device = next(network.parameters()).device
        batches = calibration_batches(cfg, self.training, device)
        recalibrate(network, batches, self.calibrate)
        settings, loading = InferenceSettings.from_config(cfg), LoaderSettings.from_config(cfg)
        return average_precision(settings, network, self.held_out, loading)


def at_resolution(cfg: CfgNode, size: int) -> CfgNode:
    """`cfg` with another input size, frozen."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASET.INPUT_SIZE = size
    cfg.DATASET.OUTPUT_SIZE = [size // 4 * 2**stage for stage in range(cfg.LOSS.NUM_STAGES)]
    cfg.freeze()
    return cfg


def calibration_batches(
    cfg: CfgNode, training: PoseDataset, device: torch.device
) -> Iterator[Tensor]:
    """(B, 3, H, W) normalized training crops at the resolution of `cfg`, the same each time."""
    training = copy.copy(training)
    training.crop_size, training.map_sizes = cfg.DATASET.INPUT_SIZE, cfg.DATASET.OUTPUT_SIZE
    for batch in make_dataloader(cfg, training):
        yield normalize(batch.images.to(device))
