"""Heatmap distillation: a fixed, larger network shows where its heatmaps are (paper, section 4)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.core.images import resize_maps
from lib.core.loss import heatmap_loss
from lib.dataset.target_generators import Targets
from lib.models.arch import ArchSpec
from lib.utils.checkpoint import load_checkpoint, load_weights


class Teacher(NamedTuple):
    """What a checkpoint says of its network."""

    cfg: CfgNode
    arch: ArchSpec | None  # None: MODEL.EXTRA of `cfg` describes it
    img_size: int


def read_teacher(cfg: CfgNode, path: str | Path) -> Teacher:
    """The network in the checkpoint at `path`, for a student of `cfg`.

    Its settings are those saved with it; where only an architecture is, the student's.
    """
    saved = load_checkpoint(path)
    arch = ArchSpec.from_dict(saved["arch"]) if saved.get("arch") else None
    own = with_network_of(cfg, saved["config"]) if "config" in saved else cfg
    if arch is None and own is cfg:
        raise ValueError(
            f"--teacher {path} does not say its architecture; a checkpoint.pth.tar does"
        )
    for node, key in (("MODEL", "NUM_JOINTS"), ("MODEL", "CODEC"), ("LOSS", "NUM_STAGES")):
        if own[node][key] != cfg[node][key]:
            raise ValueError(
                f"--teacher {path} has {node}.{key} {own[node][key]}, the student {cfg[node][key]}"
            )
    return Teacher(own, arch, arch.img_size if arch else own.DATASET.INPUT_SIZE)


def with_network_of(cfg: CfgNode, text: str) -> CfgNode:
    """`cfg` with the network and the input size of the saved settings `text`."""
    saved, own = CfgNode.load_cfg(text), cfg.clone()
    own.defrost()
    for node in ("MODEL", "LOSS"):
        own[node] = CfgNode({**cfg[node], **saved[node]})  # keys younger than the file stay
    own.DATASET.INPUT_SIZE = saved.DATASET.INPUT_SIZE
    return own


def freeze_teacher(model: nn.Module, path: str | Path, device: torch.device) -> nn.Module:
    """`model` with the weights of `path`, in evaluation mode, without gradients, on `device`."""
    load_weights(model, path)
    return model.to(device).eval().requires_grad_(False)


class Imitation(nn.Module):
    """Distance of heatmaps to those of another network, one term per stage: "distill/0", ..."""

    def __init__(self, num_joints: int, factor: float = 1.0) -> None:
        super().__init__()
        self.num_joints = num_joints
        self.factor = factor

    def forward(
        self, outputs: list[Tensor], shown: list[Tensor], targets: Targets
    ) -> dict[str, Tensor]:
        """`shown`: the other network's outputs, of any size."""
        terms = {}
        for stage, (own, theirs) in enumerate(zip(outputs, shown, strict=True)):
            wanted = resize_maps(theirs[:, : self.num_joints], own.shape[2:])
            error = heatmap_loss(own[:, : self.num_joints], wanted, targets.masks[stage])
            terms[f"distill/{stage}"] = self.factor * error.mean()
        return terms


class Distillation(nn.Module):
    """A criterion and the imitation of a fixed teacher.

    The teacher looks at the same crops at its own size.
    """

    def __init__(
        self, criterion: nn.Module, teacher: nn.Module, img_size: int, factor: float = 1.0
    ) -> None:
        super().__init__()
        self.criterion = criterion
        self.teacher = teacher
        self.img_size = img_size
        self.imitate = Imitation(criterion.num_joints, factor)

    def forward(self, images: Tensor, outputs: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        with torch.no_grad():
            shown = self.teacher(resize_maps(images, (self.img_size, self.img_size)))
        return self.criterion(images, outputs, targets) | self.imitate(outputs, shown, targets)
