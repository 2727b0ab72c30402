"""One pass instead of two: the network is to answer a flipped image as it answers the image.

A flip test averages both answers at twice the time. Here the difference of the answers is a loss,
so that a single one comes closer to their mean. `make_view` appends flipped copies of the first
images to a batch (ViewSettings.flip_share); nothing but this loss sees the answers to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lib.core.images import flipped_back
from lib.core.loss import heatmap_loss, pull_loss, read_tags
from lib.dataset.target_generators import Targets


class FlipConsistency(nn.Module):
    """The terms of `criterion` for the images, and the differences to their copies: "flip/0", ...

    flip_index: (K,) counterparts of the joints. Factors: one per stage; 0 leaves the term out.
    Heatmaps cost their squared difference where the heatmap loss counts. Tags ("flip_tags/0", ...)
    cost what differs within a person: in a copy all tags of a person may move by one number.
    """

    def __init__(
        self,
        criterion: Callable[[Tensor, list[Tensor], Targets], dict[str, Tensor]],
        flip_index: Tensor,
        heatmap_factors: Sequence[float],
        tag_factors: Sequence[float],
    ) -> None:
        super().__init__()
        self.criterion = criterion
        self.flip_index = flip_index
        self.heatmap_factors = heatmap_factors
        self.tag_factors = tag_factors

    def forward(self, images: Tensor, outputs: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """images (B + F, 3, H, W), the copies last; targets of the B images."""
        count, joints = len(targets.masks[0]), len(self.flip_index)
        terms = self.criterion(images[:count], [output[:count] for output in outputs], targets)
        for stage, output in enumerate(outputs):
            copy = flipped_back(output[count:], self.flip_index)
            output = output[: len(copy)]
            if factor := self.heatmap_factors[stage]:
                mask = targets.masks[stage][: len(copy)]
                error = heatmap_loss(output[:, :joints], copy[:, :joints], mask)
                terms[f"flip/{stage}"] = factor * error.mean()
            if factor := self.tag_factors[stage]:
                nodes = targets.nodes[stage][: len(copy)]
                tags, visible = read_tags(output[:, joints:], nodes)
                others, _ = read_tags(copy[:, joints:], nodes)
                terms[f"flip_tags/{stage}"] = factor * pull_loss(tags - others, visible).mean()
        return terms
