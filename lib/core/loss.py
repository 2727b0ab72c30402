"""Heatmap and associative-embedding losses (Newell et al. 2017, as in HigherHRNet).

Options that the paper's recipe does not have are off by default (docs/options.md).

The functions compute single losses; the module `MultiLossFactory` weights and collects them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.core.images import tag_dimensions
from lib.dataset.target_generators import Targets

SOFT_BOUNDARY = 0.01  # the gamma of `adaptive_weights`
SIZE_SHARPNESS = 1e-3  # of `size_loss`: a size this near to a middle is in it


def heatmap_loss(
    predicted: Tensor,
    target: Tensor,
    mask: Tensor,
    labelled: Tensor | None = None,
    adaptive: bool = False,
) -> Tensor:
    """Masked squared error, mean over joints and pixels.

    predicted, target: (B, K, H, W); mask: (B, H, W) -> (B,). labelled: (B, K), 0 for joints that
    cost nothing; these count in the mean, so that the others weigh as without them. adaptive: each
    pixel has a weight (`adaptive_weights`).
    """
    error = (predicted - target).square() * mask[:, None]
    if adaptive:
        error = error * adaptive_weights(predicted, target)
    if labelled is not None:
        error = error * labelled[..., None, None]
    return error.mean(dim=(1, 2, 3))


def adaptive_weights(predicted: Tensor, target: Tensor) -> Tensor:
    """Weights of pixels, small where the prediction is good: WAHR of Luo et al. 2021 (SWAHR).

    w = h |1 - p| + (1 - h) |p| with h = target^gamma, which is nearly 1 on a Gaussian and 0 off
    it. Easy background, by far the most pixels, then weighs little. Weights have gradients, as in
    the authors' code.
    """
    on_joint = target.pow(SOFT_BOUNDARY)
    off, on = predicted.abs(), (1 - predicted).abs()
    return off + on_joint * (on - off)


def read_tags(tag_maps: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Tags (B, P, K, D) at the addresses of `nodes`; (B, P, K) 1 for a labelled joint, else 0.

    tag_maps: (B, D * K or 1, H, W). nodes: (B, P, K, 2), a flat address in the tag maps of an image
    (of the first dimension), and whether there is a joint
    (`lib.dataset.target_generators.joint_nodes`).
    """
    address = nodes[..., 0].flatten(1)  # (B, P * K)
    tags = [
        one.flatten(1).gather(1, address).view(nodes.shape[:3])
        for one in tag_dimensions(tag_maps, nodes.shape[2])
    ]
    return torch.stack(tags, dim=3), nodes[..., 1].to(tag_maps.dtype)


def mean_tags(tags: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Mean tag (B, P, D) of each person slot, and (B, P) whether the slot holds a person.

    tags (B, P, K, D), visible (B, P, K): as from `read_tags`.
    """
    joints = visible.sum(dim=2)
    sums = (tags * visible[..., None]).sum(dim=2)
    return sums / joints.clamp(min=1)[..., None], joints > 0


def pull_loss(tags: Tensor, visible: Tensor) -> Tensor:
    """Mean squared distance of each person's tags to their mean, mean over people.

    tags (B, P, K, D), visible (B, P, K) -> (B,); 0 for an image without people.
    """
    mean, present = mean_tags(tags, visible)
    spread = (tags - mean[:, :, None]).square().sum(dim=3) * visible  # (B, P, K)
    per_person = spread.sum(dim=2) / visible.sum(dim=2).clamp(min=1)  # (B, P)
    return per_person.sum(dim=1) / present.sum(dim=1).clamp(min=1)


def push_loss(tags: Tensor, visible: Tensor, kind: str = "exp", start: float = 0.0) -> Tensor:
    """Penalty for close mean tags of two people, mean over ordered pairs, halved.

    tags (B, P, K, D), visible (B, P, K) -> (B,). `kind` "exp": exp(-|d|^2); "max": hinge 1 - |d|.
    The loss of an image with fewer than two people is 0. start: s of exp(-(|d| + s)^2), for "exp".
    """
    mean, present = mean_tags(tags, visible)
    difference = mean[:, :, None] - mean[:, None, :]  # (B, P, P, D)
    if kind != "exp":
        near = (1 - torch.linalg.vector_norm(difference, dim=3)).clamp(min=0)
    elif start:
        near = torch.exp(-(away_from_0(difference) + start).square())
    else:
        near = torch.exp(-difference.square().sum(dim=3))
    pairs = present[:, :, None] & present[:, None, :]
    pairs = pairs & ~torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)
    return 0.5 * (near * pairs).sum(dim=(1, 2)) / pairs.sum(dim=(1, 2)).clamp(min=1)


def away_from_0(difference: Tensor) -> Tensor:
    """|d| of (B, P, P, D) differences; at d = 0 its gradient parts the two people.

    exp(-d^2) is flat at d = 0: equal tags stay equal, and nearly equal ones part slowly. With
    |d| + s its slope there is 2 s exp(-s^2), and of two people with the same tag, the one in the
    later slot is pushed up, in the first dimension.
    """
    slot = torch.arange(difference.shape[1], device=difference.device)
    order = torch.sign(slot[:, None] - slot)  # (P, P), antisymmetric as d is
    distance = torch.linalg.vector_norm(difference, dim=3)  # its gradient at 0 is 0
    return torch.where(distance == 0, order * difference[..., 0], distance)


def size_loss(tags: Tensor, visible: Tensor, sizes: Tensor) -> Tensor:
    """How badly a person's mean tag tells its size, mean over people: Wang et al. 2022.

    tags (B, P, K, D), visible (B, P, K), sizes (B, P) -> (B,). 1 - cosine between the absolute
    values of the mean tag and a profile of the size: 1 / distance to the middles of D equal parts
    of 0 to 1. So each dimension is large for people of its sizes. People of size 0 cost nothing.
    """
    mean, _ = mean_tags(tags, visible)
    dims = tags.shape[3]
    middles = (torch.arange(dims, device=tags.device) + 0.5) / dims
    profile = 1 / ((sizes[..., None] - middles).abs() + SIZE_SHARPNESS)  # (B, P, D)
    error = 1 - F.cosine_similarity(mean.abs(), profile, dim=2)
    has_size = sizes > 0
    return (error * has_size).sum(dim=1) / has_size.sum(dim=1).clamp(min=1)


def person_sizes(nodes: Tensor, height: int, width: int) -> Tensor:
    """(B, P, K, 2), as in `read_tags` of maps of height x width -> (B, P), shares of the map.

    The longer side of the labelled joints on it; 0 for a single joint and for nobody.
    """
    address, seen = nodes[..., 0], nodes[..., 1] > 0
    spans = [
        torch.where(seen, axis, -1).amax(dim=2) - torch.where(seen, axis, side).amin(dim=2)
        for axis, side in ((address // width % height, height), (address % width, width))
    ]
    return torch.maximum(*spans).clamp(min=0) / max(height, width)


def switched(factors: Sequence[float], flags: Sequence[bool]) -> list[float]:
    """The factors of the stages that are switched on, 0 for the others."""
    return [factor * flag for factor, flag in zip(factors, flags, strict=True)]


class TagLoss(NamedTuple):
    """How tags are penalized, beyond the factors of push and pull."""

    kind: str = "exp"  # of `push_loss`
    push_start: float = 0.0  # of `push_loss`
    push_each: bool = False  # push apart in each dimension, in place of their vectors
    size_factor: float = 0.0  # weight of `size_loss`

    def push(self, tags: Tensor, visible: Tensor) -> Tensor:
        """tags (B, P, K, D), visible (B, P, K) -> (B,).

        The distance of two vectors is large as soon as one dimension tells the two people apart.
        With push_each, each dimension must, so the error of one can be made up by the others.
        """
        parts = tags.split(1, dim=3) if self.push_each else [tags]
        losses = [push_loss(part, visible, self.kind, self.push_start) for part in parts]
        return torch.stack(losses).sum(dim=0)


class MultiLossFactory(nn.Module):
    """images, outputs, targets -> {"heatmap/0": ..., "push/0": ..., "pull/0": ..., ...}.

    Terms are weighted means over the batch; their sum is the loss. Each output stage is
    (B, K + T, H, W): K heatmaps, then T tag maps (0, 1 or D * K).
    """

    def __init__(
        self,
        num_joints: int,
        heatmap_factors: Sequence[float],
        push_factors: Sequence[float],
        pull_factors: Sequence[float],
        tag_loss: TagLoss = TagLoss(),  # noqa: B008 (frozen)
        adaptive: bool = False,
    ) -> None:
        """One factor per stage; a factor of 0 leaves the term out."""
        super().__init__()
        self.num_joints = num_joints
        self.heatmap_factors = list(heatmap_factors)
        self.push_factors = list(push_factors)
        self.pull_factors = list(pull_factors)
        self.tag_loss = tag_loss
        self.adaptive = adaptive

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MultiLossFactory:
        """The losses of LOSS.*."""
        loss = cfg.LOSS
        return cls(
            num_joints=cfg.MODEL.NUM_JOINTS,
            heatmap_factors=switched(loss.HEATMAPS_LOSS_FACTOR, loss.WITH_HEATMAPS_LOSS),
            push_factors=switched(loss.PUSH_LOSS_FACTOR, loss.WITH_AE_LOSS),
            pull_factors=switched(loss.PULL_LOSS_FACTOR, loss.WITH_AE_LOSS),
            tag_loss=TagLoss(
                kind=loss.AE_LOSS_TYPE,
                push_start=loss.PUSH_START,
                push_each=loss.PUSH_EACH_DIM,
                size_factor=loss.TAG_SIZE_FACTOR,
            ),
            adaptive=loss.WAHR,
        )

    def forward(
        self, images: Tensor, outputs: Sequence[Tensor], targets: Targets
    ) -> dict[str, Tensor]:
        """`images` (B, 3, H, W) are not used here; `Distillation` passes them to its teacher."""
        terms = {}
        for stage, output in enumerate(outputs):
            heatmaps, tag_maps = output[:, : self.num_joints], output[:, self.num_joints :]
            if factor := self.heatmap_factors[stage]:
                error = heatmap_loss(
                    heatmaps,
                    targets.heatmaps[stage],
                    targets.masks[stage],
                    targets.labelled,
                    self.adaptive,
                )
                terms[f"heatmap/{stage}"] = factor * error.mean()
            push, pull = self.push_factors[stage], self.pull_factors[stage]
            if push or pull:
                tags, visible = read_tags(tag_maps, targets.nodes[stage])
                terms[f"push/{stage}"] = push * self.tag_loss.push(tags, visible).mean()
                terms[f"pull/{stage}"] = pull * pull_loss(tags, visible).mean()
                if self.tag_loss.size_factor:
                    sizes = person_sizes(targets.nodes[stage], *tag_maps.shape[2:])
                    untold = size_loss(tags, visible, sizes)
                    terms[f"tag_size/{stage}"] = self.tag_loss.size_factor * untold.mean()
        return terms
