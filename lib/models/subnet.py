"""Extracts a sub-network from a supernet: the same function with smaller weight tensors."""

from __future__ import annotations

import torch

from lib.models.arch import ArchSpec
from lib.models.layers import elastic
from lib.models.pose_mobilenet import LitePose
from lib.models.pose_supermobilenet import SuperLitePose, check_fits


@torch.no_grad()
def extract_subnet(supernet: SuperLitePose, arch: ArchSpec) -> LitePose:
    """A LitePose of `arch` with the supernet's weights and statistics, on its device.

    In evaluation mode `extract_subnet(s, arch)(x)` equals `s(x, arch)`, exactly.
    """
    check_fits(arch, supernet.arch)
    subnet = LitePose(arch, supernet.out_channels, supernet.deconv_kernels, supernet.fusion)
    full = supernet.state_dict()
    for name, tensor in subnet.state_dict().items():
        tensor.copy_(elastic.leading_slice(full[name], tensor.shape))
    for stage, super_stage in zip(subnet.stage, supernet.stage, strict=True):
        for block, super_block in zip(stage, super_stage, strict=False):  # its leading blocks
            filters = block.depth_conv[0].weight
            # A smaller kernel is no leading slice but the (mapped) center of the larger one.
            larger = elastic.smaller_kernel(super_block, filters.shape[-1])
            filters.copy_(elastic.leading_slice(larger, filters.shape))
    return subnet.to(next(supernet.parameters()).device).train(supernet.training)


@torch.no_grad()
def supernet_of(network: LitePose) -> SuperLitePose:
    """A supernet whose complete network is `network`: equal weights, on its device."""
    supernet = SuperLitePose(
        network.arch, network.out_channels, network.deconv_kernels, network.fusion
    )
    supernet.load_state_dict(network.state_dict())
    return supernet.to(next(network.parameters()).device).train(network.training)
