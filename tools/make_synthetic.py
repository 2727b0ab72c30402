"""Draw a data set of cartoon people with exact joints, in the layout of COCO or CrowdPose.

Or of animals on four legs, in that of an own data set (docs/custom_data.md).

    python -m tools.make_synthetic --root data/synthetic
    python -m tools.make_synthetic --root data/synthetic --format crowd_pose --people 2-6
    python -m tools.make_synthetic --root data/animal --format animal --people 1-3
    python -m tools.make_synthetic --root data/synthetic --train 2000 --val 200 \\
        --size 320x240 --people 0-6 --val-people 1-3 --height 0.35-0.95 --clutter 0.4

The same command gives the same bytes, and does nothing where they already are.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from lib.dataset.synthetic.animals import ANIMAL
from lib.dataset.synthetic.layout import make_dataset
from lib.dataset.synthetic.scene import SceneParams
from lib.keypoints import COCO, CROWD_POSE

FORMATS = {spec.name: spec for spec in (COCO, CROWD_POSE, ANIMAL)}


def people(text: str) -> tuple[int, int]:
    """'0-6' -> (0, 6); '3' -> (3, 3)."""
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def heights(text: str) -> tuple[float, float]:
    """'0.35-0.95' -> (0.35, 0.95)."""
    low, _, high = text.partition("-")
    return float(low), float(high or low)


def size(text: str) -> tuple[int, int]:
    """'320x240' -> (320, 240)."""
    width, height = text.split("x")
    return int(width), int(height)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--format", choices=FORMATS, default=COCO.name)
    parser.add_argument("--train", type=int, default=2000, metavar="PICTURES")
    parser.add_argument("--val", type=int, default=200, metavar="PICTURES")
    parser.add_argument(
        "--test", type=int, metavar="PICTURES", help="crowd_pose: as --val; others: 0"
    )
    parser.add_argument("--size", type=size, default=(320, 240), help="width x height, pixels")
    parser.add_argument("--people", type=people, default=(0, 6), help="people a picture")
    parser.add_argument("--val-people", type=people, help="... in val and test; as --people")
    parser.add_argument(
        "--height", type=heights, default=(0.35, 0.95), help="people / picture; of animals: length"
    )
    parser.add_argument("--clutter", type=float, default=SceneParams.clutter, help="0..1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.test is None:
        args.test = args.val if args.format == CROWD_POSE.name else 0
    counts = {"train": args.train, "val": args.val, "test": args.test}
    start = time.perf_counter()
    try:
        train = SceneParams(*args.size, *args.people, *args.height, clutter=args.clutter)
        low, high = args.val_people or args.people
        val = replace(train, min_people=low, max_people=high)
        params = {"train": train, "val": val, "test": val}
        with tqdm(total=sum(counts.values()), unit="picture", disable=None) as bar:
            made = make_dataset(
                args.root, FORMATS[args.format], counts, params, args.seed, args.workers, bar.update
            )
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    seconds = time.perf_counter() - start
    if made:
        print(f"{args.root}: {made} pictures drawn, {made / seconds:.0f} a second")
    else:
        print(f"{args.root}: already there, nothing drawn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
