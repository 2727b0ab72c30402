"""Decode and shrink the training images once (DATASET.CACHE).

    python -m tools.cache_images --cfg experiments/coco/mobilenet/mobile.yaml \\
        --superconfig mobile_configs/search-XS.json DATASET.CACHE data/cache
    python dist_train.py ... DATASET.CACHE data/cache

A cache belongs to an input size, MIN_SCALE and SCALE_TYPE, and is made for the whole split. It
takes 3 bytes a pixel: 0.47 MB for an image of 640 x 480 and inputs of 256. A complete cache stays
as it is; delete it when images have changed. Images of another name or size than annotated are not
taken from it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm
from yacs.config import CfgNode

from lib.config import load_config
from lib.dataset.build import annotated_records
from lib.dataset.cache import ImageCache, cache_path, shrink, shrunk_size, write_cache
from lib.dataset.image_files import ImageFiles, ImageRecord, ReadError
from lib.dataset.reader import layout_of
from lib.models.arch import ArchSpec
from lib.utils import cli

logger = logging.getLogger("lib.cache")

CHUNK = 256  # images in memory at a time, at most


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--cfg", required=True, help="the training's yaml")
    parser.add_argument("--superconfig", help="the training's architecture: its img_size counts")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")
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
    records, files = annotated_records(cfg), ImageFiles(layout_of(cfg, is_train=True).images)

    def shrunk(record: ImageRecord) -> np.ndarray | None:
        try:
            return shrink(files.read(record), shrunk_size(record, cfg))
        except ReadError as error:
            if cfg.DATASET.UNREADABLE == "raise":
                raise
            logger.warning("%s; it is left out", error)
            return None

    def images() -> Iterator[np.ndarray | None]:
        with ThreadPoolExecutor(max(1, cfg.WORKERS)) as pool:
            for start in range(0, len(records), CHUNK):
                yield from pool.map(shrunk, records[start : start + CHUNK])

    quiet = not (cfg.VERBOSE and sys.stderr.isatty())
    write_cache(path, records, tqdm(images(), total=len(records), disable=quiet), cfg)
    count = len(ImageCache.open(path).places)
    logger.info("%d images, %.1f MB in %s", count, path.stat().st_size / 1e6, path)
    return 1 if count < len(records) else 0


if __name__ == "__main__":
    cli.run(main)
