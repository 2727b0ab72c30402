"""The fusion deconv head (paper, section 3.2): upsample, add the backbone's own map, predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.models.layers.depthwise import DepthwiseConv2d

FIRST_PREDICTION = 1  # deconv level 0 (1/8 of the input) predicts nothing

# kernel -> (padding, output_padding) of a transposed convolution that doubles a map exactly
DECONV_GEOMETRY = {4: (1, 0), 3: (1, 1), 2: (0, 0)}


class BackboneMaps(NamedTuple):
    """What the head reads, or the widths of it: the stem's map and one per stage."""

    stem: Tensor  # (B, C, H/2, W/2)
    stages: Sequence[Tensor]  # 1/4, 1/8, 1/16, 1/16


def double_map(in_channels: int, out_channels: int, kernel: int) -> nn.ConvTranspose2d:
    """(B, in, h, w) -> (B, out, 2h, 2w); kernels 4, 3 and 2."""
    if kernel not in DECONV_GEOMETRY:
        raise ValueError(f"deconv kernel {kernel}; possible: {sorted(DECONV_GEOMETRY)}")
    padding, output_padding = DECONV_GEOMETRY[kernel]
    return nn.ConvTranspose2d(
        in_channels, out_channels, kernel, 2, padding, output_padding, bias=False
    )


class SepConv2d(nn.Module):
    """Depthwise 5x5, then 1x1 to the maps; no biases."""

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
    """Inherited by a network rather than held by it: published names have no prefix here.

    Level i doubles the refined map (stage 4's at first) and the raw backbone map of the same size
    (stage 3's, 2's, 1's) and adds them; from level 1 on the refined map and the raw map of its
    size (stage 1's, the stem's) predict together. `fusion=False` leaves out the raw half.
    """

    def __init__(
        self,
        widths: BackboneMaps,
        deconv: Sequence[int],
        kernels: Sequence[int],
        out_channels: Sequence[int],
        fusion: bool = True,
    ) -> None:
        super().__init__()
        self.fusion = fusion
        raw_widths = self.raw_maps(widths)
        refined_in = (widths.stages[-1], *deconv[:-1])
        predicting = list(deconv[FIRST_PREDICTION:])
        self.deconv_refined = nn.ModuleList(map(double_map, refined_in, deconv, kernels))
        if fusion:
            self.deconv_raw = nn.ModuleList(map(double_map, raw_widths[:-1], deconv, kernels))
        self.deconv_bnrelu = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True)) for width in deconv
        )
        self.final_refined = nn.ModuleList(map(SepConv2d, predicting, out_channels))
        if fusion:
            at_prediction = raw_widths[FIRST_PREDICTION + 1 :]
            self.final_raw = nn.ModuleList(map(SepConv2d, at_prediction, out_channels))

    @staticmethod
    def raw_maps(maps: BackboneMaps) -> list:
        """Entry i is the backbone map that has the size of the refined map before level i."""
        return [*reversed(maps.stages[:-1]), maps.stem]

    def head(self, maps: BackboneMaps) -> list[Tensor]:
        """Backbone maps -> predictions, coarse (1/4) to fine (1/2)."""
        raw = self.raw_maps(maps)
        refined = maps.stages[-1]
        outputs = []
        for level, bnrelu in enumerate(self.deconv_bnrelu):
            doubled = self.deconv_refined[level](refined)
            if self.fusion:
                doubled = doubled + self.deconv_raw[level](raw[level])
            refined = bnrelu(doubled)
            if level >= FIRST_PREDICTION:
                outputs.append(self._predict(level - FIRST_PREDICTION, refined, raw[level + 1]))
        return outputs

    def _predict(self, stage: int, refined: Tensor, raw: Tensor) -> Tensor:
        prediction = self.final_refined[stage](refined)
        return prediction + self.final_raw[stage](raw) if self.fusion else prediction


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
