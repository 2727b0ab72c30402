"""Queries of grouping on the maps of one image: peaks, and the pixel where a joint fits best.

`HostMaps` computes on the CPU and skips most pixels. `DeviceMaps` computes on the device of the
maps with operations on whole maps. Both return the same results. Among equal values the first
pixel in row-major order wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 16  # pixels; side of the blocks of HostMaps, a power of two
MANY = 0.25  # share of blocks above which a search of the whole map is faster
BLOCKS_AT_ONCE = 4096  # blocks that HostMaps copies at a time
PAIRS_AT_ONCE = 64  # whole maps that DeviceMaps compares at a time


class Pixels(NamedTuple):
    """N pixels, each on the maps of one joint."""

    joint: np.ndarray  # (N,) int64
    y: np.ndarray
    x: np.ndarray

    def select(self, which: np.ndarray) -> Pixels:
        """The pixels that `which`, an index array or a mask, selects."""
        return Pixels(*(field[which] for field in self))


def maps_of(det: Tensor, tag: Tensor) -> HostMaps | DeviceMaps:
    """Queries for the maps of one image: det (K, H, W), tag (K or 1, H, W, L), on any device."""
    if det.device.type == "cpu":
        return HostMaps(det.numpy(), tag.numpy())
    return DeviceMaps(det, tag)


class HostMaps:
    """Maps as NumPy arrays."""

    def __init__(self, det: np.ndarray, tag: np.ndarray) -> None:
        self.det = det
        self.tag = np.broadcast_to(tag, (*det.shape, tag.shape[-1]))

    def total(self) -> np.ndarray:
        """The sum of all heatmap values, (), which is not finite if one of them is not."""
        with np.errstate(invalid="ignore"):  # of infinite values
            return np.asarray(self.det.sum())

    def local_maxima(self, threshold: float, radius: int) -> Pixels:
        """Pixels above `threshold` that no pixel within `radius` rows and columns exceeds."""
        _, height, width = self.det.shape
        joint, rest = np.divmod(np.flatnonzero(self.det > threshold), height * width)
        pixels = Pixels(joint, *np.divmod(rest, width))
        values = self.det[pixels]
        for dy, dx in _neighbors(radius):
            # Beyond the border the nearest pixel is compared; it is in the window as well.
            y = np.clip(pixels.y + dy, 0, height - 1)
            x = np.clip(pixels.x + dx, 0, width - 1)
            remains = values >= self.det[pixels.joint, y, x]
            pixels, values = pixels.select(remains), values[remains]
        return pixels

    def windows(self, pixels: Pixels, radius: int = 1) -> np.ndarray:
        """(N, D, D), D = 2 radius + 1: heatmap values around pixels, the border repeated."""
        return self.det[around(pixels, radius, self.det.shape)]

    def tags(self, pixels: Pixels) -> np.ndarray:
        """Tags (N, L) at N pixels."""
        return self.tag[pixels]

    def best_pixels(self, joint: np.ndarray, tags: np.ndarray) -> Pixels:
        """The best-fitting pixel of each query: joint (Q,) of a person with mean tags (Q, L).

        Fit of a pixel: heatmap value - round(distance of its tags to the person's tags).
        """
        joints, which = np.unique(joint, return_inverse=True)
        address = Blocks(self.det, self.tag, joints).best_pixels(which, tags)
        return Pixels(joint, *np.divmod(address, self.det.shape[2]))


class Blocks:
    """The search behind `HostMaps.best_pixels`: branch and bound over blocks of pixels.

    For each block of 16 x 16 pixels the largest heatmap value (`top`) and the range of tags (`low`
    to `high`) are computed once per joint, for all people. They bound the fit of every pixel in
    the block. Blocks whose bound is below the best fit so far are skipped. Rounding is
    monotonic, so the bounds hold for the computed values exactly.

    Example: the left wrist of a person of tag 3.0 is missing. In one block, wrist values are at
    most 0.8 and tags between 5.2 and 9.0, so no fit exceeds 0.8 - round(2.2) = -1.2. If the pixel
    of the largest value of another block fits with 0.9 - round(0.3) = 0.9, the first is skipped.

    Letters: J joints, N blocks of a map (row by row), Q queries (a joint of a person).
    """

    def __init__(self, det: np.ndarray, tag: np.ndarray, joints: np.ndarray) -> None:
        """det: (K, H, W); tag: (K, H, W, L); joints: (J,), those whose maps will be searched."""
        self.det, self.tag, self.joints = det, tag, joints
        self.det_blocks, self.tag_blocks = _in_blocks(det), _in_blocks(tag)
        _, down, _, across, _ = self.det_blocks.shape
        self.rows, self.columns = np.divmod(np.arange(down * across), across)  # (N,)
        y, x = np.divmod(np.stack([_largest(self.det_blocks[k]) for k in joints]), BLOCK)
        places = joints[:, None], self.rows, y, self.columns, x  # the largest values, (J, N)
        self.top, self.top_tags = self.det_blocks[places], self.tag_blocks[places]
        self.top_address = self._address(self.rows, y, self.columns, x)
        self.first = self._address(self.rows, 0, self.columns, 0)  # (N,) of each block
        self.low = np.stack([_over_blocks(np.minimum, self.tag_blocks[k]) for k in joints])
        self.high = np.stack([_over_blocks(np.maximum, self.tag_blocks[k]) for k in joints])

    def best_pixels(self, which: np.ndarray, tags: np.ndarray) -> np.ndarray:
        """(Q,): address y * W + x where joints[which] (Q,) best fit tags (Q, L); first of ties."""
        beyond = self.det[0].size  # larger than any address
        # 1. Fit of the largest value of each block: the best of these is a lower bound.
        fits = self.top[which] - rounded_length(self.top_tags[which] - tags[:, None])  # (Q, N)
        best = fits.max(axis=1)
        is_best = fits == best[:, None]
        address = np.where(is_best, self.top_address[which], beyond).min(axis=1)
        # 2. Blocks whose upper bound is better, or equal with an earlier pixel.
        open_blocks = self._open_blocks(which, tags, best[:, None], address[:, None])
        # 3. Queries with many such blocks search the whole map.
        for q in np.flatnonzero(open_blocks.mean(axis=1) > MANY):
            k = self.joints[which[q]]
            address[q] = np.argmax(self.det[k] - rounded_length(self.tag[k] - tags[q]))
            open_blocks[q] = False
        # 4. All others search their open blocks, P pairs of query and block.
        query, block = np.nonzero(open_blocks)  # (P,)
        fits, places = self._best_in(self.joints[which[query]], block, tags[query])
        improved = best.copy()
        np.maximum.at(improved, query, fits)
        address[improved > best] = beyond
        wins = fits == improved[query]
        np.minimum.at(address, query[wins], places[wins])
        return address

    def _open_blocks(
        self, which: np.ndarray, tags: np.ndarray, best: np.ndarray, address: np.ndarray
    ) -> np.ndarray:
        """(Q, N): blocks that may have a fit above `best` (Q, 1), or a tie before `address`."""
        tags = tags[:, None]
        # Per tag dimension, the distance of `tags` to the range; 0 inside of it.
        outside = np.maximum(np.maximum(self.low[which] - tags, tags - self.high[which]), 0)
        bound = self.top[which] - rounded_length(outside)
        return (bound > best) | ((bound == best) & (self.first < address))

    def _best_in(
        self, joint: np.ndarray, block: np.ndarray, tags: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best fit in each block (P,) of maps `joint` (P,) for tags (P, L), and its address."""
        fits, places = np.empty(len(block), self.det.dtype), np.empty(len(block), np.int64)
        for i in range(0, len(block), BLOCKS_AT_ONCE):
            part = slice(i, i + BLOCKS_AT_ONCE)
            k, row, column = joint[part], self.rows[block[part]], self.columns[block[part]]
            distance = rounded_length(self.tag_blocks[k, row, :, column] - tags[part, None, None])
            fit = (self.det_blocks[k, row, :, column] - distance).reshape(len(k), -1)
            y, x = np.divmod(fit.argmax(axis=1), BLOCK)
            fits[part] = fit.max(axis=1)
            places[part] = self._address(row, y, column, x)
        return fits, places

    def _address(
        self, row: np.ndarray, y: np.ndarray | int, column: np.ndarray, x: np.ndarray | int
    ) -> np.ndarray:
        """Address y * W + x on the map; pixels in the padding: of the border pixel they repeat."""
        height, width = self.det.shape[1:]
        y = np.minimum(row * BLOCK + y, height - 1)
        return y * width + np.minimum(column * BLOCK + x, width - 1)


class DeviceMaps:
    """Maps as tensors on any device; the methods are those of HostMaps."""

    def __init__(self, det: Tensor, tag: Tensor) -> None:
        self.det = det
        self.tag = tag

    def total(self) -> np.ndarray:
        return self.det.sum().cpu().numpy()

    def local_maxima(self, threshold: float, radius: int) -> Pixels:
        largest = F.max_pool2d(self.det[None], 2 * radius + 1, 1, radius)[0]
        peaks = (self.det > threshold) & (self.det == largest)
        return Pixels(*peaks.nonzero().cpu().numpy().T)

    def windows(self, pixels: Pixels, radius: int = 1) -> np.ndarray:
        index = around(pixels, radius, self.det.shape)
        index = tuple(torch.from_numpy(i).to(self.det.device) for i in index)
        return self.det[index].cpu().numpy()

    def tags(self, pixels: Pixels) -> np.ndarray:
        joint, y, x = torch.from_numpy(np.stack(pixels)).to(self.det.device)
        return self.tag[joint if len(self.tag) > 1 else 0, y, x].cpu().numpy()

    def best_pixels(self, joint: np.ndarray, tags: np.ndarray) -> Pixels:
        size = self.det[0].numel()
        address = torch.arange(size, device=self.det.device)
        best = []
        for begin in range(0, len(joint), PAIRS_AT_ONCE):
            part = slice(begin, begin + PAIRS_AT_ONCE)
            k = torch.from_numpy(joint[part]).to(self.det.device)
            wanted = torch.from_numpy(tags[part]).to(self.det.device)
            maps = self.tag[k] if len(self.tag) > 1 else self.tag.expand(len(k), -1, -1, -1)
            squares = (  # one tag dimension at a time, which needs L times less memory
                (maps[..., dim] - wanted[:, dim, None, None]).square()
                for dim in range(wanted.shape[1])
            )
            distance = reduce(torch.add, squares).sqrt().round()
            fits = (self.det[k] - distance).flatten(1)  # (Q, H * W)
            is_best = fits == fits.amax(dim=1, keepdim=True)
            best.append(torch.where(is_best, address, size).amin(dim=1))
        first = torch.cat(best).clamp(max=size - 1).cpu().numpy()
        return Pixels(joint, *np.divmod(first, self.det.shape[2]))


def around(
    pixels: Pixels, radius: int, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index of the windows (N, D, D) around pixels of maps of `shape` (K, H, W)."""
    step = np.arange(-radius, radius + 1)
    y = np.clip(pixels.y[:, None] + step, 0, shape[1] - 1)
    x = np.clip(pixels.x[:, None] + step, 0, shape[2] - 1)
    return pixels.joint[:, None, None], y[:, :, None], x[:, None, :]


def first_of_equals(maps: HostMaps | DeviceMaps, pixels: Pixels, radius: int) -> np.ndarray:
    """(N,): whether no earlier pixel within `radius` has the same value as the peak."""
    values = maps.windows(pixels, radius)
    _, y, x = around(pixels, radius, maps.det.shape)
    peak_y, peak_x = pixels.y[:, None, None], pixels.x[:, None, None]
    earlier = (y < peak_y) | ((y == peak_y) & (x < peak_x))
    equal = values == values[:, radius, radius, None, None]
    return ~(earlier & equal).any(axis=(1, 2))


def rounded_length(vectors: np.ndarray) -> np.ndarray:
    """(..., L) -> (...): Euclidean length, rounded half to even."""
    squared = sum(np.square(vectors[..., i]) for i in range(vectors.shape[-1]))
    return np.round(np.sqrt(squared))


def strongest(pixels: Pixels, values: np.ndarray, limit: int) -> np.ndarray:
    """Indices of the `limit` largest values of each joint, sorted by joint, then by value."""
    order = np.lexsort((pixels.x, pixels.y, -values, pixels.joint))
    joint = pixels.joint[order]
    rank = np.arange(len(joint)) - np.searchsorted(joint, joint)
    return order[rank < limit]


def _neighbors(radius: int) -> list[tuple[int, int]]:
    """All offsets (dy, dx) within `radius`, the nearest first, since these rule out the most."""
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
    while reduced.shape[2] > 1:  # halving is many times faster than reducing this axis
        reduced = smaller(reduced[:, :, ::2], reduced[:, :, 1::2])
    return reduced.reshape(-1, blocks.shape[-1])


def _largest(blocks: np.ndarray) -> np.ndarray:
    """(V, BLOCK, U, BLOCK) -> (V * U,): y * BLOCK + x of the largest value in each block."""
    return blocks.swapaxes(1, 2).reshape(-1, BLOCK * BLOCK).argmax(axis=1)
