"""Synthetic heatmaps and tags of a crowd, for benchmarks and tests of the decoder."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass
class Scene:
    """People whose joints are Gaussians on otherwise noisy maps.

    Each joint of each person is rendered with probability `visible`; its tags are the person's, a
    multiple of `tag_step`, plus a little noise. The noise elsewhere is as coarse as that of a
    network's maps enlarged `upsampling` times.
    """

    people: int
    num_joints: int
    height: int
    width: int
    tag_dims: int
    seed: int = 0
    visible: float = 0.85
    tag_step: float = 2.0
    noise: float = 0.01
    sigma: float = 4.0
    shared_tags: bool = False
    upsampling: int = 1

    def render(self) -> tuple[np.ndarray, np.ndarray]:
        """det (K, H, W) and tag (K or 1, H, W, L), float32."""
        rng = np.random.default_rng(self.seed)
        det = self._noise_maps(rng, self.num_joints, self.noise)
        tag_maps = 1 if self.shared_tags else self.num_joints
        tag = self._noise_maps(rng, tag_maps * self.tag_dims, 1)
        tag = tag.reshape(tag_maps, self.tag_dims, self.height, self.width)
        tag = np.ascontiguousarray(np.moveaxis(tag, 1, -1))
        person_tags = rng.permutation(self.people) * self.tag_step
        radius = int(3 * self.sigma)
        for person in range(self.people):
            for joint in range(self.num_joints):
                if rng.random() >= self.visible:
                    continue
                x, y = rng.uniform(0, (self.width, self.height))
                left, top = max(int(x) - radius, 0), max(int(y) - radius, 0)
                columns = np.arange(left, min(int(x) + radius + 1, self.width))
                rows = np.arange(top, min(int(y) + radius + 1, self.height))
                squared = (columns + 0.5 - x) ** 2 + (rows[:, None] + 0.5 - y) ** 2
                gaussian = rng.uniform(0.3, 1) * np.exp(-squared / (2 * self.sigma**2))
                window = joint, rows[:, None], columns
                det[window] = np.maximum(det[window], gaussian)
                tags = person_tags[person] + rng.normal(0, 0.15, self.tag_dims)
                tag[0 if self.shared_tags else joint, rows[:, None], columns] = tags
        return det, tag

    def _noise_maps(self, rng: np.random.Generator, count: int, deviation: float) -> np.ndarray:
        shape = count, self.height // self.upsampling, self.width // self.upsampling
        small = rng.normal(0, deviation, shape).astype(np.float32)
        return np.stack([cv2.resize(one, (self.width, self.height)) for one in small])
