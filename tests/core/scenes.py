"""Made-up maps of people, to decode."""

from __future__ import annotations

import cv2
import numpy as np


def draw_scene(
    people: int,
    num_joints: int,
    height: int,
    width: int,
    tag_dims: int,
    seed: int = 0,
    found: float = 0.85,
    tag_step: float = 2.0,
    noise: float = 0.01,
    sigma: float = 4.0,
    shared_tags: bool = False,
    grain: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """det (K, H, W) and tag (K or 1, H, W, L), float32.

    Each joint of each person is a Gaussian with probability `found`; its tag is the person's, a
    multiple of `tag_step`, with a little noise of its own. Elsewhere both maps are noise, as coarse
    as a network's that is enlarged `grain` times.
    """
    rng = np.random.default_rng(seed)

    def noise_maps(count: int, deviation: float) -> np.ndarray:
        small = rng.normal(0, deviation, (count, height // grain, width // grain))
        maps = [cv2.resize(one.astype(np.float32), (width, height)) for one in small]
        return np.stack(maps)

    det = noise_maps(num_joints, noise)
    tag_maps = 1 if shared_tags else num_joints
    tag = noise_maps(tag_maps * tag_dims, 1).reshape(tag_maps, tag_dims, height, width)
    tag = np.ascontiguousarray(np.moveaxis(tag, 1, -1))
    own = rng.permutation(people) * tag_step
    reach = int(3 * sigma)
    for person in range(people):
        for joint in range(num_joints):
            if rng.random() >= found:
                continue
            x, y = rng.uniform(0, (width, height))
            left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
            columns = np.arange(left, min(int(x) + reach + 1, width))
            rows = np.arange(top, min(int(y) + reach + 1, height))
            squared = (columns + 0.5 - x) ** 2 + (rows[:, None] + 0.5 - y) ** 2
            blob = rng.uniform(0.3, 1) * np.exp(-squared / (2 * sigma**2))
            at = np.ix_([joint], rows, columns)
            det[at] = np.maximum(det[at], blob)
            tags = own[person] + rng.normal(0, 0.15, tag_dims)
            tag[np.ix_([0 if shared_tags else joint], rows, columns)] = tags
    return det, tag
