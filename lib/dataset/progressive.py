"""Progressive resolution: crops that grow with the epochs (TRAIN.PROGRESSIVE).

Small crops are cheap. The first epochs learn at a part of the cost, the last ones are at
DATASET.INPUT_SIZE, the size of evaluation (Howard 2018; EfficientNetV2, Tan and Le, ICML 2021).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from torch.utils.data import Dataset
from yacs.config import CfgNode

from lib.dataset.mixed import TrainingSet
from lib.dataset.samples import Sample

ROUNDING = 1e-6  # epochs; 0.1 + 0.2 of 10 are 3


@dataclass(frozen=True)
class InputSizes:
    """The input size of each epoch."""

    sizes: tuple[int, ...]  # pixels; the last is DATASET.INPUT_SIZE
    starts: tuple[int, ...] = ()  # the first epoch of each size but the first

    @classmethod
    def from_config(cls, cfg: CfgNode) -> InputSizes:
        """ValueError for sizes that do not rise to DATASET.INPUT_SIZE, and for a supernet."""
        train, final = cfg.TRAIN, cfg.DATASET.INPUT_SIZE
        if not train.PROGRESSIVE:
            return cls((final,))
        if cfg.MODEL.NAME == "pose_supermobilenet":
            raise ValueError(
                "TRAIN.PROGRESSIVE is not for a supernet, which samples an input size at each step "
                "(SUPERNET.RESOLUTIONS)"
            )
        shares, early = zip(*train.PROGRESSIVE, strict=True)
        sizes = (*early, final)
        if list(sizes) != sorted(set(sizes)):
            raise ValueError(
                f"the sizes of TRAIN.PROGRESSIVE are {list(early)}; they must rise, up to "
                f"DATASET.INPUT_SIZE {final}, at which the remaining epochs are trained"
            )
        if sum(shares) > 1 - ROUNDING:
            raise ValueError(
                f"the shares of TRAIN.PROGRESSIVE are {sum(shares):g} together; they must leave "
                f"epochs for DATASET.INPUT_SIZE {final}"
            )
        epochs = train.END_EPOCH - train.BEGIN_EPOCH
        done = [sum(shares[: i + 1]) * epochs for i in range(len(shares))]
        return cls(sizes, tuple(train.BEGIN_EPOCH + int(part + ROUNDING) for part in done))

    def at(self, epoch: int) -> int:
        """Pixels."""
        return self.sizes[bisect_right(self.starts, epoch)]

    def pixels(self, begin: int, epochs: float) -> float:
        """Pixels of a crop, summed over so many `epochs` from epoch `begin`, the last in part."""
        whole = int(epochs)
        areas = (self.at(begin + epoch) ** 2 for epoch in range(whole))
        return sum(areas) + (epochs - whole) * self.at(begin + whole) ** 2

    def __str__(self) -> str:
        later = zip(self.sizes[1:], self.starts, strict=True)
        return ", ".join([f"{self.sizes[0]} px", *(f"{s} px from epoch {e}" for s, e in later)])


class Growing(Dataset):
    """The samples of a training set in crops of the size of their epoch.

    Whatever is random in a sample stays that of the whole training: a crop shows the same place at
    another size.
    """

    def __init__(self, dataset: TrainingSet, sizes: InputSizes) -> None:
        self.sizes = sizes
        self.at_size = {size: dataset.at_size(size) for size in sizes.sizes}

    def __len__(self) -> int:
        return len(self.at_size[self.sizes.sizes[-1]])

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, _ = key
        return self.at_size[self.sizes.at(epoch)][key]
