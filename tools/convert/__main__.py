"""Convert annotations of other tools to a data set of custom keypoints.

    python -m tools.convert yolo dataset.yaml --out data/tiger
    python -m tools.convert labelme folder --out data/tiger --val 0.1
    python -m tools.convert cvat annotations.xml --images images --out data/tiger
    python -m tools.convert label-studio export.json --images images --out data/tiger
    python -m tools.convert deeplabcut project --out data/tiger
    python -m tools.convert sleap labels.pkg.slp --out data/tiger    # pip install sleap-io

Copies the images and writes annotations/SPLIT.json and joints.yaml (docs/convert.md). Exit code 0;
2 for a user's mistake.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from lib.utils import cli
from tools.convert import cvat, deeplabcut, label_studio, labelme, sleap, yolo
from tools.convert.source import Item, Labels
from tools.convert.write import write

# FORMAT -> what reads a source, the folder of its images or None, and the name of its split.
FORMATS: dict[str, Callable[[Path, Path | None, str], Labels]] = {
    "yolo": yolo.read,
    "labelme": labelme.read,
    "cvat": cvat.read,
    "label-studio": label_studio.read,
    "deeplabcut": deeplabcut.read,
    "sleap": sleap.read,
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("format", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a file or folder of the tool")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="the data set")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="default: next to SOURCE")
    parser.add_argument("--category", help="of several with joints, the one to convert")
    parser.add_argument("--split", default="train", help="its name, where SOURCE has none")
    parser.add_argument(
        "--val", type=float, default=0, metavar="PART", help="images for val, such as 0.1 of all"
    )
    args = parser.parse_args(argv)
    if not 0 <= args.val < 1:
        parser.error(f"--val is {args.val}; wanted a part from 0 to below 1")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        labels = FORMATS[args.format](args.source, args.images, args.split)
        if args.val:
            labels = hold_out(labels, args.val)
        lines = write(labels, args.out, args.category)
    except OSError as error:  # a name that is too long, a folder that cannot be made
        raise ValueError(f"{str(error.filename)[:200]}: {error.strerror}") from None
    print("\n".join(lines))
    return 0


def hold_out(labels: Labels, part: float) -> Labels:
    """The labels with a `part` of the images, evenly spaced, as the split val."""
    if len(labels.splits) > 1 or "val" in labels.splits:
        raise ValueError(f"--val does not apply: there are the splits {', '.join(labels.splits)}")
    [(split, items)] = labels.splits.items()
    val = [int((place + 1) * part) > int(place * part) for place in range(len(items))]

    def where(held: bool) -> list[Item]:
        return [item for item, out in zip(items, val, strict=True) if out == held]

    return labels._replace(splits={split: where(False), "val": where(True)})


if __name__ == "__main__":
    cli.run(main)
