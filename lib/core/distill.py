"""Distillation: a student learns the heatmaps of a teacher (paper, section 4), and its tags."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.core.images import resize_maps
from lib.core.loss import MultiLossFactory, heatmap_loss, read_tags
from lib.dataset.target_generators import Targets
from lib.utils.device import half_precision


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

    The teacher's input is the same crops, resized to `img_size`; with `half` it computes in half
    precision. tags_factor: weight of `tag_distance`, "distill_tags/0", ...; 0 leaves it out.
    flip_index: (K,) counterparts of the joints; the teacher's heatmaps are then averaged with those
    of the flipped crops, as in a flip test. None: they are not.
    """

    def __init__(
        self,
        criterion: MultiLossFactory,
        teacher: nn.Module,
        img_size: int,
        half: bool = False,
        tags_factor: float = 0.0,
        flip_index: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.criterion = criterion
        self.teacher = teacher
        self.img_size = img_size
        self.in_half_precision = half
        self.tags_factor = tags_factor
        self.flip_index = flip_index
        self.imitate = Imitation(criterion.num_joints)

    def forward(self, images: Tensor, outputs: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        teacher_outputs = self.teacher_maps(resize_maps(images, (self.img_size, self.img_size)))
        terms = self.criterion(images, outputs, targets)
        terms |= self.imitate(outputs, teacher_outputs, targets)
        if self.tags_factor:
            joints = self.criterion.num_joints
            for stage, (output, other) in enumerate(zip(outputs, teacher_outputs, strict=True)):
                if output.shape[1] > joints:
                    goal = resize_maps(other[:, joints:], output.shape[2:])
                    error = tag_distance(output[:, joints:], goal, targets.nodes[stage])
                    terms[f"distill_tags/{stage}"] = self.tags_factor * error.mean()
        return terms

    @torch.no_grad()
    def teacher_maps(self, crops: Tensor) -> list[Tensor]:
        """The teacher's outputs for `crops`, in float32; tags are those of the unflipped crops."""
        with half_precision(crops.device, self.in_half_precision):
            outputs = [output.float() for output in self.teacher(crops)]
            if self.flip_index is None:
                return outputs
            flipped = [output.float().flip(3) for output in self.teacher(crops.flip(3))]
        joints = self.criterion.num_joints
        for output, other in zip(outputs, flipped, strict=True):
            output[:, :joints] = (output[:, :joints] + other[:, self.flip_index]) / 2
        return outputs


def tag_distance(tag_maps: Tensor, teacher_maps: Tensor, nodes: Tensor) -> Tensor:
    """Squared distance of the tags at the labelled joints, mean over the joints of an image.

    tag_maps, teacher_maps: (B, D * K or 1, H, W); nodes: (B, P, K, 2), as in `read_tags` -> (B,).
    Each network is free to add a constant to the tags of an image; their mean difference is taken
    off.
    """
    tags, visible = read_tags(tag_maps, nodes)
    goals, _ = read_tags(teacher_maps, nodes)
    count = visible.sum(dim=(1, 2)).clamp(min=1)
    difference = (tags - goals) * visible[..., None]  # (B, P, K, D)
    offset = difference.sum(dim=(1, 2)) / count[:, None]
    squares = (difference - offset[:, None, None]).square().sum(dim=3)
    return (squares * visible).sum(dim=(1, 2)) / count
