"""Cutting a sub-network out of a supernet: the same function, in tensors of its own size."""

from __future__ import annotations

import torch
from torch import nn

from lib.models.arch import ArchSpec
from lib.models.layers import elastic
from lib.models.pose_mobilenet import LitePose
from lib.models.pose_supermobilenet import SuperLitePose, check_fits


@torch.no_grad()
def extract_subnet(supernet: SuperLitePose, arch: ArchSpec) -> LitePose:
    """A LitePose of `arch` with the supernet's weights and statistics.

    In evaluation mode `extract_subnet(s, arch)(x)` equals `s(x, arch)`, exactly.
    """
    check_fits(arch, supernet.arch)
    channels = [final.conv[-1].out_channels for final in supernet.final_refined]
    kernels = [deconv.kernel_size[0] for deconv in supernet.deconv_refined]
    subnet = LitePose(arch, channels, kernels, supernet.fusion)
    fill_from(subnet, supernet)
    for stage, super_stage in zip(subnet.stage, supernet.stage, strict=True):
        for block, super_block in zip(stage, super_stage, strict=True):
            own = block.depth_conv[0].weight
            filters = elastic.smaller_kernel(super_block, own.shape[-1])
            own.copy_(elastic.leading_slice(filters, own.shape))
    return subnet.train(supernet.training)


@torch.no_grad()
def fill_from(subnet: nn.Module, supernet: nn.Module) -> None:
    """Copy the leading slice of every tensor of `supernet` into `subnet`."""
    full = supernet.state_dict()
    for name, tensor in subnet.state_dict().items():
        tensor.copy_(elastic.leading_slice(full[name], tensor.shape))
