"""The networks, by the name that MODEL.NAME gives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from lib.models import pose_mobilenet, pose_supermobilenet
from lib.models.arch import ArchSpec
from lib.models.baselines import pose_efficient_hrnet, pose_higher_hrnet

MODELS = {  # each `get_pose_net(cfg, arch)` is a door: it reads cfg, the classes behind it never do
    "pose_mobilenet": pose_mobilenet.get_pose_net,
    "pose_supermobilenet": pose_supermobilenet.get_pose_net,
    "pose_higher_hrnet": pose_higher_hrnet.get_pose_net,
    "pose_efficient_hrnet": pose_efficient_hrnet.get_pose_net,
}


def build_model(cfg: CfgNode, arch: ArchSpec | None = None) -> nn.Module:
    """The untrained network: images (B, 3, H, W) -> [(B, C, h, w)], coarse to fine."""
    if cfg.MODEL.NAME not in MODELS:
        raise ValueError(f"MODEL.NAME is {cfg.MODEL.NAME!r}; known models: {sorted(MODELS)}")
    return MODELS[cfg.MODEL.NAME](cfg, arch)


def place(model: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    """The network on `device`, in the memory format of MODEL.CHANNELS_LAST."""
    memory = torch.channels_last if channels_last else torch.contiguous_format
    options: dict[str, Any] = {"memory_format": memory}  # missing in the stubs of Module.to
    return model.to(device, **options)
