"""Decode and shrink the training images once (DATASET.CACHE).

    python -m tools.cache_images --cfg experiments/coco/mobilenet/mobile.yaml \\
        --superconfig mobile_configs/search-XS.json DATASET.CACHE data/cache
    python dist_train.py ... DATASET.CACHE data/cache

A cache belongs to an input size, MIN_SCALE and SCALE_TYPE, and is made for the whole split. It
takes 3 bytes a pixel: 0.47 MB for an image of 640 x 480 and inputs of 256. A complete cache stays
as it is; delete it when images have changed.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from yacs.config import CfgNode

from lib.config import load_config
from lib.dataset.build import annotated_records, available_cores, start_worker
from lib.dataset.cache import (
    ImageCache,
    cache_path,
    cache_side,
    shrink,
    shrunk_size,
    write_cache,
)
from lib.dataset.reader import ImageFiles, ImageRecord, ReadError, layout_of
from lib.models.arch import ArchSpec
from lib.utils import cli

logger = logging.getLogger("lib.cache")


class Shrunk(Dataset):
    """The images as a cache has them, or the error message of one that cannot be read."""

    def __init__(self, cfg: CfgNode, records: Sequence[ImageRecord]) -> None:
        self.files = ImageFiles(layout_of(cfg, is_train=True).images)
        self.records = records
        self.side, self.scale_type = cache_side(cfg), cfg.DATASET.SCALE_TYPE

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> np.ndarray | str:
        record = self.records[index]
        try:
            image = self.files.read_checked(record)
        except ReadError as error:
            return str(error)
        return shrink(image, shrunk_size(record.width, record.height, self.side, self.scale_type))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg", required=True, help="the training's yaml")
    parser.add_argument("--superconfig", help="the training's architecture: its img_size counts")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s", force=True)
    arch = ArchSpec.from_json(args.superconfig) if args.superconfig else None
    cfg = load_config(args.cfg, args.opts, img_size=arch.img_size if arch else None)
    if not cfg.DATASET.CACHE:
        raise ValueError("DATASET.CACHE names no folder to fill")
    path = cache_path(cfg)
    if path.with_suffix(".json").exists():
        ImageCache.open(path)
        logger.info("%s is complete", path)
        return 0
    return fill(cfg, path)


def fill(cfg: CfgNode, path: Path) -> int:
    """Write the cache at `path`; 1 when it lacks an image (DATASET.UNREADABLE skip)."""
    records = annotated_records(cfg)
    loader = DataLoader(
        Shrunk(cfg, records),
        batch_size=None,
        num_workers=min(cfg.WORKERS, available_cores()),
        collate_fn=lambda image: image,
        worker_init_fn=start_worker,
    )
    missing = 0

    def images() -> Iterator[np.ndarray | None]:
        nonlocal missing
        for image in tqdm(loader, disable=not (cfg.VERBOSE and sys.stderr.isatty())):
            if not isinstance(image, str):
                yield image
                continue
            if cfg.DATASET.UNREADABLE == "raise":
                raise ReadError(image)
            missing += 1
            logger.warning("%s; it is left out", image)
            yield None

    write_cache(path, records, images(), cfg)
    size = path.stat().st_size / 1e6
    logger.info("%d images, %.1f MB in %s", len(records) - missing, size, path)
    return 1 if missing else 0


if __name__ == "__main__":
    cli.run(main)
