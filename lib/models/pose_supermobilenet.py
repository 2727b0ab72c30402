"""The LitePose supernet: every sub-network of the search space in one set of weights.

`supernet(images, arch)` runs the sub-network `arch` (paper, section 3.3). Names are those of the
complete network, so a sub-network's state dict has them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.models.arch import ArchSpec, StageSpec, make_divisible
from lib.models.head import FIRST_PREDICTION, BackboneMaps, SepConv2d
from lib.models.layers import elastic
from lib.models.pose_mobilenet import InvertedBottleneck, LitePose, network_of
from lib.utils.checkpoint import check_same_joints, config_of, fit_weights, load_checkpoint


class SuperBottleneck(InvertedBottleneck):
    """An inverted bottleneck that runs at any smaller width, expansion and kernel."""

    def at(self, x: Tensor, width: int, expansion: int, kernel: int) -> Tensor:
        """(B, in, H, W) -> (B, width, H', W')"""
        hidden = make_divisible(round(x.shape[1] * expansion))
        filters = elastic.smaller_kernel(self, kernel)
        out = _conv_bn(self.inv, x, hidden, F.relu6)
        out = elastic.depthwise(self.depth_conv[0], out, filters)
        out = F.relu6(elastic.norm(self.depth_conv[1], out), inplace=True)
        out = _conv_bn(self.point_conv, out, width)
        same = self.depth_conv[0].stride == (1, 1) and x.shape[1] == width
        return x + out if same else out


class SuperLitePose(LitePose):
    """images, arch -> outputs of the sub-network `arch`; without `arch`, of the complete network.

    The depth is fixed, so at full expansion and kernel every parameter takes part in every step.
    """

    block = SuperBottleneck
    # Published supernets carry the maps to smaller kernels, which ours has only when asked.
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
            for stage in self.stage:
                for block in stage:
                    _add_kernel_maps(block)

    def forward(self, images: Tensor, arch: ArchSpec | None = None) -> list[Tensor]:
        if arch is None:
            return super().forward(images)
        check_fits(arch, self.arch)
        x = stem = self._stem(images, arch.input_channel)
        maps = []
        for stage, spec in zip(self.stage, arch.stages, strict=True):
            x = _run_stage(stage, spec, x)
            maps.append(x)
        return self._head_at(BackboneMaps(stem, maps), arch.deconv)

    def _stem(self, images: Tensor, width: int) -> Tensor:
        strided, separable, pointwise, bn = self.first
        return elastic.norm(bn, elastic.conv(pointwise, separable(strided(images)), width))

    def _head_at(self, maps: BackboneMaps, deconv: Sequence[int]) -> list[Tensor]:
        raw = self.raw_maps(maps)
        refined = maps.stages[-1]
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
    """ValueError naming the first width or depth of `arch` that the supernet does not have."""
    pairs = [("input_channel", arch.input_channel, largest.input_channel)]
    pairs += [
        (f"deconv level {i}", own, most)
        for i, (own, most) in enumerate(zip(arch.deconv, largest.deconv, strict=True))
    ]
    for i, (own, most) in enumerate(zip(arch.stages, largest.stages, strict=True)):
        if len(own.blocks) != len(most.blocks):
            raise ValueError(
                f"stage {i} has {len(own.blocks)} blocks, the supernet has {len(most.blocks)}; "
                "its depth is fixed"
            )
        pairs.append((f"stage {i}, channel", own.channel, most.channel))
        pairs += [
            (f"stage {i}, block {j}, expansion", mine[0], theirs[0])
            for j, (mine, theirs) in enumerate(zip(own.blocks, most.blocks, strict=True))
        ]
    for name, own, most in pairs:
        if own > most:
            raise ValueError(f"{name} is {own}, the supernet has {most}")


def _run_stage(stage: nn.Sequential, spec: StageSpec, x: Tensor) -> Tensor:
    for block, (expansion, kernel) in zip(stage, spec.blocks, strict=True):
        x = block.at(x, spec.channel, expansion, kernel)
    return x


def _conv_bn(layers: nn.Sequential, x: Tensor, width: int, activation=None) -> Tensor:
    out = elastic.norm(layers[1], elastic.conv(layers[0], x, width))
    return activation(out, inplace=True) if activation else out


def _separable(layer: SepConv2d, x: Tensor) -> Tensor:
    depthwise, bn, relu, pointwise = layer.conv
    return elastic.conv(pointwise, relu(elastic.norm(bn, elastic.depthwise(depthwise, x))), None)


def _add_kernel_maps(block: SuperBottleneck) -> None:
    """Linear maps from the center of the filters to smaller ones; they start as the identity."""
    full = block.depth_conv[0].kernel_size[0]
    for kernel, name in elastic.KERNEL_MAPS.items():
        if kernel < full:
            linear = nn.Linear(kernel * kernel, kernel * kernel)
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)
            setattr(block, name, linear)


def get_pose_net(cfg: CfgNode, arch: ArchSpec | None = None) -> SuperLitePose:
    """The supernet of `cfg`; its largest sub-network is `arch`, or the paper's."""
    return SuperLitePose(*network_of(cfg, arch), cfg.MODEL.ELASTIC_KERNEL)


def load_supernet(cfg: CfgNode, path: str | Path) -> SuperLitePose:
    """The trained supernet of `path`, in evaluation mode; its widths from the file where it says.

    ValueError when `cfg` is of another network or of other joints, or the weights do not fit.
    """
    if cfg.MODEL.NAME != "pose_supermobilenet":
        raise ValueError(f"MODEL.NAME is {cfg.MODEL.NAME}; only pose_supermobilenet can be cut")
    saved = load_checkpoint(path)
    check_same_joints(config_of(saved), path, cfg, is_train=True)
    arch = saved.get("arch")
    supernet = get_pose_net(cfg, ArchSpec.from_dict(arch) if isinstance(arch, dict) else None)
    fit_weights(supernet, saved, path)
    return supernet.eval()
