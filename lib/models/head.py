"""The fusion deconv head (paper, section 3.3).

The refined map starts as the output of stage 4 and passes three deconv levels. Each level upsamples
it and the raw backbone map of the same size by 2, and adds the two. So fine maps reach the output
without a high-resolution branch. From level 1 on, a prediction is computed from the refined and the
raw map. Sides of all maps for an input of 256 pixels (-: no prediction):

    level   refined in    + raw in         -> refined    + raw at that size  -> prediction
    0       stage 4, 16   stage 3, 16         32                                -
    1       32            stage 2, 32         64         stage 1, 64            64
    2       64            stage 1, 64        128         stem, 128             128
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lib.models.layers.conv import deconv2x
from lib.models.layers.depthwise import DepthwiseConv2d

FIRST_PREDICTION = 1  # deconv level 0 (1/8 of the input) has no prediction


class BackboneMaps(NamedTuple):
    """The backbone maps that the head uses (or their widths): of the stem and of each stage."""

    stem: Any  # (B, C, H/2, W/2)
    stages: Sequence[Any]  # 1/4, 1/8, 1/16, 1/16

    @property
    def raw(self) -> list[Any]:
        """Backbone maps by deconv level: entry i has the size of the refined map before level i."""
        return [*reversed(self.stages[:-1]), self.stem]


class SepConv2d(nn.Module):
    """Depthwise 5x5, then 1x1 to the output maps; no biases."""

    conv: Any  # Sequential

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            DepthwiseConv2d(in_channels, 5),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class FusionHead(nn.Module):
    """The head as a base class of networks: tensor names of published weights have no head prefix.

    fusion: False leaves out the raw half (the paper's ablation).
    """

    deconv_refined: Any  # ModuleList, whose entries are just modules for a type checker
    deconv_raw: Any
    deconv_bnrelu: Any
    final_refined: Any
    final_raw: Any

    def __init__(
        self,
        widths: BackboneMaps,
        deconv: Sequence[int],
        kernels: Sequence[int],
        out_channels: Sequence[int],
        fusion: bool = True,
    ) -> None:
        super().__init__()
        self.out_channels, self.deconv_kernels, self.fusion = out_channels, kernels, fusion
        refined = (widths.stages[-1], *deconv[:-1])
        raw, raw_predicting = widths.raw[:-1], widths.raw[FIRST_PREDICTION + 1 :]
        self.deconv_refined = nn.ModuleList(map(deconv2x, refined, deconv, kernels))
        if fusion:
            self.deconv_raw = nn.ModuleList(map(deconv2x, raw, deconv, kernels))
        self.deconv_bnrelu = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True)) for width in deconv
        )
        self.final_refined = nn.ModuleList(map(SepConv2d, deconv[FIRST_PREDICTION:], out_channels))
        if fusion:
            self.final_raw = nn.ModuleList(map(SepConv2d, raw_predicting, out_channels))

    def head(self, maps: BackboneMaps) -> list[Tensor]:
        """Backbone maps -> predictions, coarse (1/4) to fine (1/2)."""
        refined, raw = maps.stages[-1], maps.raw
        outputs = []
        for level, bnrelu in enumerate(self.deconv_bnrelu):
            doubled = self.deconv_refined[level](refined)
            if self.fusion:
                doubled = doubled + self.deconv_raw[level](raw[level])
            refined = bnrelu(doubled)
            if level >= FIRST_PREDICTION:
                stage = level - FIRST_PREDICTION
                prediction = self.final_refined[stage](refined)
                if self.fusion:
                    prediction = prediction + self.final_raw[stage](raw[level + 1])
                outputs.append(prediction)
        return outputs


@torch.no_grad()
def init_weights(model: nn.Module) -> None:
    """He initialization by fan-out; the last 1x1 of each prediction starts near zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    for module in model.modules():
        if isinstance(module, SepConv2d):
            nn.init.normal_(module.conv[-1].weight, std=1e-3)


def with_tag_maps(
    state: Mapping[str, Tensor], model: nn.Module, num_joints: int
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """`state` with the tag maps that its outputs lack for those of `model`; their number by layer.

    They are those of `model`, which start near 0, so that distances between tags stay nearly the
    same. Copies of the first dimension would have equal gradients, and stay copies.
    """
    extended, added = dict(state), {}
    finals = {name: one for name, one in model.state_dict().items() if name.startswith("final")}
    for name, initial in finals.items():
        known = state.get(name)
        if known is None or not known.dim() or known.shape[1:] != initial.shape[1:]:
            continue
        if len(known) in range(num_joints, len(initial), num_joints):
            extended[name] = torch.cat([known, initial[len(known) :]])
            added[name.removesuffix(".weight")] = len(initial) - len(known)
    return extended, added
