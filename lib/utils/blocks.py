"""The pixel of a map where a joint fits a person best: branch and bound over blocks of pixels.

For each block of 16 x 16 pixels, the largest heatmap value and the range of tags (`low` to `high`)
are bounded once per joint, for all people. They bound the fit of every pixel in the block. Blocks
whose bound is below the best fit so far are skipped.

Example: the left wrist of a person of tag 3.0 is missing. In one block, wrist values are at most
0.8 and tags between 5.2 and 9.0, so no fit exceeds 0.8 - round(2.2) = -1.2. If the pixel of the
largest value of another block fits with 0.9 - round(0.3) = 0.9, the first is skipped.

Letters: J joints, N blocks of a map (row by row), Q queries (a joint of a person).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BLOCK = 16  # pixels; side of a block, a power of two
MANY = 0.25  # share of blocks above which a search of the whole map is faster
BLOCKS_AT_ONCE = 4096  # blocks that are copied at a time


class Blocks(ABC):
    """The search; its classes know the pixels of whole maps, or interpolate them.

    top (J, N): at least the largest heatmap value of each block; low, high (J, N, L): its range of
    tags, or more. Rounding is monotonic, so the bounds hold for the computed fits exactly.
    """

    top: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __init__(self, joints: np.ndarray, height: int, width: int) -> None:
        """joints (J,): those whose maps, of this size, will be searched."""
        self.joints, self.height, self.width = joints, height, width
        down, across = -(-height // BLOCK), -(-width // BLOCK)
        self.rows, self.columns = np.divmod(np.arange(down * across), across)  # (N,)
        self.first = self._address(self.rows, 0, self.columns, 0)  # (N,) of each block

    @abstractmethod
    def pixels(self, k: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (P, 16, 16) and tags (P, 16, 16, L) of blocks (P,) of maps k (P,)."""

    @abstractmethod
    def whole(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Values (H, W) and tags (H, W, L) of a map."""

    def best_pixels(self, which: np.ndarray, tags: np.ndarray) -> np.ndarray:
        """(Q,): address y * W + x where joints[which] (Q,) best fit tags (Q, L); first of ties."""
        beyond = self.height * self.width  # larger than any address
        # 1. The best pixel of a block that probably fits well is a lower bound.
        middle = (self.low + self.high) / 2
        promising = (self.top[which] - rounded_length(middle[which] - tags[:, None])).argmax(axis=1)
        best, address = self._best_in(self.joints[which], promising, tags)
        # 2. Blocks whose upper bound is better, or equal with an earlier pixel.
        open_blocks = self._open_blocks(which, tags, best[:, None], address[:, None])
        open_blocks[np.arange(len(which)), promising] = False
        # 3. Queries with many such blocks search the whole map.
        for q in np.flatnonzero(open_blocks.mean(axis=1) > MANY):
            det, tag = self.whole(int(self.joints[which[q]]))
            address[q] = np.argmax(det - rounded_length(tag - tags[q]))
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
        fits, places = np.empty(len(block), np.float32), np.empty(len(block), np.int64)
        for i in range(0, len(block), BLOCKS_AT_ONCE):
            part = slice(i, i + BLOCKS_AT_ONCE)
            values, tags_there = self.pixels(joint[part], block[part])
            fit = values - rounded_length(tags_there - tags[part, None, None])
            fit = fit.reshape(len(fit), -1)
            y, x = np.divmod(fit.argmax(axis=1), BLOCK)
            fits[part] = fit.max(axis=1)
            places[part] = self._address(self.rows[block[part]], y, self.columns[block[part]], x)
        return fits, places

    def _address(
        self, row: np.ndarray, y: np.ndarray | int, column: np.ndarray, x: np.ndarray | int
    ) -> np.ndarray:
        """Address y * W + x on the map; pixels in the padding: of the border pixel they repeat."""
        y = np.minimum(row * BLOCK + y, self.height - 1)
        return y * self.width + np.minimum(column * BLOCK + x, self.width - 1)


class WholeBlocks(Blocks):
    """Blocks of maps whose pixels are all known."""

    def __init__(self, det: np.ndarray, tag: np.ndarray, joints: np.ndarray) -> None:
        """det: (K, H, W); tag: (K, H, W, L)."""
        super().__init__(joints, *det.shape[1:])
        self.det, self.tag = det, tag
        self.det_blocks, self.tag_blocks = in_blocks(det, BLOCK), in_blocks(tag, BLOCK)
        tops = [_over_blocks(np.maximum, self.det_blocks[k, ..., None]) for k in joints]
        self.top = np.stack(tops)[..., 0]
        self.low = np.stack([_over_blocks(np.minimum, self.tag_blocks[k]) for k in joints])
        self.high = np.stack([_over_blocks(np.maximum, self.tag_blocks[k]) for k in joints])

    def pixels(self, k: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        row, column = self.rows[block], self.columns[block]
        return self.det_blocks[k, row, :, column], self.tag_blocks[k, row, :, column]

    def whole(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self.det[k], self.tag[k]


class Projection(NamedTuple):
    """Bilinear enlargement of maps (h, w) by a whole number, as `lib.core.images.resize_maps`."""

    step: int
    shape: tuple[int, int]  # h, w

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the enlarged maps."""
        return self.step * self.shape[0], self.step * self.shape[1]

    def near(self, position: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The two pixels of the map next to enlarged pixels, and the share of the second.

        For example, with step 2, the enlarged pixels 3 and 4 lie at 1.25 and 1.75.
        """
        place = np.maximum((position + np.float32(0.5)) / np.float32(self.step) - 0.5, 0)
        first = place.astype(np.int64)
        share = (place - first).astype(np.float32)
        return first, np.minimum(first + 1, self.shape[axis] - 1), share

    def at(self, maps: np.ndarray, k: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """maps (K, h, w) at enlarged pixels (...): (...)"""
        above, below, v = self.near(y, axis=0)
        left, right, u = self.near(x, axis=1)
        flat, width = maps.reshape(-1), self.shape[1]
        row = k * self.shape[0]
        above, below = (row + above) * width, (row + below) * width
        upper = _between(flat[above + left], flat[above + right], u)
        lower = _between(flat[below + left], flat[below + right], u)
        return _between(upper, lower, v)

    def squares(
        self, maps: np.ndarray, k: np.ndarray, row: np.ndarray, column: np.ndarray, side: int = 1
    ) -> np.ndarray:
        """Squares of maps (K, h, w), enlarged: (D, D, P), D = side * step; the values of `at`.

        k, row, column (P,): the map and the first pixel of each square of side x side pixels.
        """
        return self.enlarged(self.patches(maps, k, row, column, side))

    def patches(
        self, maps: np.ndarray, k: np.ndarray, row: np.ndarray, column: np.ndarray, side: int = 1
    ) -> np.ndarray:
        """(side + 2, side + 2, P): squares of maps, as in `squares`, and the pixels around them."""
        height, width = self.shape
        reach = np.arange(-1, side + 1)[:, None]  # beyond the border, it is repeated
        y = k * height + np.clip(row + reach, 0, height - 1)  # (side + 2, P)
        x = np.clip(column + reach, 0, width - 1)
        return maps.reshape(-1)[(y * width)[:, None] + x]

    def enlarged(self, patches: np.ndarray) -> np.ndarray:
        """The squares (D, D, P) in the middle of `patches`."""
        side = len(patches) - 2
        place = (np.arange(side * self.step, dtype=np.float32) + 0.5) / self.step + 0.5
        first = place.astype(np.int64)
        share = (place - first).astype(np.float32)[:, None]
        across = _between(patches[:, first], patches[:, first + 1], share)
        return _between(across[first], across[first + 1], share[..., None])

    def all(self, one: np.ndarray) -> np.ndarray:
        """A map (h, w) enlarged; the values are those of `at`."""
        above, below, v = self.near(np.arange(self.size[0]), axis=0)
        left, right, u = self.near(np.arange(self.size[1]), axis=1)
        across = _between(one[:, left], one[:, right], u)
        return _between(across[above], across[below], v[:, None])


class ProjectedBlocks(Blocks):
    """Blocks of enlarged maps, whose pixels are interpolated only in the blocks that are searched.

    An interpolated value lies between those around it, so bounds come from the maps themselves,
    with one pixel more on each side of a block.
    """

    def __init__(
        self,
        det: np.ndarray,
        tags: Sequence[np.ndarray],
        joints: np.ndarray,
        projection: Projection,
    ) -> None:
        """det: (K, h, w); tags: L of (K, h, w); BLOCK is a multiple of the step."""
        super().__init__(joints, *projection.size)
        self.det, self.tags, self.projection = det, tags, projection
        self.side = BLOCK // projection.step  # of a block on the map
        if len(joints) < len(det):
            det, tags = det[joints], [tag[joints] for tag in tags]
        self.top = _over_wide_blocks(np.maximum, det, self.side)
        low = [_over_wide_blocks(np.minimum, tag, self.side) for tag in tags]
        high = [_over_wide_blocks(np.maximum, tag, self.side) for tag in tags]
        self.low, self.high = np.stack(low, axis=2), np.stack(high, axis=2)

    def pixels(self, k: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        row, column = self.rows[block] * self.side, self.columns[block] * self.side
        det, *tags = (
            self.projection.squares(maps, k, row, column, self.side).transpose(2, 0, 1)
            for maps in (self.det, *self.tags)
        )
        return det, np.stack(tags, axis=3)

    def whole(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        det, *tags = (self.projection.all(maps[k]) for maps in (self.det, *self.tags))
        return det, np.stack(tags, axis=2)


def _between(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """first + share * (second - first), which is exact between equal values."""
    with np.errstate(invalid="ignore"):  # of infinite values
        return first + share * (second - first)


def rounded_length(vectors: np.ndarray) -> np.ndarray:
    """(..., L) -> (...): Euclidean length, rounded half to even."""
    squared = sum(np.square(vectors[..., i]) for i in range(vectors.shape[-1]))
    return np.round(np.sqrt(squared))


def in_blocks(array: np.ndarray, side: int) -> np.ndarray:
    """(K, H, W, ...) -> (K, V, side, U, side, ...), the border repeated up to whole blocks."""
    margin = [(0, -length % side) for length in array.shape[1:3]]
    if any(after for _, after in margin):
        array = np.pad(array, [(0, 0), *margin] + [(0, 0)] * (array.ndim - 3), mode="edge")
    maps, height, width = array.shape[:3]
    return array.reshape(maps, height // side, side, width // side, side, *array.shape[3:])


def _over_blocks(smaller: np.ufunc, blocks: np.ndarray) -> np.ndarray:
    """(V, D, U, D, L) -> (V * U, L), D a power of two: the minimum or maximum over each block."""
    reduced = smaller.reduce(blocks, axis=1)  # (V, U, D, L)
    while reduced.shape[2] > 1:  # halving is many times faster than reducing this axis
        reduced = smaller(reduced[:, :, ::2], reduced[:, :, 1::2])
    return reduced.reshape(-1, blocks.shape[-1])


def _over_wide_blocks(larger: np.ufunc, maps: np.ndarray, side: int) -> np.ndarray:
    """(J, h, w) -> (J, N): over each block and one pixel more on each side."""
    joints, height, width = maps.shape
    rows = larger.reduce(maps.reshape(joints, height // side, side, width), axis=2)
    rows[:, 1:] = larger(rows[:, 1:], maps[:, side - 1 : -1 : side])  # the row before each block
    rows[:, :-1] = larger(rows[:, :-1], maps[:, side::side])  # the row after
    blocks = _over_blocks(larger, rows.reshape(-1, 1, width // side, side, 1))
    blocks = blocks.reshape(joints, -1, width // side)
    blocks[..., 1:] = larger(blocks[..., 1:], rows[..., side - 1 : -1 : side])
    blocks[..., :-1] = larger(blocks[..., :-1], rows[..., side::side])
    return blocks.reshape(joints, -1)
