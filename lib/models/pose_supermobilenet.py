"""The LitePose supernet: every sub-network of the search space in one set of weights.

`supernet(images, arch)` runs the sub-network `arch` (paper, section 4) by the slicing rule of
`lib/models/layers/elastic.py`. The state dict has the names of a LitePose.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.models.arch import ArchSpec, make_divisible
from lib.models.head import FIRST_PREDICTION, BackboneMaps, SepConv2d
from lib.models.layers import elastic
from lib.models.pose_mobilenet import InvertedBottleneck, LitePose, default_arch, head_settings


class SuperBottleneck(InvertedBottleneck):
    """An inverted bottleneck that runs at any smaller width, expansion and kernel."""

    def at(self, x: Tensor, width: int, expansion: int, kernel: int) -> Tensor:
        """(B, in, H, W) -> (B, width, H', W')"""
        hidden = make_divisible(round(x.shape[1] * expansion))
        filters = elastic.smaller_kernel(self, kernel)
        out = elastic.norm(self.inv[1], elastic.conv(self.inv[0], x, hidden))
        out = elastic.depthwise(self.depth_conv[0], F.relu6(out, inplace=True), filters)
        out = F.relu6(elastic.norm(self.depth_conv[1], out), inplace=True)
        out = elastic.norm(self.point_conv[1], elastic.conv(self.point_conv[0], out, width))
        residual = self.depth_conv[0].stride == (1, 1) and x.shape[1] == width
        return x + out if residual else out


class SuperLitePose(LitePose):
    """images, arch -> outputs of the sub-network `arch`; without `arch`, of the complete network.

    A stage runs its leading blocks, as many as `arch` has; all but its first add to their input. At
    full depth, expansion and kernel, every step uses a slice of every parameter.
    """

    block = SuperBottleneck
    # Whether a step may use no part of some parameters: DDP has to know.
    has_unused_parameters = False
    # Published supernets have linear maps to smaller kernels; here only with elastic_kernel.
    optional_weights = tuple(f".{name}." for name in elastic.KERNEL_MAPS.values())

    def __init__(
        self,
        arch: ArchSpec,
        out_channels: Sequence[int],
        deconv_kernels: Sequence[int] = (4, 4, 4),
        fusion: bool = True,
        elastic_kernel: bool = False,
    ) -> None:
        super().__init__(arch, out_channels, deconv_kernels, fusion)
        if elastic_kernel:
            for block in self.blocks():
                _add_kernel_maps(block)
            self.has_unused_parameters = True  # the maps of all other sizes

    def forward(self, images: Tensor, arch: ArchSpec | None = None) -> list[Tensor]:
        if arch is None:
            return super().forward(images)
        check_fits(arch, self.arch)
        strided, separable, pointwise, bn = self.first
        stem = elastic.conv(pointwise, separable(strided(images)), arch.input_channel)
        x = stem = elastic.norm(bn, stem)
        maps = []
        for stage, spec in zip(self.stage, arch.stages, strict=True):
            for block, (expansion, kernel) in zip(stage, spec.blocks, strict=False):
                x = block.at(x, spec.channel, expansion, kernel)
            maps.append(x)
        return self._head_at(BackboneMaps(stem, maps), arch.deconv)

    def _head_at(self, maps: BackboneMaps, deconv: Sequence[int]) -> list[Tensor]:
        """`FusionHead.head` at the widths `deconv`."""
        refined, raw = maps.stages[-1], maps.raw
        outputs = []
        for level, width in enumerate(deconv):
            doubled = elastic.deconv(self.deconv_refined[level], refined, width)
            if self.fusion:
                doubled = doubled + elastic.deconv(self.deconv_raw[level], raw[level], width)
            refined = F.relu(elastic.norm(self.deconv_bnrelu[level][0], doubled), inplace=True)
            if level >= FIRST_PREDICTION:
                stage = level - FIRST_PREDICTION
                prediction = _separable(self.final_refined[stage], refined)
                if self.fusion:
                    prediction = prediction + _separable(self.final_raw[stage], raw[level + 1])
                outputs.append(prediction)
        return outputs


def check_fits(arch: ArchSpec, largest: ArchSpec) -> None:
    """ValueError if `arch` does not fit into the supernet; it names the first mismatch."""
    limits = largest.numbers | {"img_size": arch.img_size}  # every resolution is possible
    for name, number in arch.numbers.items():
        if number > limits[name]:
            raise ValueError(f"{name} is {number}, the supernet has {limits[name]}")


def _separable(layer: SepConv2d, x: Tensor) -> Tensor:
    depthwise, bn, relu, pointwise = layer.conv
    out = relu(elastic.norm(bn, elastic.depthwise(depthwise, x)))
    return elastic.conv(pointwise, out, width=pointwise.out_channels)


def _add_kernel_maps(block: InvertedBottleneck) -> None:
    """Add linear maps from the center of the filters to smaller kernels, initially identities."""
    full = block.depth_conv[0].kernel_size[0]
    for kernel, name in elastic.KERNEL_MAPS.items():
        if kernel < full:
            linear = nn.Linear(kernel * kernel, kernel * kernel)
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)
            setattr(block, name, linear)


def get_pose_net(cfg: CfgNode, arch: ArchSpec | None = None) -> SuperLitePose:
    """The supernet of `cfg`; its largest sub-network is `arch`, or the paper's."""
    supernet = SuperLitePose(
        arch or default_arch(cfg),
        **head_settings(cfg),
        elastic_kernel=cfg.MODEL.ELASTIC_KERNEL,
    )
    supernet.has_unused_parameters |= min(cfg.SUPERNET.DEPTHS) < 1  # skipped blocks
    return supernet
