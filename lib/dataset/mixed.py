"""Several data sets as one training set (DATASET.MIX)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from lib.dataset.pose_dataset import PoseDataset
from lib.dataset.samples import Sample


class Part(NamedTuple):
    """One data set of a mix."""

    name: str  # root and split
    dataset: PoseDataset
    weight: float  # passes over its images in an epoch

    @property
    def samples(self) -> int:
        """Samples in an epoch."""
        return max(1, round(self.weight * len(self.dataset)))


class MixedDataset(Dataset):
    """Samples of several data sets, an epoch of each after the other; the sampler shuffles them.

    A data set advances in passes of its own: with weight 1 an epoch is one pass, and its samples
    are those of the data set alone. With weight 2, epoch 3 holds passes 6 and 7; with weight .5 it
    holds the second half of pass 1. The images of broken passes are in an order that depends on the
    seed, the same in each pass. So a sample is a function of (seed, epoch, index) alone.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self.ends = np.cumsum([part.samples for part in self.parts])
        self.orders = [_order(part) for part in self.parts]

    def at_size(self, size: int) -> MixedDataset:
        """The same images in crops of another size."""
        return MixedDataset(
            [part._replace(dataset=part.dataset.at_size(size)) for part in self.parts]
        )

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        number, one_pass, image = self.place(key)
        return self.parts[number].dataset[one_pass, image]

    def place(self, key: tuple[int, int]) -> tuple[int, int, int]:
        """(epoch, index) -> which part, which of its passes, which of its images."""
        epoch, index = key
        number = int(np.searchsorted(self.ends, index, side="right"))
        part = self.parts[number]
        position = index - (int(self.ends[number]) - part.samples)
        one_pass, image = divmod(epoch * part.samples + position, len(part.dataset))
        return number, one_pass, int(self.orders[number][image])

    def summary(self) -> list[dict[str, Any]]:
        """Images, weight, samples an epoch and labelled joints of each part."""
        return [
            {
                "data": part.name,
                "images": len(part.dataset),
                "weight": part.weight,
                "samples": part.samples,
                "labelled": part.dataset.labelled_names,
            }
            for part in self.parts
        ]


TrainingSet = PoseDataset | MixedDataset


def _order(part: Part) -> np.ndarray:
    """(N,) the images of a pass; shuffled where an epoch may end within one."""
    images = len(part.dataset)
    if part.samples % images == 0:
        return np.arange(images)
    return np.random.default_rng((part.dataset.settings.seed, images)).permutation(images)
