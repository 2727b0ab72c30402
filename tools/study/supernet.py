"""Supernets compared with training from scratch, on the synthetic data set (docs/supernet.md)."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.utils.files import write_file
from lib.utils.tables import markdown
from tools.study.runs import Runs, Subparsers, add_flags, mean_and_spread

FOLDER = Path("experiments/synthetic")
SUPERNET, NETWORK = FOLDER / "supernet.yaml", FOLDER / "quickstart.yaml"
WIDTHS = ("wide", "middle", "narrow")
SAMPLING = ("uniform", "sandwich")


def add_parser(studies: Subparsers) -> None:
    parser = studies.add_parser("supernet", help="sub-networks and training from scratch")
    parser.set_defaults(study=supernet_study)
    parser.add_argument("--sampling", nargs="+", choices=SAMPLING, default=list(SAMPLING))
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each training")
    parser.add_argument("--data", type=Path, default=Path("data/synthetic"))
    add_flags(parser, out="output/study")


def supernet_study(args: argparse.Namespace) -> str:
    """The tables of docs/supernet.md; the figures of every seed go to study.json."""
    rows: dict[str, list[dict[str, float]]] = {}
    distilled = []
    epochs = ["TRAIN.END_EPOCH", str(args.epochs)]
    for seed in args.seeds:
        runs = Runs(args, seed, NETWORK, ["DATASET.ROOT", str(args.data)])
        scratch = {
            width: runs.train_and_score(f"alone_{width}", arch_of(width), epochs)
            for width in WIDTHS
        }
        teacher = runs.out / f"alone_wide/coco_kpt/pose_mobilenet/{NETWORK.stem}/checkpoint.pth.tar"
        training = ["--teacher", str(teacher), *epochs]
        taught = runs.train_and_score("taught_narrow", arch_of("narrow"), training)
        distilled.append({"alone": scratch["narrow"], "taught": taught})
        for sampling in args.sampling:
            keys = ["SUPERNET.SAMPLING", sampling, *epochs]
            runs.run(sampling, "dist_train", SUPERNET, arch_of("wide"), *keys)
            for width in WIDTHS:
                figures = extract_and_tune(runs, sampling, width, args.epochs)
                rows.setdefault(f"{sampling}/{width}", []).append(
                    figures | {"alone": scratch[width]}
                )
    write_file(args.out / "study.json", json.dumps({**rows, "taught": distilled}, indent=2))
    head = ("narrow", "AP")
    labels = {"alone": "from scratch", "taught": "from scratch, distilled from wide"}
    cells = [(label, mean_and_spread([run[k] for run in distilled])) for k, label in labels.items()]
    return f"{supernet_table(rows)}\n\n{markdown(head, cells)}"


def arch_of(width: str) -> Path:
    return FOLDER / f"{width}.json"


def extract_and_tune(runs: Runs, sampling: str, width: str, epochs: int) -> dict[str, float]:
    """AP of a sub-network: before calibration, after it, fine-tuned with a tenth of the steps."""
    supernet = runs.out / sampling / "coco_kpt/pose_supermobilenet/supernet"
    keys = ["TEST.MODEL_FILE", str(supernet / "checkpoint.pth.tar")]
    [row] = runs.run(sampling, "weight_transfer", SUPERNET, arch_of(width), *keys)
    short = ["TRAIN.END_EPOCH", "1", "DATASET.MAX_IMAGES", str(400 * epochs)]
    short += ["TRAIN.LR", "1e-3", "MODEL.PRETRAINED", str(supernet / f"{width}.pth.tar")]
    tuned = runs.train_and_score(f"{sampling}/tuned_{width}", arch_of(width), short)
    return {"before": row["ap_before"], "after": row["ap_after"], "tuned": tuned}


def supernet_table(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """A row for each "sampling/width": means over the seeds, and ratios to training alone."""
    names = {
        "before": "uncalibrated",
        "after": "calibrated",
        "tuned": "fine-tuned",
        "alone": "from scratch",
    }
    head = ["supernet", "width", *names.values()]
    head += ["calibrated / from scratch", "fine-tuned / from scratch"]
    cells = []
    for key, runs in rows.items():
        aps = [mean_and_spread([run[name] for run in runs]) for name in names]
        ratios = [
            f"{statistics.mean(run[name] / run['alone'] for run in runs):.0%}"
            for name in ("after", "tuned")
        ]
        cells.append([*key.split("/"), *aps, *ratios])
    return markdown(head, cells)
