"""What each option of docs/modern.md adds to the recipe of the paper, at equal steps."""

from __future__ import annotations

import argparse
import json
import os
import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from lib.config import load_config
from lib.utils.cli import check_range
from lib.utils.files import write_file
from lib.utils.plots import save_figure
from tools.study.comparison import PLAIN, Results, Scores, figure, tables
from tools.study.runs import STOPPED, Runs, Subparsers, add_flags, read_record, succeed

ALL = "recipe"
LR_STEPS = (0.7, 0.96)  # shares of the epochs: 350 and 480 of the paper's 500
# What is compared: keys and values beyond the paper's recipe. No part changes images or steps.
PARTS = {
    "schedule": "TRAIN.LR_SCHEDULE cosine TRAIN.WARMUP_EPOCHS 0.2 TRAIN.EMA 0.98",
    "wahr": "LOSS.WAHR True",
    "push_start": "LOSS.PUSH_START 0.1",
    "flip": "LOSS.FLIP_CONSISTENCY 0.1 LOSS.FLIP_SHARE 0.0625",
    "flip_half": "LOSS.FLIP_CONSISTENCY 0.1 LOSS.FLIP_SHARE 0.5",
    "colors": "DATASET.BRIGHTNESS 0.3 DATASET.CONTRAST 0.3 DATASET.SATURATION 0.4 DATASET.HUE 15 "
    "DATASET.GRAY 0.1",
    "blur": "DATASET.BLUR 0.1 DATASET.JPEG 0.2",
    "hidden": "DATASET.DROP_JOINTS 0.2",
    "small": "DATASET.SMALL_PEOPLE 0.25 DATASET.MIN_SCALE 0.5",
    "unbiased": "MODEL.CODEC unbiased",
    "progressive": "TRAIN.PROGRESSIVE [[0.4,{smaller}]]",
    "tags": "MODEL.AE_TAG_DIMS 8 LOSS.TAG_SIZE_FACTOR 0.0001",
    "tags_each": "MODEL.AE_TAG_DIMS 2 LOSS.PUSH_EACH_DIM True",
    "both_tags": "LOSS.WITH_AE_LOSS (True,True) TEST.WITH_AE (True,True)",
    "branches": "MODEL.KERNEL_BRANCHES True",
    "teacher": "TEACHER.INPUT_SIZE {size} TEACHER.HALF_PRECISION True TEACHER.SHARE 0.5",
    "teacher_all": "TEACHER.INPUT_SIZE {size} TEACHER.HALF_PRECISION True",
}
RECIPE = ("unbiased", "teacher")  # modern.yaml
FROM_SCRATCH = "branches"  # cannot start from weights without branches
SCENES = "--train 1600 --val 200 --size 400x300 --people 1-6 --height 0.3-0.9"  # rendered people


class People(NamedTuple):
    """Images to train on, and to score on."""

    yaml: Path
    arch: Path
    smaller: int  # pixels, the first inputs of "progressive"
    sets: tuple[tuple[str, str, str, str], ...]  # name, DATASET.ROOT, DATASET_TEST, TEST


PEOPLE = {
    "rendered": People(
        Path("experiments/synthetic/study.yaml"),
        Path("experiments/synthetic/narrow.json"),
        96,
        (("rendered", "study", "coco", "val2017"),),
    ),
    "real": People(
        Path("experiments/crowd_pose/mobilenet/study.yaml"),
        Path("mobile_configs/search-XS.json"),
        192,
        (
            ("MPII val", "mpii", "crowd_pose", "val"),
            ("COCO val2017", "coco", "coco", "val2017"),
            ("COCO val2017, more", "coco_more", "coco", "val2017"),
        ),
    ),
}


def add_parser(studies: Subparsers) -> None:
    parser = studies.add_parser("modern", help="options beyond the recipe of the paper")
    parser.set_defaults(study=modern_study)
    parser.add_argument("--people", choices=list(PEOPLE), default="rendered")
    names = ", ".join(PARTS)
    add = parser.add_argument
    add("--parts", nargs="*", metavar="PART", help=f"of: {names} (default: all)")
    recipe = f"parts that are trained together (default: {' '.join(RECIPE)})"
    add("--recipe", nargs="*", metavar="PART", help=recipe)
    add(
        "--with",
        dest="others",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", '"KEY VALUE ..."'),
        help="one more training, with these keys; repeat it for several",
    )
    teacher = "weights of the network that teaches in trainings with keys TEACHER.*; without them "
    teacher += "such parts are left out by default"
    add("--teacher", metavar="FILE", help=teacher)
    add("--epochs", type=int, default=10, help="epochs of each training")
    add("--jobs", type=int, default=1, help="trainings at a time")
    add("--finished", action="store_true", help="train nothing: the table of finished runs")
    add_flags(parser, out="output/modern")


def modern_study(args: argparse.Namespace) -> str:
    """The tables of docs/modern.md; --out also gets them as files, and a figure."""
    check_range("--jobs", args.jobs, low=1)
    check_range("--epochs", args.epochs, low=1)
    people = PEOPLE[args.people]
    args.out = args.out / args.people
    trainings = keys_of_trainings(args)
    for keys in trainings.values():
        load_config(people.yaml, [*args.opts, *keys.split()])  # a mistake shows before hours
    if args.teacher and not Path(args.teacher).exists():
        raise ValueError(f"--teacher: {args.teacher} does not exist")
    if not args.finished:
        render(args, people)
    results: dict[str, dict[int, Scores]] = {}
    problems = []
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = {
            (name, seed): pool.submit(one_run, args, people, seed, name, keys)
            for seed in args.seeds  # seed by seed: after an interruption some seeds are complete
            for name, keys in trainings.items()
        }
        for (name, seed), future in futures.items():
            try:
                if scores := result_of(future, pool):
                    results.setdefault(name, {})[seed] = scores
            except ValueError as error:
                problems.append(f"{name}, seed {seed}: {error}")
    if problems and PLAIN in results:
        print(write_tables(args.out, results))
    if problems:
        raise ValueError("; ".join(problems))
    return write_tables(args.out, results)


def write_tables(out: Path, results: Results) -> str:
    """The tables as text; `out` gets study.md, study.json and study.png."""
    if not results.get(PLAIN):
        raise ValueError(f"{out} has no finished run of {PLAIN!r}, with which all are compared")
    text = tables(results)
    write_file(out / "study.json", json.dumps(results, indent=2))
    write_file(out / "study.md", f"{text}\n")
    save_figure(out / "study.png", figure(results))
    return text


def render(args: argparse.Namespace, people: People) -> None:
    """Render the people to train on, where `people` are rendered ones."""
    if people is PEOPLE["rendered"]:
        cfg = load_config(people.yaml, args.opts)
        root = Path(cfg.DATA_DIR) / cfg.DATASET.ROOT
        succeed(["-m", "tools.make_synthetic", "--root", str(root), *SCENES.split()], os.environ)


def keys_of_trainings(args: argparse.Namespace) -> dict[str, str]:
    """The keys of each training by name: the paper's recipe, each part, the recipe."""
    possible = [name for name, keys in PARTS.items() if args.teacher or not is_taught(keys)]
    parts, recipe = args.parts, args.recipe
    if parts is None:
        left_out = FROM_SCRATCH if "MODEL.PRETRAINED" in args.opts else None
        parts = [name for name in possible if name != left_out]
    if recipe is None:
        recipe = [name for name in RECIPE if name in possible]
    if unknown := [name for name in (*parts, *recipe) if name not in PARTS]:
        raise ValueError(f"there is no part {unknown[0]!r}; parts: {', '.join(PARTS)}")
    for name, _ in args.others:
        if name in (PLAIN, ALL) or not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"--with: {name!r} cannot be the name of a training and of its folder")
    keys = {PLAIN: "", **{name: PARTS[name] for name in parts}, **dict(args.others)}
    if recipe and not (len(recipe) == 1 and recipe[0] in parts):
        keys[ALL] = " ".join(PARTS[name] for name in recipe)
    if not args.teacher and any(map(is_taught, keys.values())):
        raise ValueError("keys TEACHER.* need the weights of a teacher: give --teacher FILE")
    people = PEOPLE[args.people]
    size = load_config(people.yaml, args.opts).DATASET.INPUT_SIZE
    for place, pixels in (("{smaller}", people.smaller), ("{size}", size)):
        keys = {name: words.replace(place, str(pixels)) for name, words in keys.items()}
    return keys


def is_taught(keys: str) -> bool:
    """Whether a training with these keys has a teacher."""
    return "TEACHER." in keys


def result_of(future: Future[Scores | None], pool: ThreadPoolExecutor) -> Scores | None:
    """The result of a run; Ctrl-C starts no further run, and those at work save a checkpoint."""
    try:
        return future.result()
    except KeyboardInterrupt:
        STOPPED.set()
        pool.shutdown(cancel_futures=True)
        raise


def one_run(
    args: argparse.Namespace, people: People, seed: int, name: str, keys: str
) -> Scores | None:
    """Train and score once; None with --finished for a run that is not."""
    runs = Runs(args, seed, people.yaml)
    record = runs.out / name / "score.json"
    if args.finished:
        finished = read_record(record)
        return finished and finished["report"]
    steps = [round(share * args.epochs, 2) for share in LR_STEPS]
    training = ["TRAIN.END_EPOCH", str(args.epochs), "TRAIN.LR_STEP", str(steps), *keys.split()]
    if is_taught(keys):
        training += ["--teacher", args.teacher]
    runs.run(name, "dist_train", people.yaml, people.arch, *training)
    [weights] = (runs.out / name).glob(f"*/*/{people.yaml.stem}/final_state0.pth.tar")
    scoring = ["-m", "tools.study.score", "--model", str(weights)]
    scoring += [word for one in people.sets for word in ("--set", *one)]
    return runs.once(record, scoring, runs.out / name / "report.json")
