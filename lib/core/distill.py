"""Distillation: a student learns the heatmaps of a teacher (paper, section 4), and its tags."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.codec import Codec
from lib.core.images import flipped_back, resize_maps
from lib.core.loss import MultiLossFactory, heatmap_loss, read_tags
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

    The teacher's input is the same crops, resized to `img_size`; dtype: of its weights.
    tags_factor: weight of `tag_distance`, "distill_tags/0", ...; 0 leaves it out.
    flip_index: (K,) counterparts of the joints; the student learns the teacher's flip test: the
    mean heatmaps and, if it has twice the teacher's tag dimensions, the tags of both passes.
    shift: of the teacher's input, in its pixels, for a teacher of another codec (`codec_shift`).
    share: of the images of a batch that are taught, rounded up: the first ones of its random order.
    """

    def __init__(
        self,
        criterion: MultiLossFactory,
        teacher: nn.Module,
        img_size: int,
        dtype: torch.dtype = torch.float32,
        tags_factor: float = 0.0,
        flip_index: Tensor | None = None,
        shift: float = 0.0,
        share: float = 1.0,
    ) -> None:
        super().__init__()
        self.criterion = criterion
        self.teacher = teacher
        self.img_size = img_size
        self.dtype = dtype
        self.tags_factor = tags_factor
        self.flip_index = flip_index
        self.shift = shift
        self.share = share
        self.imitate = Imitation(criterion.num_joints)

    def forward(self, images: Tensor, outputs: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        terms = self.criterion(images, outputs, targets)
        count = math.ceil(self.share * len(images))
        outputs, targets = [output[:count] for output in outputs], targets.first(count)
        teacher_outputs = self.teacher_maps(images[:count])
        terms |= self.imitate(outputs, teacher_outputs, targets)
        if self.tags_factor:
            joints = self.criterion.num_joints
            for stage, (output, other) in enumerate(zip(outputs, teacher_outputs, strict=True)):
                if output.shape[1] > joints:
                    tags = output[:, joints:]
                    goal = resize_maps(other[:, joints : output.shape[1]], output.shape[2:])
                    error = tag_distance(tags, goal, targets.nodes[stage])
                    terms[f"distill_tags/{stage}"] = self.tags_factor * error.mean()
        return terms

    @torch.no_grad()
    def teacher_maps(self, images: Tensor) -> list[Tensor]:
        """The teacher's float32 outputs for `images`; those of its flip test with `flip_index`.

        These are the mean heatmaps, the tags of the images, and the tags of the flipped images.
        """
        outputs = self.one_pass(images)
        if self.flip_index is None:
            return outputs
        joints = self.criterion.num_joints
        copies = [flipped_back(output, self.flip_index) for output in self.one_pass(images.flip(3))]
        both = []
        for output, copy in zip(outputs, copies, strict=True):
            heatmaps = (output[:, :joints] + copy[:, :joints]) / 2
            both.append(torch.cat([heatmaps, output[:, joints:], copy[:, joints:]], dim=1))
        return both

    def one_pass(self, images: Tensor) -> list[Tensor]:
        """The teacher's float32 outputs for `images`, resized and moved for it."""
        crops = resized(images, self.img_size, self.shift).to(self.dtype)
        return [output.float() for output in self.teacher(crops)]


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


def codec_shift(student: Codec, teacher: Codec) -> float:
    """How far right and down a teacher's input moves, in its pixels, for maps in `student`'s codec.

    Networks of both codecs answer to a joint at x pixels of their input at index x / 2 - 1/2 of
    their finest map. But pixel i is at x = i for the reference codec and at i + 1/2 for the
    unbiased one. So a reference teacher's input of an unbiased student moves by half a pixel.
    """
    return student.pixel_center - teacher.pixel_center


def resized(images: Tensor, size: int, shift: float = 0.0) -> Tensor:
    """(B, 3, H, H) -> (B, 3, size, size), bilinear, moved right and down by `shift` of its pixels.

    The border is repeated where nothing is left.
    """
    if not shift:
        return resize_maps(images, (size, size))
    move = -2 * shift / size  # affine_grid's coordinates go from -1 to 1
    matrix = torch.eye(2, 3, device=images.device)
    matrix[:, 2] = move
    grid = F.affine_grid(
        matrix.expand(len(images), 2, 3), [len(images), 3, size, size], align_corners=False
    )
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
