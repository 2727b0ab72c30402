"""What grouping asks of the maps of one picture: where they peak, and where a joint fits best.

`HostMaps` answers on the CPU without a pass over every map for every person; `DeviceMaps` answers
with whole maps where the maps are. Same answers: ties go to the first pixel, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 16  # pixels; side of the blocks that HostMaps bounds, a power of two
FEW = 0.25  # share of blocks above which the whole map is sooner looked at
PAIRS_AT_ONCE = 64  # of DeviceMaps: so many whole maps are held at a time


class Pixels(NamedTuple):
    """N pixels, each on the maps of one joint."""

    joint: np.ndarray  # (N,) int64
    y: np.ndarray
    x: np.ndarray

    def select(self, which: np.ndarray) -> Pixels:
        """Those of `which`, an index or a mask."""
        return Pixels(*(field[which] for field in self))


def maps_of(det: Tensor, tag: Tensor) -> HostMaps | DeviceMaps:
    """The maps of one picture, where they are: det (K, H, W); tag (K or 1, H, W, L)."""
    if det.device.type == "cpu":
        return HostMaps(det.numpy(), tag.numpy())
    return DeviceMaps(det, tag)


class HostMaps:
    """Maps in memory, as arrays."""

    def __init__(self, det: np.ndarray, tag: np.ndarray) -> None:
        self.det = det
        self.tag = tag

    def local_maxima(self, threshold: float, radius: int) -> Pixels:
        """Pixels above `threshold` that nothing within `radius` rows and columns exceeds."""
        _, height, width = self.det.shape
        joint, rest = np.divmod(np.flatnonzero(self.det > threshold), height * width)
        pixels = Pixels(joint, *np.divmod(rest, width))
        values = self.det[pixels]
        for dy, dx in _neighbors(radius):
            # Beyond the border the nearest pixel is compared, which lies in the window too.
            y = np.clip(pixels.y + dy, 0, height - 1)
            x = np.clip(pixels.x + dx, 0, width - 1)
            kept = values >= self.det[pixels.joint, y, x]
            pixels, values = pixels.select(kept), values[kept]
        return pixels

    def windows(self, pixels: Pixels, radius: int = 1) -> np.ndarray:
        """(N, 2 radius + 1, ...) heatmap values around pixels; beyond the border, its own."""
        return self.det[around(pixels, radius, self.det.shape)]

    def tags(self, pixels: Pixels) -> np.ndarray:
        """(N, L)"""
        return self.tag[pixels.joint if len(self.tag) > 1 else 0, pixels.y, pixels.x]

    def best_pixels(self, joint: np.ndarray, tags: np.ndarray) -> Pixels:
        """For each joint (Q,) of a person with tags (Q, L): where it fits best.

        The pixel of the largest heatmap value less the rounded distance of its tag to `tags`.
        """
        best = np.empty(len(joint), np.int64)
        for k in np.unique(joint):
            blocks = Blocks(self.det[k], self.tag[k if len(self.tag) > 1 else 0])
            for q in np.flatnonzero(joint == k):
                best[q] = blocks.best_pixel(tags[q])
        return Pixels(joint, *np.divmod(best, self.det.shape[2]))


class Blocks:
    """One joint's maps in blocks, with bounds that tell which of them need no look.

    In a block, heatmaps are at most `top`, tags between `low` and `high`. Rounding keeps the order
    of numbers, so the bound on a block's best holds for the values as they are computed.
    """

    def __init__(self, det: np.ndarray, tag: np.ndarray) -> None:
        """det (H, W), tag (H, W, L)"""
        self.det, self.tag = det, tag
        self.det_blocks, self.tag_blocks = _in_blocks(det), _in_blocks(tag)
        down, _, across, _ = self.det_blocks.shape
        self.rows, self.columns = np.divmod(np.arange(down * across), across)
        flat = self.det_blocks.swapaxes(1, 2).reshape(down * across, -1)
        y, x = np.divmod(flat.argmax(axis=1), BLOCK)
        self.top = self.det_blocks[self.rows, y, self.columns, x]
        self.top_tags = self.tag_blocks[self.rows, y, self.columns, x]
        self.top_address = self._address(self.rows, y, self.columns, x)
        self.first = self._address(self.rows, 0, self.columns, 0)
        self.low = _over_blocks(np.minimum, self.tag_blocks)
        self.high = _over_blocks(np.maximum, self.tag_blocks)

    def best_pixel(self, tags: np.ndarray) -> int:
        """y * W + x of the pixel that fits `tags` (L,) best; of equals, the first."""
        values = self.top - rounded_length(self.top_tags - tags)
        best = values.max()
        address = self.top_address[values == best].min(initial=self.det.size - 1)
        outside = np.maximum(np.maximum(self.low - tags, tags - self.high), 0)
        bound = self.top - rounded_length(outside)
        hopeful = (bound > best) | ((bound == best) & (self.first < address))
        if not hopeful.any():
            return int(address)
        if hopeful.mean() > FEW:
            return int(np.argmax(self.det - rounded_length(self.tag - tags)))
        rows, columns = self.rows[hopeful], self.columns[hopeful]
        distance = rounded_length(self.tag_blocks[rows, :, columns] - tags)
        values = self.det_blocks[rows, :, columns] - distance
        if values.max() < best:
            return int(address)
        block, y, x = np.nonzero(values == values.max())
        found = self._address(rows[block], y, columns[block], x).min()
        return int(found if values.max() > best else min(found, address))

    def _address(
        self, row: np.ndarray, y: np.ndarray | int, column: np.ndarray, x: np.ndarray | int
    ) -> np.ndarray:
        """y * W + x on the map; beyond its border, of the pixel that is repeated there."""
        height, width = self.det.shape
        y = np.minimum(row * BLOCK + y, height - 1)
        return y * width + np.minimum(column * BLOCK + x, width - 1)


class DeviceMaps:
    """Maps on any device, as tensors; each method as in HostMaps."""

    def __init__(self, det: Tensor, tag: Tensor) -> None:
        self.det = det
        self.tag = tag

    def local_maxima(self, threshold: float, radius: int) -> Pixels:
        largest = F.max_pool2d(self.det[None], 2 * radius + 1, 1, radius)[0]
        found = (self.det > threshold) & (self.det == largest)
        return Pixels(*found.nonzero().cpu().numpy().T)

    def windows(self, pixels: Pixels, radius: int = 1) -> np.ndarray:
        index = around(pixels, radius, self.det.shape)
        index = tuple(torch.from_numpy(i).to(self.det.device) for i in index)
        return self.det[index].cpu().numpy()

    def tags(self, pixels: Pixels) -> np.ndarray:
        joint, y, x = self._index(pixels)
        return self.tag[joint if len(self.tag) > 1 else 0, y, x].cpu().numpy()

    def best_pixels(self, joint: np.ndarray, tags: np.ndarray) -> Pixels:
        size = self.det[0].numel()
        address = torch.arange(size, device=self.det.device)
        best = []
        for begin in range(0, len(joint), PAIRS_AT_ONCE):
            some = slice(begin, begin + PAIRS_AT_ONCE)
            k = torch.from_numpy(joint[some]).to(self.det.device)
            wanted = torch.from_numpy(tags[some]).to(self.det.device)
            maps = self.tag[k] if len(self.tag) > 1 else self.tag.expand(len(k), -1, -1, -1)
            squared = sum(  # by tag dimension: an interleaved difference would be L times as large
                (maps[..., dim] - wanted[:, dim, None, None]).square()
                for dim in range(wanted.shape[1])
            )
            values = (self.det[k] - squared.sqrt().round()).flatten(1)  # (Q, H * W)
            largest = values == values.amax(dim=1, keepdim=True)
            best.append(torch.where(largest, address, size).amin(dim=1))
        best = torch.cat(best).clamp(max=size - 1).cpu().numpy()
        return Pixels(joint, *np.divmod(best, self.det.shape[2]))

    def _index(self, pixels: Pixels) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(np.stack(pixels)).to(self.det.device))


def around(
    pixels: Pixels, radius: int, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index of the windows (N, D, D) around pixels of maps of `shape` (K, H, W)."""
    step = np.arange(-radius, radius + 1)
    y = np.clip(pixels.y[:, None] + step, 0, shape[1] - 1)
    x = np.clip(pixels.x[:, None] + step, 0, shape[2] - 1)
    return pixels.joint[:, None, None], y[:, :, None], x[:, None, :]


def first_of_equals(maps: HostMaps | DeviceMaps, pixels: Pixels, radius: int) -> np.ndarray:
    """(N,) whether no pixel within `radius`, row by row before a peak, has its value."""
    values = maps.windows(pixels, radius)
    _, y, x = around(pixels, radius, maps.det.shape)
    own_y, own_x = pixels.y[:, None, None], pixels.x[:, None, None]
    before = (y < own_y) | ((y == own_y) & (x < own_x))
    equal = values == values[:, radius, radius, None, None]
    return ~(before & equal).any(axis=(1, 2))


def rounded_length(vectors: np.ndarray) -> np.ndarray:
    """(..., L) -> (...): Euclidean length, rounded half to even."""
    squared = sum(np.square(vectors[..., i]) for i in range(vectors.shape[-1]))
    return np.round(np.sqrt(squared))


def strongest(pixels: Pixels, values: np.ndarray, limit: int) -> np.ndarray:
    """Index of the `limit` largest values of each joint: by joint, the largest first."""
    order = np.lexsort((pixels.x, pixels.y, -values, pixels.joint))
    joint = pixels.joint[order]
    rank = np.arange(len(joint)) - np.searchsorted(joint, joint)
    return order[rank < limit]


def _neighbors(radius: int) -> list[tuple[int, int]]:
    """All steps within `radius`, the nearest first: they rule out the most."""
    reach = range(-radius, radius + 1)
    steps = [(dy, dx) for dy in reach for dx in reach if dy or dx]
    return sorted(steps, key=lambda step: step[0] ** 2 + step[1] ** 2)


def _in_blocks(array: np.ndarray) -> np.ndarray:
    """(H, W, ...) -> (V, BLOCK, U, BLOCK, ...), the border repeated where sizes do not divide."""
    margin = [(0, -length % BLOCK) for length in array.shape[:2]]
    if any(after for _, after in margin):
        array = np.pad(array, margin + [(0, 0)] * (array.ndim - 2), mode="edge")
    height, width = array.shape[:2]
    return array.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, *array.shape[2:])


def _over_blocks(smaller: np.ufunc, blocks: np.ndarray) -> np.ndarray:
    """(V, BLOCK, U, BLOCK, L) -> (V * U, L): the minimum or maximum over each block."""
    reduced = smaller.reduce(blocks, axis=1)  # (V, U, BLOCK, L)
    while reduced.shape[2] > 1:  # in halves: a loop over L alone would be many times as slow
        reduced = smaller(reduced[:, :, ::2], reduced[:, :, 1::2])
    return reduced.reshape(-1, blocks.shape[-1])
