"""Queries of grouping on the maps of one image: peaks, and the pixel where a joint fits best.

`HostMaps` computes on the CPU and skips most pixels. `ProjectedMaps` does so on maps that still
have to be enlarged, and interpolates only the pixels it looks at. `DeviceMaps` computes on the
device of the maps with operations on whole maps. All return the same results. Among equal values
the first pixel in row-major order wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.utils.blocks import BLOCK, ProjectedBlocks, Projection, WholeBlocks

SQUARE = np.ones((3, 3), np.uint8)  # a pixel and the eight next to it
SLACK = 1e-3  # of the largest value; far more than rounding changes
PAIRS_AT_ONCE = 64  # whole maps that DeviceMaps compares at a time


class Pixels(NamedTuple):
    """N pixels, each on the maps of one joint."""

    joint: np.ndarray  # (N,) int64
    y: np.ndarray
    x: np.ndarray

    def select(self, which: np.ndarray) -> Pixels:
        """The pixels that `which`, an index array or a mask, selects."""
        return Pixels(*(field[which] for field in self))


def maps_of(det: Tensor, tag: Tensor, enlarge: int = 1) -> Maps:
    """Queries for the maps of one image: det (K, H, W), tag (K or 1, H, W, L), on any device.

    enlarge: how many times they are enlarged, on the CPU (`can_enlarge`).
    """
    if det.device.type != "cpu":
        return DeviceMaps(det, tag)
    if enlarge > 1:
        return ProjectedMaps(det.numpy(), tag.numpy(), enlarge)
    return HostMaps(det.numpy(), tag.numpy())


class HostMaps:
    """Maps as NumPy arrays."""

    def __init__(self, det: np.ndarray, tag: np.ndarray) -> None:
        self.det = det
        self.tag = np.broadcast_to(tag, (*det.shape, tag.shape[-1]))

    @property
    def shape(self) -> Sequence[int]:
        """K, H, W"""
        return self.det.shape

    def total(self) -> np.ndarray:
        """The sum of all heatmap values, (), which is not finite if one of them is not."""
        with np.errstate(invalid="ignore"):  # of infinite values
            return np.asarray(self.det.sum())

    def possible_peaks(self, threshold: float, radius: int) -> Pixels:
        """Pixels above `threshold` that none of the four next to them exceeds.

        All pixels above `threshold` if `radius`, within which `find_peaks` looks, is 0.
        """
        _, height, width = self.det.shape
        joint, rest = np.divmod(np.flatnonzero(self.det > threshold), height * width)
        pixels = Pixels(joint, *np.divmod(rest, width))
        return _not_exceeded(pixels, radius, self.shape, lambda *place: self.det[place])

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
        address = WholeBlocks(self.det, self.tag, joints).best_pixels(which, tags)
        return Pixels(joint, *np.divmod(address, self.shape[2]))


def can_enlarge(shape: Sequence[int], size: Sequence[int]) -> bool:
    """Whether ProjectedMaps can enlarge maps of `shape` (h, w) to `size` (height, width)."""
    step = size[0] // shape[0]
    is_whole = all(step * a == b and b % BLOCK == 0 for a, b in zip(shape, size, strict=True))
    return is_whole and step > 1 and BLOCK % step == 0


class ProjectedMaps:
    """Maps as NumPy arrays, which `lib.core.images.resize_maps` would enlarge by a whole number.

    Pixels are interpolated only where a query looks, some percent of them. Values differ from those
    of HostMaps on enlarged maps by rounding.
    """

    def __init__(self, det: np.ndarray, tag: np.ndarray, step: int) -> None:
        """det: (K, h, w); tag: (K or 1, h, w, L); step: see `can_enlarge`."""
        self.det = np.ascontiguousarray(det)
        planes = np.broadcast_to(tag, (*det.shape, tag.shape[-1]))
        self.planes = [np.ascontiguousarray(planes[..., i]) for i in range(tag.shape[-1])]
        self.projection = Projection(step, (det.shape[1], det.shape[2]))
        self.shape = (len(det), *self.projection.size)

    def total(self) -> np.ndarray:
        """The sum of all heatmap values before they are enlarged."""
        with np.errstate(invalid="ignore"):  # of infinite values
            return np.asarray(self.det.sum())

    def possible_peaks(self, threshold: float, radius: int) -> Pixels:
        """As in HostMaps, in another order.

        Only pixels around values above the threshold are interpolated, in squares of step x step.
        Squares in which `find_peaks` can find none are left out.
        """
        step = self.projection.step
        near = self._near(threshold)
        patches = self.projection.patches(self.det, *near)
        if 2 * radius >= step:  # `find_peaks` looks beyond the middle of a square
            which = may_hold_peak(patches, slack=SLACK * np.abs(self.det).max())
            near, patches = near.select(which), patches[..., which]
        joint, row, column = near
        squares = self.projection.enlarged(patches)  # (step, step, N)
        possible = squares > threshold
        if radius:  # within a square, without a search for the next pixels
            possible[:-1] &= squares[:-1] >= squares[1:]
            possible[1:] &= squares[1:] >= squares[:-1]
            possible[:, :-1] &= squares[:, :-1] >= squares[:, 1:]
            possible[:, 1:] &= squares[:, 1:] >= squares[:, :-1]
        y, x, square = np.nonzero(possible)
        pixels = Pixels(joint[square], row[square] * step + y, column[square] * step + x)
        number = np.full(self.det.shape, len(joint), np.int32)  # of each square; the last: none
        number[joint, row, column] = np.arange(len(joint))
        squares = np.append(squares, np.full((step, step, 1), -np.inf, np.float32), axis=2)

        def value(joint: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
            return squares[y % step, x % step, number[joint, y // step, x // step]]

        return _not_exceeded(pixels, radius, self.shape, value)

    def _near(self, threshold: float) -> Pixels:
        """Pixels of the map that are above the threshold, or next to one."""
        above = (self.det > threshold).view(np.uint8)
        near = np.stack([cv2.dilate(plane, SQUARE) for plane in above]).view(bool)
        return Pixels(*np.unravel_index(np.flatnonzero(near), near.shape))

    def windows(self, pixels: Pixels, radius: int = 1) -> np.ndarray:
        """(N, D, D), D = 2 radius + 1: heatmap values around pixels, the border repeated."""
        return self.projection.at(self.det, *around(pixels, radius, self.shape))

    def tags(self, pixels: Pixels) -> np.ndarray:
        """Tags (N, L) at N pixels."""
        return np.stack([self.projection.at(plane, *pixels) for plane in self.planes], axis=1)

    def best_pixels(self, joint: np.ndarray, tags: np.ndarray) -> Pixels:
        """As in HostMaps."""
        joints, which = np.unique(joint, return_inverse=True)
        blocks = ProjectedBlocks(self.det, self.planes, joints, self.projection)
        return Pixels(joint, *np.divmod(blocks.best_pixels(which, tags), self.shape[2]))


class DeviceMaps:
    """Maps as tensors on any device; the methods are those of HostMaps."""

    def __init__(self, det: Tensor, tag: Tensor) -> None:
        self.det = det
        self.tag = tag

    @property
    def shape(self) -> Sequence[int]:
        return self.det.shape

    def total(self) -> np.ndarray:
        return self.det.sum().cpu().numpy()

    def possible_peaks(self, threshold: float, radius: int) -> Pixels:
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


Maps = HostMaps | ProjectedMaps | DeviceMaps


def around(
    pixels: Pixels, radius: int, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index of the windows (N, D, D) around pixels of maps of `shape` (K, H, W)."""
    step = np.arange(-radius, radius + 1)
    y = np.clip(pixels.y[:, None] + step, 0, shape[1] - 1)
    x = np.clip(pixels.x[:, None] + step, 0, shape[2] - 1)
    return pixels.joint[:, None, None], y[:, :, None], x[:, None, :]


def find_peaks(maps: Maps, threshold: float, radius: int) -> Pixels:
    """Pixels above `threshold` that no pixel within `radius` rows and columns exceeds.

    Of equal pixels within `radius`, the first one in row-major order.
    """
    pixels = maps.possible_peaks(threshold, radius)
    values = maps.windows(pixels, radius)
    peaks = values[:, radius, radius, None, None]
    largest = np.flatnonzero(~np.any(values > peaks, axis=(1, 2)))
    pixels, values, peaks = pixels.select(largest), values[largest], peaks[largest]
    # Beyond the border, the window repeats pixels of the map, so their positions are compared.
    _, y, x = around(pixels, radius, maps.shape)
    peak_y, peak_x = pixels.y[:, None, None], pixels.x[:, None, None]
    is_earlier = (y < peak_y) | ((y == peak_y) & (x < peak_x))
    has_earlier = np.any(is_earlier & np.equal(values, peaks), axis=(1, 2))
    return pixels.select(np.flatnonzero(~has_earlier))


def may_hold_peak(patches: np.ndarray, slack: float) -> np.ndarray:
    """Indices of patches (3, 3, N) of a map in whose middle squares, enlarged, a peak may lie.

    Pixels are interpolated between two rows. At a peak, what lies between them does not rise to the
    left or to the right; so one of the rows does not rise to the left, and one not to the right.
    The same holds for columns. `slack` is more than rounding changes.
    """
    possible = np.ones(patches.shape[2], bool)
    for rows in (patches, patches.swapaxes(0, 1)):
        for side in (0, 2):
            with np.errstate(invalid="ignore"):  # of infinite values
                possible &= (rows[:, side] - rows[:, 1] <= slack).any(axis=0)
    return np.flatnonzero(possible)


def strongest(pixels: Pixels, values: np.ndarray, limit: int) -> np.ndarray:
    """Indices of the `limit` largest values of each joint, sorted by joint, then by value."""
    order = np.lexsort((pixels.x, pixels.y, -values, pixels.joint))
    joint = pixels.joint[order]
    rank = np.arange(len(joint)) - np.searchsorted(joint, joint)
    return order[rank < limit]


def _not_exceeded(
    pixels: Pixels, radius: int, shape: Sequence[int], value: Callable[..., np.ndarray]
) -> Pixels:
    """The pixels that none of the four next to them exceeds; value(joint, y, x): of any pixels."""
    values = value(*pixels)
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)) if radius else ():
        # Beyond the border a pixel is compared with itself.
        y = np.clip(pixels.y + dy, 0, shape[1] - 1)
        x = np.clip(pixels.x + dx, 0, shape[2] - 1)
        remains = values >= value(pixels.joint, y, x)
        pixels, values = pixels.select(remains), values[remains]
    return pixels
