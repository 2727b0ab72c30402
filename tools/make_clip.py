"""Render a video of people who walk past one another, for tools/demo.

python -m tools.make_clip --out data/clip.mp4 --people 3 --size 640x480 --seconds 10
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np

from lib.analysis.report import make_folders
from lib.dataset.synthetic.background import add_light, draw_background
from lib.dataset.synthetic.paint import Canvas, paint_person, sample_clothes
from lib.dataset.synthetic.people import ROW, Pose, joints_of, sample_pose
from lib.utils import cli
from tools.demo.media import Timing
from tools.demo.writer import VideoFile

FPS = 25.0
STRIDE_TIME = 1.6  # seconds from one pose to the other and back


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--out", required=True, type=Path, help="*.mp4")
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--size", default="640x480", help="WIDTHxHEIGHT (default: 640x480)")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    size = re.fullmatch(r"(\d+)x(\d+)", args.size)
    if not size:
        parser.error(f"--size is {args.size}; wanted WIDTHxHEIGHT, like 640x480")
    if args.people < 0 or args.seconds <= 0:
        parser.error("--people must be 0 or more, --seconds more than 0")
    args.size = tuple(map(int, size.groups()))
    if min(args.size) < 32:
        parser.error(f"--size is {size.group()}; wanted at least 32x32")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    make_folders(str(args.out))
    count = max(1, round(args.seconds * FPS))
    frames = (image for image, _ in walk(args.seed, args.people, args.size, count))
    first = next(frames)
    video = VideoFile(args.out.with_suffix(""), Timing.of(FPS), first)
    try:
        for i, image in enumerate(itertools.chain([first], frames)):
            video.write(image, i / FPS)
    except BaseException:
        video.discard()
        raise
    video.close()
    print(f"{count} frames: {video.path}")


def walk(
    seed: int, people: int, size: tuple[int, int], count: int
) -> Generator[tuple[np.ndarray, np.ndarray]]:
    """`count` frames (H, W, 3) uint8 RGB, each with the joints of its people (P, J, 3), J of `ROW`.

    Everybody walks through half of the image, every other person from the right.
    """
    rng = np.random.default_rng(seed)
    background = draw_background(rng, width=size[0], height=size[1], clutter=0.2)
    clothes = [sample_clothes(rng) for _ in range(people)]
    poses = [(sample_pose(rng, 0), sample_pose(rng, 0)) for _ in range(people)]
    scales = np.sort(rng.uniform(0.5, 0.7, people)) * size[1]  # far to near
    light = rng.integers(2**31)
    for i in range(count):
        canvas = Canvas(background.copy(), np.zeros(size[::-1], np.uint16))
        joints = []
        for p, (scale, worn) in enumerate(zip(scales, clothes, strict=True)):
            points = joints_of(between(*poses[p], i / FPS / STRIDE_TIME + p / people)) * scale
            x = 0.1 + 0.3 * p / people + 0.5 * i / count
            x = (x if p % 2 == 0 else 1 - x) * size[0]
            ground = (0.8 + 0.17 * (p + 1) / people) * size[1]
            foot = max(points[ROW["left_toe"], 1], points[ROW["right_toe"], 1])
            points[:, :2] += x, ground - foot
            paint_person(canvas, points, scale, worn, p + 1)
            joints.append(points)
        image = add_light(canvas.image, np.random.default_rng(light))
        yield image, np.array(joints).reshape(people, len(ROW), 3)


def between(one: Pose, other: Pose, time: float) -> Pose:
    """Limbs of `one` at whole times, of `other` halfway, interpolated in between."""
    share = (1 - np.cos(2 * np.pi * time)) / 2
    return one._replace(limbs=(1 - share) * one.limbs + share * other.limbs)


if __name__ == "__main__":
    cli.run(main)
