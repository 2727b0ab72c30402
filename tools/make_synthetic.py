"""Render a data set of cartoon people with exact joints, in the layout of COCO or CrowdPose.

--format animal renders four-legged animals in the layout of custom keypoints
(docs/custom_data.md).

    python -m tools.make_synthetic --root data/synthetic
    python -m tools.make_synthetic --root data/synthetic --format crowd_pose --people 2-6
    python -m tools.make_synthetic --root data/animal --format animal --people 1-3
    python -m tools.make_synthetic --root data/synthetic --train 2000 --val 200 \\
        --size 320x240 --people 0-6 --val-people 1-3 --height 0.35-0.95 --clutter 0.4

The same command gives the same bytes, and does nothing where they already exist.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from lib.dataset.synthetic.describe import LAYOUTS
from lib.dataset.synthetic.layout import make_dataset
from lib.dataset.synthetic.scene import SceneParams
from lib.keypoints import COCO, CROWD_POSE
from lib.utils import cli


def two(kind: Callable, separator: str) -> Callable[[str], tuple]:
    """A parser of '0-6' (-> 0, 6) or '3' (-> 3, 3)."""

    def numbers(text: str) -> tuple:
        low, _, high = text.partition(separator)
        return kind(low), kind(high or low)

    return numbers


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--root", type=Path, required=True, help="a new or empty folder")
    add("--format", choices=LAYOUTS, default=COCO.name)
    add("--train", type=int, default=2000, metavar="IMAGES")
    add("--val", type=int, default=200, metavar="IMAGES")
    add("--test", type=int, metavar="IMAGES", help="default: crowd_pose: as --val; others: 0")
    add("--size", type=two(int, "x"), default=(320, 240), help="width x height, pixels")
    add("--people", type=two(int, "-"), default=(0, 6), help="people per image")
    add("--val-people", type=two(int, "-"), help="of val and test; default: --people")
    add(
        "--height",
        type=two(float, "-"),
        default=(0.35, 0.95),
        help="of people / of the image; of animals: their length",
    )
    add("--clutter", type=float, default=SceneParams.clutter, help="of the background, 0 to 1")
    add("--seed", type=int, default=0)
    add("--workers", type=int, default=os.cpu_count())
    return parser.parse_args(argv)


def params_of(args: argparse.Namespace) -> dict[str, SceneParams]:
    """Scene parameters per split."""
    (width, height), (few, many), (short, tall) = args.size, args.people, args.height
    train = SceneParams(
        width=width,
        height=height,
        min_people=few,
        max_people=many,
        min_height=short,
        max_height=tall,
        clutter=args.clutter,
    )
    few, many = args.val_people or args.people
    val = replace(train, min_people=few, max_people=many)
    return {"train": train, "val": val, "test": val}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.test is None:
        args.test = args.val if args.format == CROWD_POSE.name else 0
    counts = {"train": args.train, "val": args.val, "test": args.test}
    start = time.perf_counter()
    try:
        with tqdm(total=sum(counts.values()), unit="image", disable=None) as bar:
            rendered = make_dataset(
                root=args.root,
                spec=LAYOUTS[args.format].spec,
                counts=counts,
                params=params_of(args),
                seed=args.seed,
                workers=args.workers,
                tick=bar.update,
            )
    except OSError as error:
        raise ValueError(f"cannot write to {args.root}: {error}") from None
    seconds = time.perf_counter() - start
    if rendered:
        print(f"{args.root}: {rendered} images rendered, {rendered / seconds:.0f} a second")
    else:
        print(f"{args.root}: already there, nothing rendered")


if __name__ == "__main__":
    cli.run(main)
