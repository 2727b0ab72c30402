"""Heatmap distillation: a fixed, larger network shows where its heatmaps are (paper, section 4)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lib.core.inference import resize_maps
from lib.core.loss import heatmap_loss
from lib.dataset.target_generators import Targets
from lib.models.arch import ArchSpec
from lib.utils.checkpoint import load_checkpoint, load_weights


def teacher_arch(path: str | Path) -> ArchSpec:
    """The architecture that the checkpoint at `path` says it is of."""
    arch = load_checkpoint(path).get("arch")
    if not arch:
        raise ValueError(
            f"--teacher {path} does not say its architecture; a checkpoint.pth.tar does"
        )
    return ArchSpec.from_dict(arch)


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
