"""Targets: heatmaps and tag addresses, stamped for a whole batch on the training device."""

from lib.dataset.target_generators.target_generators import (
    HeatmapGenerator,
    JointsGenerator,
    Targets,
    heatmap_targets,
    joint_nodes,
    make_targets,
    map_joints,
)

__all__ = [
    "HeatmapGenerator",
    "JointsGenerator",
    "Targets",
    "heatmap_targets",
    "joint_nodes",
    "make_targets",
    "map_joints",
]
