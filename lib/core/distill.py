"""Heatmap distillation: a student learns the heatmaps of a teacher (paper, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.core.images import resize_maps
from lib.core.loss import MultiLossFactory, heatmap_loss
from lib.dataset.target_generators import Targets


class Imitation(nn.Module):
    """Heatmap loss against a teacher's heatmaps, one term per output stage: "distill/0", ..."""

    def __init__(self, num_joints: int, factor: float = 1.0) -> None:
        super().__init__()
        self.num_joints = num_joints
        self.factor = factor

    def forward(
        self, outputs: list[Tensor], teacher_outputs: list[Tensor], targets: Targets
    ) -> dict[str, Tensor]:
        """outputs, teacher_outputs: S of (B, C, h, w) each; h and w may differ between the two."""
        terms = {}
        for stage, (output, other) in enumerate(zip(outputs, teacher_outputs, strict=True)):
            goal = resize_maps(other[:, : self.num_joints], output.shape[2:])
            error = heatmap_loss(output[:, : self.num_joints], goal, targets.masks[stage])
            terms[f"distill/{stage}"] = self.factor * error.mean()
        return terms


class Distillation(nn.Module):
    """The terms of `criterion`, and those of the distillation from a frozen teacher.

    The teacher's input is the same crops, resized to its input size `img_size`.
    """

    def __init__(self, criterion: MultiLossFactory, teacher: nn.Module, img_size: int) -> None:
        super().__init__()
        self.criterion = criterion
        self.teacher = teacher
        self.img_size = img_size
        self.imitate = Imitation(criterion.num_joints)

    def forward(self, images: Tensor, outputs: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher_outputs = self.teacher(resize_maps(images, (self.img_size, self.img_size)))
        terms = self.criterion(images, outputs, targets)
        return terms | self.imitate(outputs, teacher_outputs, targets)
