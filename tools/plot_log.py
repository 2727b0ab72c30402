"""Draw the curves of several runs into one picture.

    python -m tools.plot_log output/coco_kpt/pose_mobilenet/quickstart --out curves.png
    python -m tools.plot_log output/crowd_pose_kpt/*/*

RUN is the output folder of a training, or its scalars.jsonl. A curve of many points is drawn as
means, over a tint of what it was.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from lib.training.scalars import SCALARS, read_scalars
from lib.utils import cli
from lib.utils.plot import COLORS, Point, curves
from lib.utils.vis import save_image

FIRST = ("train/loss", "val/AP")
LAST = (
    *("train/gradient_norm", "train/lr", "train/images/s", "train/data_wait"),
    *("train/arch/resolution", "train/arch/width", "train/arch/GMACs"),
)
LINEAR = ("val/AP", *LAST[1:])


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folders")
    parser.add_argument("--out", default="curves.png", help="the picture (default: curves.png)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if len(args.runs) > len(COLORS):
        raise ValueError(f"{len(args.runs)} runs; {len(COLORS)} can be told apart in one picture")
    runs = [read_scalars(run if run.is_file() else run / SCALARS) for run in args.runs]
    titles = panel_titles(runs)
    if not titles:
        raise ValueError(f"{args.runs[0]} has neither a loss nor an AP")
    panels = {title: [points(run.get(title, {})) for run in runs] for title in titles}
    logarithmic = [title for title in titles if title not in LINEAR]
    save_image(args.out, curves(panels, names_of(args.runs), "over steps", logarithmic))
    print(f"{len(panels)} curves of {len(runs)} runs: {args.out}")


def panel_titles(runs: Sequence[dict[str, dict[int, float]]]) -> list[str]:
    """What any run has, of training all and of evaluation AP: loss and AP first, then its terms."""
    found = dict.fromkeys(name for run in runs for name in run)
    terms = [n for n in found if n.startswith("train/") and n not in FIRST + LAST]
    return [name for name in (*FIRST, *terms, *LAST) if name in found]


def points(curve: dict[int, float]) -> list[Point]:
    """(step, value), in order."""
    return list(curve.items())


def names_of(runs: Sequence[Path]) -> list[str]:
    """The last folder of each, or, where two are alike, what they do not have in common."""
    folders = [run.parent if run.is_file() else run for run in map(Path.absolute, runs)]
    if len({folder.name for folder in folders}) == len(folders):
        return [folder.name for folder in folders]
    common = Path(os.path.commonpath(folders))
    return [str(folder.relative_to(common)) for folder in folders]


if __name__ == "__main__":
    cli.run(main)
