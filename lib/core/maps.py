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
BLOCKS_AT_ONCE = 4096  # of HostMaps: so many are copied at a time
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
        self.tag = np.broadcast_to(tag, (*det.shape, tag.shape[-1]))

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
        return self.tag[pixels]

    def best_pixels(self, joint: np.ndarray, tags: np.ndarray) -> Pixels:
        """For each joint (Q,) of a person with tags (Q, L): where it fits best.

        The pixel of the largest heatmap value less the rounded distance of its tag to `tags`.
        """
        joints, which = np.unique(joint, return_inverse=True)
        address = Blocks(self.det, self.tag, joints).best_pixels(which, tags)
        return Pixels(joint, *np.divmod(address, self.det.shape[2]))


class Blocks:
    """Maps of J joints in blocks, with bounds that tell which of them need no look.

    In a block, heatmaps are at most `top`, tags between `low` and `high`. Rounding keeps the order
    of numbers, so the bound on a block's best holds for the values as they are computed.
    """

    def __init__(self, det: np.ndarray, tag: np.ndarray, joints: np.ndarray) -> None:
        """det (K, H, W), tag (K, H, W, L), joints (J,); a map has N blocks, row by row"""
        self.det, self.tag, self.joints = det, tag, joints
        self.det_blocks, self.tag_blocks = _in_blocks(det), _in_blocks(tag)
        _, down, _, across, _ = self.det_blocks.shape
        self.rows, self.columns = np.divmod(np.arange(down * across), across)  # (N,)
        y, x = np.divmod(np.stack([_largest(self.det_blocks[k]) for k in joints]), BLOCK)
        places = joints[:, None], self.rows, y, self.columns, x  # of the largest, (J, N)
        self.top, self.top_tags = self.det_blocks[places], self.tag_blocks[places]
        self.top_address = self._address(self.rows, y, self.columns, x)
        self.first = self._address(self.rows, 0, self.columns, 0)  # (N,)
        self.low = np.stack([_over_blocks(np.minimum, self.tag_blocks[k]) for k in joints])
        self.high = np.stack([_over_blocks(np.maximum, self.tag_blocks[k]) for k in joints])

    def best_pixels(self, which: np.ndarray, tags: np.ndarray) -> np.ndarray:
        """(Q,): y * W + x where joints[which] (Q,) fit tags (Q, L) best; of equals, the first."""
        values = self.top[which] - rounded_length(self.top_tags[which] - tags[:, None])  # (Q, N)
        best = values.max(axis=1)
        is_best = values == best[:, None]
        address = np.where(is_best, self.top_address[which], self.det[0].size).min(axis=1)
        hopeful = self._hopeful(which, tags, best[:, None], address[:, None])
        for q in np.flatnonzero(hopeful.mean(axis=1) > FEW):
            k = self.joints[which[q]]
            address[q] = np.argmax(self.det[k] - rounded_length(self.tag[k] - tags[q]))
            hopeful[q] = False
        query, block = np.nonzero(hopeful)  # (P,)
        values, places = self._best_in(self.joints[which[query]], block, tags[query])
        reached = best.copy()
        np.maximum.at(reached, query, values)
        address[reached > best] = self.det[0].size
        kept = values == reached[query]
        np.minimum.at(address, query[kept], places[kept])
        return address

    def _hopeful(
        self, which: np.ndarray, tags: np.ndarray, best: np.ndarray, address: np.ndarray
    ) -> np.ndarray:
        """(Q, N): blocks that may hold more than `best` (Q, 1), or as much before `address`."""
        tags = tags[:, None]
        outside = np.maximum(np.maximum(self.low[which] - tags, tags - self.high[which]), 0)
        bound = self.top[which] - rounded_length(outside)
        return (bound > best) | ((bound == best) & (self.first < address))

    def _best_in(
        self, joint: np.ndarray, block: np.ndarray, tags: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best value in each block (P,) of maps `joint` (P,) for tags (P, L), and where."""
        values, places = np.empty(len(block), self.det.dtype), np.empty(len(block), np.int64)
        for i in range(0, len(block), BLOCKS_AT_ONCE):
            part = slice(i, i + BLOCKS_AT_ONCE)
            k, row, column = joint[part], self.rows[block[part]], self.columns[block[part]]
            distance = rounded_length(self.tag_blocks[k, row, :, column] - tags[part, None, None])
            fit = (self.det_blocks[k, row, :, column] - distance).reshape(len(k), -1)
            y, x = np.divmod(fit.argmax(axis=1), BLOCK)
            values[part] = fit.max(axis=1)
            places[part] = self._address(row, y, column, x)
        return values, places

    def _address(
        self, row: np.ndarray, y: np.ndarray | int, column: np.ndarray, x: np.ndarray | int
    ) -> np.ndarray:
        """y * W + x on the map; beyond its border, of the pixel that is repeated there."""
        height, width = self.det.shape[1:]
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
    """(K, H, W, ...) -> (K, V, BLOCK, U, BLOCK, ...), the border repeated up to whole blocks."""
    margin = [(0, -length % BLOCK) for length in array.shape[1:3]]
    if any(after for _, after in margin):
        array = np.pad(array, [(0, 0), *margin] + [(0, 0)] * (array.ndim - 3), mode="edge")
    maps, height, width = array.shape[:3]
    return array.reshape(maps, height // BLOCK, BLOCK, width // BLOCK, BLOCK, *array.shape[3:])


def _over_blocks(smaller: np.ufunc, blocks: np.ndarray) -> np.ndarray:
    """(V, BLOCK, U, BLOCK, L) -> (V * U, L): the minimum or maximum over each block."""
    reduced = smaller.reduce(blocks, axis=1)  # (V, U, BLOCK, L)
    while reduced.shape[2] > 1:  # in halves: a loop over L alone would be many times as slow
        reduced = smaller(reduced[:, :, ::2], reduced[:, :, 1::2])
    return reduced.reshape(-1, blocks.shape[-1])


def _largest(blocks: np.ndarray) -> np.ndarray:
    """(V, BLOCK, U, BLOCK) -> (V * U,): y * BLOCK + x of the largest value in each block."""
    return blocks.swapaxes(1, 2).reshape(-1, BLOCK * BLOCK).argmax(axis=1)
