"""Draw a video of people who walk past one another, for tools/demo.

python -m tools.make_clip --out data/clip.mp4 --people 3 --size 640x480 --seconds 10
"""

from __future__ import annotations

import argparse
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np

from lib.dataset.synthetic.background import add_light, draw_background
from lib.dataset.synthetic.paint import Canvas, paint_person, sample_clothes
from lib.dataset.synthetic.people import ROW, Pose, joints_of, sample_pose
from lib.utils import cli
from tools.demo.media import VideoFile

RATE = 25.0  # frames a second
STRIDE_TIME = 1.6  # seconds from a pose to another and back


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path, help="*.mp4")
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--size", default="640x480", help="WIDTHxHEIGHT (default: 640x480)")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    width, cross, height = args.size.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        parser.error(f"--size is {args.size}; wanted WIDTHxHEIGHT, like 640x480")
    if args.people < 0 or args.seconds <= 0:
        parser.error("--people must be 0 or more, --seconds more than 0")
    if min(int(width), int(height)) < 32:
        parser.error(f"--size is {args.size}; wanted at least 32x32")
    args.size = int(width), int(height)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    count = max(1, round(args.seconds * RATE))
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write {args.out}: {error.strerror}") from None
    pictures = walk(args.seed, args.people, args.size, count)
    video = None
    for i, (picture, _) in enumerate(pictures):
        video = video or VideoFile(args.out.with_suffix(""), RATE, picture)
        video.write(picture, i / RATE)
    assert video is not None, "count is at least 1"
    video.close()
    print(f"{count} frames: {video.path}")


def walk(
    seed: int, people: int, size: tuple[int, int], count: int
) -> Generator[tuple[np.ndarray, np.ndarray]]:
    """`count` times a picture (H, W, 3) uint8 RGB and where `POINTS` of its people are, (P, J, 3).

    Everybody walks through half of the picture, every other one from the right.
    """
    rng = np.random.default_rng(seed)
    background = draw_background(rng, width=size[0], height=size[1], clutter=0.2)
    looks = [sample_clothes(rng) for _ in range(people)]
    poses = [(sample_pose(rng, 0), sample_pose(rng, 0)) for _ in range(people)]
    scales = np.sort(rng.uniform(0.5, 0.7, people)) * size[1]  # far to near
    light = rng.integers(2**31)
    for i in range(count):
        canvas = Canvas(background.copy(), np.zeros(size[::-1], np.uint16))
        joints = []
        for p, (scale, look) in enumerate(zip(scales, looks, strict=True)):
            points = joints_of(between(*poses[p], i / RATE / STRIDE_TIME + p / people)) * scale
            x = 0.1 + 0.3 * p / people + 0.5 * i / count
            x = (x if p % 2 == 0 else 1 - x) * size[0]
            ground = (0.8 + 0.17 * (p + 1) / people) * size[1]
            foot = max(points[ROW["left_toe"], 1], points[ROW["right_toe"], 1])
            points[:, :2] += x, ground - foot
            paint_person(canvas, points, scale, look, p + 1)
            joints.append(points)
        picture = add_light(canvas.image, np.random.default_rng(light))
        yield picture, np.array(joints).reshape(people, len(ROW), 3)


def between(one: Pose, other: Pose, time: float) -> Pose:
    """The limbs of one pose at whole times, of the other halfway, and what is between."""
    share = (1 - np.cos(2 * np.pi * time)) / 2
    return one._replace(limbs=(1 - share) * one.limbs + share * other.limbs)


if __name__ == "__main__":
    cli.run(main)
