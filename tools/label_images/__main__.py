"""Label images with a network: an annotation file in the layout of its joints.

    python -m tools.label_images --model weights.pth.tar --images FOLDER --out labels.json
    python -m tools.label_images --model ... --images ... --out ... --merge human.json
    python -m tools.label_images --model ... --images ... --out ... --compare human.json
    python -m tools.label_images --model ... --images ... --out ... TEST.FLIP_TEST False

People of at least --min-score are annotated, joints below --min-joint are not labelled. People with
a lower score, down to --min-region, become regions that training and evaluation ignore. With
--merge, the human annotations stay, and people whom they lack become such regions. --compare prints
how well labels at several thresholds agree with human ones.

The same command resumes an interrupted run. Exit code 0; 1 when some images could not be labelled
(they are named and left out); 2 for a user's mistake.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lib.core.results import rounded
from lib.dataset.annotations import Entry
from lib.dataset.complete import complete
from lib.dataset.reader import read_tree
from lib.predictor import Predictor
from lib.utils import cli
from lib.utils.ahead import ahead
from lib.utils.files import WriteError, check_outputs, reported, write_file
from lib.utils.journal import Journal
from lib.utils.reading import hash_of
from lib.utils.shipped import find_weights
from tools.demo.media import Source, find_images, quiet_opencv
from tools.demo.pipeline import LIMIT, Item, Mean, Problem, read, run_step
from tools.label_images.annotations import Thresholds
from tools.label_images.compare import agreement, spec_of
from tools.label_images.trees import merged_tree, new_tree

logger = logging.getLogger("lib.label_images")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--model", required=True, type=Path, help="a file of weights, or *.onnx")
    add("--images", required=True, type=Path, metavar="FOLDER", help="with its subfolders")
    add("--out", required=True, type=Path, metavar="FILE", help="the annotation file to write")
    add("--min-score", type=float, default=0.2, help="of annotated people (default: 0.2)")
    add("--min-joint", type=float, default=0.2, help="of labelled joints (default: 0.2)")
    add("--min-region", type=float, default=0.1, help="of people to ignore (default: 0.1)")
    human = parser.add_mutually_exclusive_group()
    human.add_argument("--merge", type=Path, metavar="FILE", help="human annotations, which stay")
    human.add_argument("--compare", type=Path, metavar="FILE", help="human annotations to judge by")
    people = "what people become whom the human annotations lack (default: regions)"
    add("--merge-as", choices=("regions", "people"), help=people)
    cli.add_runtime_flag(parser)
    cli.add_network_flags(parser)
    args = parser.parse_intermixed_args(argv)
    args.merge_as = args.merge_as or ("regions" if args.merge else None)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    check_args(args)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    quiet_opencv()
    args.model = find_weights(args.model)
    human = args.merge or args.compare
    tree = read_tree(human) if human else None
    names = find_images(args.images, "--images")
    inputs = [args.model, human, args.cfg, args.superconfig]
    check_outputs([args.out, journal_path(args.out)], [*inputs, *map(args.images.joinpath, names)])
    predictor = Predictor.load(
        args.model,
        cfg=args.cfg,
        superconfig=args.superconfig,
        opts=args.opts,
        device=args.gpu,
        runtime=args.runtime,
    )
    return label(predictor, args, names, tree)


def check_args(args: argparse.Namespace) -> None:
    for flag in ("--min-score", "--min-joint", "--min-region"):
        cli.check_range(flag, getattr(args, flag[2:].replace("-", "_")), low=0, high=1)
    if args.min_region > args.min_score:
        raise ValueError(
            f"--min-region is {args.min_region:g}; wanted at most --min-score, {args.min_score:g}"
        )
    if args.merge_as and not args.merge:
        raise ValueError(f"--merge-as {args.merge_as} needs --merge, a file of human annotations")
    if args.out.is_dir():
        raise ValueError(f"--out {args.out} is a folder; name a file")


def label(
    predictor: Predictor, args: argparse.Namespace, names: Sequence[str], human: Entry | None
) -> int:
    """Label the images, write the annotation file, and return the exit code."""
    spec = theirs = predictor.keypoints
    completed = {}
    if human is not None:
        theirs = spec_of(human, spec) if args.compare else spec
        path = args.merge or args.compare
        completed = complete(human, theirs, path).tree
        listed = {image["file_name"] for image in completed["images"]}
        if not (names := [name for name in names if name in listed]):
            raise ValueError(f"{path} lists no image of the folder {args.images}")
    journal = open_journal(args)
    problems = find_people(journal, predictor, args.images, names)
    results = {name: journal.entries[name,] for name in names if (name,) in journal.entries}
    if not results:
        raise ValueError(f"none of {len(names)} images could be labelled; {problems[0]}")
    score = args.min_score if args.merge_as != "regions" else math.inf
    limits = Thresholds(score, args.min_joint, args.min_region)
    if human is None or args.compare:
        labels = new_tree(spec, results, limits)
        added = labels["annotations"]
    else:
        labels, added, more = merged_tree(spec, results, limits, human, completed)
        problems += more
    write_file(args.out, json.dumps(labels | {"info": information(args, labels)}) + "\n")
    journal.close()
    journal.path.unlink(missing_ok=True)
    if args.compare:
        print(agreement(spec, results, limits, theirs, completed))
    people = sum(any(one["keypoints"]) for one in added)
    what = f"{people} people and {len(added) - people} regions to ignore"
    print(f"{what} found in {len(results)} images: {args.out}")
    for problem in problems:
        logger.warning("%s", problem)
    return 1 if problems else 0


def information(args: argparse.Namespace, labels: Mapping[str, Any]) -> dict[str, Any]:
    """`info` of the annotation file: what it has, and where the labels are from."""
    info = labels.get("info")
    return {
        **(info if isinstance(info, dict) else {}),
        "labels_of_a_network": {
            "description": "annotations with a score are from a network; nobody checked them",
            "model": args.model.name,
            "sha256": hash_of(args.model),
            "settings": args.opts,
            "min_score": args.min_score,
            "min_joint": args.min_joint,
            "min_region": args.min_region,
            "merged_as": args.merge_as,
        },
    }


# --- predictions --------------------------------------------------------------------------


def journal_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.unfinished.jsonl")


def open_journal(args: argparse.Namespace) -> Journal:
    """The people of an interrupted run; its thresholds do not matter, as all are kept."""
    header = {
        "images": str(args.images.resolve()),
        "model": hash_of(args.model),
        "cfg": hash_of(args.cfg) if args.cfg else "",
        "superconfig": hash_of(args.superconfig) if args.superconfig else "",
        "settings": dict(zip(args.opts[::2], args.opts[1::2], strict=True)),
    }
    with reported(args.out):
        args.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        return Journal(journal_path(args.out), header, sync=False)
    except WriteError:
        raise
    except ValueError as error:
        raise ValueError(f"{error}; give the same, another --out, or delete it") from None


def find_people(
    journal: Journal, predictor: Predictor, folder: Path, names: Sequence[str]
) -> list[str]:
    """Add the people of all images to the journal; a line for each image without."""
    problems, full = [], 0
    remaining = [name for name in names if (name,) not in journal.entries]
    done = len(names) - len(remaining)
    if done:
        logger.warning("resuming: %d of %d images are finished", done, len(names))
    with (
        contextlib.closing(predictions(predictor, folder, remaining)) as items,
        tqdm(total=len(names), initial=done, unit="image", disable=None) as bar,
    ):
        for name, item in zip(remaining, items, strict=True):
            bar.update()
            if isinstance(item, Problem):
                problems.append(item.message)
                continue
            keypoints, scores, _, is_full = item.result
            full += is_full
            height, width = item.frame.image.shape[:2]
            people = [
                rounded(person) for person in keypoints[:, : predictor.keypoints.num_joints, :3]
            ]
            journal.add(
                (name,), size=[width, height], people=people, scores=list(map(float, scores))
            )
    if full:
        logger.warning("there may be more people in %d images: %s", full, LIMIT)
    return problems


def predictions(
    predictor: Predictor, folder: Path, names: Sequence[str]
) -> Generator[Item | Problem]:
    """For each image, in order, an Item with its People, or a Problem; steps overlap."""
    sources = [Source(str(folder / name), folder / name, is_video=False) for name in names]
    items = ahead(read(predictor, sources, Mean()))
    items = ahead(run_step(lambda item: predictor.compute(item.result), items, Mean()))
    return ahead(run_step(lambda item: predictor.group(item.result), items, Mean()))


if __name__ == "__main__":
    cli.run(main)
