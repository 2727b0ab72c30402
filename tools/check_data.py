"""List what is missing, unreadable or odd in a data set, and render what training sees of it.

    python -m tools.check_data --cfg experiments/coco/mobilenet/mobile.yaml DATASET.ROOT data/coco
    python -m tools.check_data --cfg ... --split train --no-decode
    python -m tools.check_data --cfg ... --out page.png --images 12

Every fault is one line: image, annotation and file. Exit code 0, even when something is odd; 1
when something is missing, unreadable or broken; 2 for a user's mistake.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from tqdm import tqdm
from yacs.config import CfgNode

from lib.codec import codec_of
from lib.config import load_config
from lib.dataset.build import build_dataset
from lib.dataset.checks.faults import Checked, Fault, Split
from lib.dataset.checks.preview import draw_page
from lib.dataset.checks.split import check_split, open_mix, open_split
from lib.dataset.checks.summary import (
    compare_splits,
    fault_lines,
    note_crowded,
    note_unnamed,
    summarize,
)
from lib.models.arch import ArchSpec
from lib.utils import cli
from lib.utils.text import escaped
from lib.utils.vis import save_image


def parse_args(argv: list[str] | None = None) -> Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("--split", choices=("train", "test", "both"), default="both")
    parser.add_argument("--no-decode", action="store_true", help="do not open the image files")
    parser.add_argument("--out", type=Path, help="a page of training images, *.png")
    parser.add_argument(
        "--images", "--pictures", type=int, default=12, metavar="N", help="number on that page"
    )
    args = parser.parse_args(argv)
    if args.images < 1:
        parser.error(f"--images is {args.images}; wanted 1 or more")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    arch = ArchSpec.from_json(args.superconfig) if args.superconfig else None
    cfg = load_config(args.cfg, args.opts, img_size=arch.img_size if arch else None)
    training, tests = open_splits(cfg, args.split)
    splits = [*training, *tests]
    results = [check_with_bar(cfg, split, decode=not args.no_decode) for split in splits]
    faults = []
    for split, checked in zip(splits, results, strict=True):
        print(f"{split.name}: {summarize(split, checked)}")
        print_lines(split.name, fault_lines(checked.faults))
        print_lines(split.name, checked.notes)
        print_lines(split.name, note_crowded(split, checked, cfg.DATASET.MAX_NUM_PEOPLE))
        faults += checked.faults
    for test in tests if training else []:
        faults += shared_images(training, test, results, is_mix=bool(cfg.DATASET.MIX))
    print_lines("files", note_unnamed(splits))
    rendered = args.out is None or render(cfg, args.out, args.images)
    broken = sum(fault.broken for fault in faults)
    print(f"{broken} broken or missing, {len(faults) - broken} odd")
    return 0 if rendered and not broken else 1


def open_splits(cfg: CfgNode, which: str) -> tuple[list[Split], list[Split]]:
    """The training splits (several with DATASET.MIX) and the test split, as far as wanted.

    A file that serves as both is a training split only.
    """
    training = [] if which == "test" else open_mix(cfg) or [open_split(cfg, is_train=True)]
    if which == "train":
        return training, []
    test = open_split(cfg, is_train=False)
    for train in training:
        if train.annotations == test.annotations:
            print(f"{train.name} is both the training and the test split")
            return training, []
    return training, [test]


def check_with_bar(cfg: CfgNode, split: Split, decode: bool) -> Checked:
    """All checks of one split, under a progress bar where there is a terminal."""
    total = len(split.tree["images"])
    disable = None if cfg.VERBOSE and decode else True
    with tqdm(total=total, desc=split.name, unit="image", disable=disable) as bar:
        return check_split(split, decode, max(1, cfg.WORKERS), bar.update)


def shared_images(
    training: list[Split], test: Split, results: list[Checked], is_mix: bool
) -> list[Fault]:
    """Print and return what training splits and the test split, the last result, share."""
    every = []
    for train, checked in zip(training, results[:-1], strict=True):
        if is_mix and train.files.path != test.files.path:
            continue  # the images of another data set may have the same ids and names
        first, second = checked.images, results[-1].images
        if first.keys() == second.keys():
            print(f"{train.name} and {test.name} are the same {len(first)} images")
            continue
        faults = compare_splits(train, first, test, second)
        print_lines(train.name, fault_lines(faults))
        every += faults
    return every


def print_lines(name: str, lines: list[str]) -> None:
    for line in lines:
        print(escaped(f"{name}: {line}"))


def render(cfg: CfgNode, path: Path, count: int) -> bool:
    """Write the page; False, with a line, where the training split cannot be read."""
    try:
        page = draw_page(build_dataset(cfg), codec_of(cfg), count)
    except ValueError as error:
        print(f"no page is rendered: {error}")
        return False
    save_image(path, page)
    print(f"training images and their targets: {path}")
    return True


if __name__ == "__main__":
    cli.run(main)
