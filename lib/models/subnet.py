"""Supernets, and sub-networks of them: the same function with smaller weight tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lib.models.arch import ArchSpec
from lib.models.layers import elastic
from lib.models.load import PLAIN, NetworkFile
from lib.models.pose_mobilenet import LitePose
from lib.models.pose_supermobilenet import SuperLitePose, check_fits
from lib.models.reorder import sort_channels


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


def build_supernet(
    network: NetworkFile,
    device: torch.device,
    sorting_images: Callable[[], Iterable[Tensor] | None],
) -> SuperLitePose:
    """The supernet in a file; of a LitePose, one with sorted channels (SUPERNET.SORT_CHANNELS).

    sorting_images: returns the images of `sort_channels`; called for a LitePose alone.
    """
    settings = network.cfg.SUPERNET
    if network.kind == PLAIN:
        model = network.build(device)
        assert isinstance(model, LitePose)
        supernet = supernet_of(model)
        if settings.SORT_CHANNELS:
            sort_channels(supernet, sorting_images())
        return supernet
    model = network.expect_supernet().build(device)
    assert isinstance(model, SuperLitePose)
    if settings.REFIT:
        raise ValueError(
            f"SUPERNET.REFIT: {network.source} is a supernet, whose sub-networks were trained; "
            "only those of a network that was trained alone are refitted"
        )
    return model


@torch.no_grad()
def supernet_of(network: LitePose) -> SuperLitePose:
    """A supernet whose complete network is `network`: equal weights, on its device."""
    supernet = SuperLitePose(
        network.arch, network.out_channels, network.deconv_kernels, network.fusion
    )
    supernet.load_state_dict(network.state_dict())
    return supernet.to(next(network.parameters()).device).train(network.training)
