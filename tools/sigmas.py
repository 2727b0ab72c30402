"""Measure the OKS sigmas of custom joints from repeated annotations of the same images.

    python -m tools.sigmas first.json second.json --joints data/tiger/joints.yaml
    python -m tools.sigmas first.json second.json third.json --joints ... --write

Each file is one pass over the same images, in COCO's format: of another annotator, or of the same
one again. With --write the sigmas go into the joints file. Exit code 0; 2 for a user's mistake.

COCO defines sigma^2 = E[d^2 / area], with d the distance of an annotation from the consensus. Of n
annotations of a joint, it is estimated as the sum of d^2 / area, with d from their mean, divided by
n - 1: the mean of a few annotations is closer to them than the consensus is. Two passes of one
annotator have habits in common, and give smaller sigmas than two annotators.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from scipy.optimize import linear_sum_assignment

from lib.dataset.reader import read_annotations
from lib.keypoints import KeypointSpec
from lib.utils import cli
from lib.utils.files import write_file
from lib.utils.reading import read_bytes
from lib.utils.tables import markdown
from lib.utils.yaml_text import parse_yaml, read_yaml

FEWEST = 10  # repeated joints; the sampling error of sigma is 16 % then
FARTHEST = 0.5  # median distance of the joints of one object in two passes, by the root of its area


class Instance(NamedTuple):
    """One annotated object."""

    joints: np.ndarray  # (K, 3)
    area: float


class Spread(NamedTuple):
    """How far annotations of a joint are apart."""

    sigma: float
    count: int  # annotations beyond the first of each joint
    worst: str  # the image with the largest distance
    ratio: float  # of that distance to sigma


def main(argv: list[str] | None = None) -> int:
    parser = cli.new_parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="two or more")
    parser.add_argument("--joints", required=True, type=Path, metavar="FILE", help="joints.yaml")
    parser.add_argument("--write", action="store_true", help="put the sigmas into the joints file")
    args = parser.parse_args(argv)
    if len(args.files) < 2:
        raise ValueError("one file has no repeated annotations; give two or more passes")
    spec = KeypointSpec.from_dict(read_yaml(args.joints, "joints file"), str(args.joints))
    passes = [read_pass(path, spec) for path in args.files]
    names = [name for name in passes[0] if all(name in other for other in passes)]
    if not names:
        raise ValueError(f"{args.files[0]} and the other files have no image (file_name) in common")
    groups = [(name, group) for name in names for group in match([one[name] for one in passes])]
    total = max(sum(len(one[name]) for name in names) for one in passes)
    print(f"{len(groups)} of {total} objects in {len(names)} images are annotated several times")
    spreads = [measure(groups, place) for place in range(spec.num_joints)]
    print(table(spec, spreads))
    measured = {
        joint: round(one.sigma, 4)
        for joint, one in zip(spec.joints, spreads, strict=True)
        if one.count >= FEWEST and one.sigma > 0
    }
    few = [joint for joint in spec.joints if joint not in measured]
    if few:
        print(f"fewer than {FEWEST} repeated annotations, or none apart: {', '.join(few)}")
    if args.write:
        write_sigmas(args.joints, dict(zip(spec.joints, spec.sigmas, strict=True)), measured)
        print(f"{len(measured)} sigmas written to {args.joints}")
    return 0


def read_pass(path: Path, spec: KeypointSpec) -> dict[str, list[Instance]]:
    """The objects with labelled joints of each image, by file name."""
    tree = read_annotations(path, spec)
    names = {image["id"]: image["file_name"] for image in tree["images"]}
    result: dict[str, list[Instance]] = {name: [] for name in names.values()}
    for one in tree["annotations"]:
        joints = np.array(one["keypoints"], float).reshape(-1, 3)
        if (
            one["image_id"] in names
            and not one["iscrowd"]
            and joints[:, 2].any()
            and one["area"] > 0
        ):
            result[names[one["image_id"]]].append(Instance(joints, one["area"]))
    return result


def match(passes: Sequence[Sequence[Instance]]) -> list[list[Instance]]:
    """The objects of an image, each as annotated in two or more passes.

    Every pass is assigned to the objects of the first one at the least total distance.
    """
    groups = [[one] for one in passes[0]]
    for other in passes[1:]:
        cost = np.array([[distance(group[0], one) for one in other] for group in groups])
        for a, b in zip(*linear_sum_assignment(cost), strict=True) if cost.size else ():
            if cost[a, b] < FARTHEST:
                groups[a].append(other[b])
    return [group for group in groups if len(group) > 1]


def distance(a: Instance, b: Instance) -> float:
    """Median distance of the joints that both have, in parts of the size; large without any."""
    both = (a.joints[:, 2] > 0) & (b.joints[:, 2] > 0)
    if not both.any():
        return 2 * FARTHEST
    apart = np.linalg.norm(a.joints[both, :2] - b.joints[both, :2], axis=1)
    return float(np.median(apart) / np.sqrt(a.area))


def measure(groups: Iterable[tuple[str, Sequence[Instance]]], place: int) -> Spread:
    """The spread of joint number `place` over all objects."""
    squares, count, farthest, worst = 0.0, 0, 0.0, ""
    for name, group in groups:
        xy = np.array([one.joints[place, :2] for one in group if one.joints[place, 2] > 0])
        if len(xy) < 2:
            continue
        area = np.mean([one.area for one in group])
        parts = np.square(xy - xy.mean(axis=0)).sum(axis=1) / area
        squares, count = squares + parts.sum(), count + len(xy) - 1
        if parts.max() > farthest:
            farthest, worst = parts.max(), name
    sigma = float(np.sqrt(squares / max(count, 1)))
    return Spread(sigma, count, worst, float(np.sqrt(farthest)) / sigma if sigma else 0.0)


def table(spec: KeypointSpec, spreads: Sequence[Spread]) -> str:
    """A row per joint; a large last number may be a left that is annotated as right."""
    rows = [
        (
            joint,
            f"{one.sigma:.4f}" if one.count else "-",
            f"{50 / np.sqrt(one.count):.0f} %" if one.count else "-",
            str(one.count),
            f"{one.ratio:.1f} sigma: {one.worst}" if one.worst else "-",
        )
        for joint, one in zip(spec.joints, spreads, strict=True)
    ]
    return markdown(("joint", "sigma", "error", "repeated", "farthest"), rows)


def write_sigmas(path: Path, before: Mapping[str, float], measured: Mapping[str, float]) -> None:
    """Replace the sigmas in a joints file by the measured ones; all else stays, comments too."""
    if not measured:
        raise ValueError(f"no sigma is measured from {FEWEST} annotations: {path} is as before")
    text = read_bytes(path, "joints file").decode()
    sigmas = dict(before) | dict(measured)
    block = yaml.safe_dump({"sigmas": sigmas}, sort_keys=False, allow_unicode=True)
    # The line of the key, and the indented lines or list items below it.
    new, count = re.subn(r"^sigmas:.*\n(?:[ \t-].*\n)*", lambda _: block, f"{text}\n", flags=re.M)
    new = new.removesuffix("\n")
    if count != 1 or parse_yaml(new, str(path)) != parse_yaml(text, str(path)) | {"sigmas": sigmas}:
        raise ValueError(f"{path}: sigmas is no block of lines; write it by hand: {sigmas}")
    write_file(path, new)


if __name__ == "__main__":
    cli.run(main)
