"""Where people are and how large, by their labelled joints."""

from __future__ import annotations

import numpy as np


def joint_boxes(joints: np.ndarray) -> np.ndarray:
    """(P, K, 3) -> (P, 2, 2): least and largest x and y of the labelled joints; all have some."""
    labelled = joints[..., 2:] > 0  # (P, K, 1)
    lows = np.where(labelled, joints[..., :2], np.inf).min(axis=1)
    highs = np.where(labelled, joints[..., :2], -np.inf).max(axis=1)
    return np.stack([lows, highs], axis=1)


def extents(joints: np.ndarray) -> np.ndarray:
    """(P, K, 3) -> (P,) the longer side of `joint_boxes`; 0 for a single joint."""
    return np.ptp(joint_boxes(joints), axis=1).max(axis=1)
