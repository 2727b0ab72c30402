"""The networks, by the name that MODEL.NAME gives them."""

from __future__ import annotations

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
