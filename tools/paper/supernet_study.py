"""What a supernet's cuts are worth, against the same architectures trained alone.

    python -m tools.paper.supernet_study --data data/synthetic --out output/study --seeds 0 1 2

For every seed: a small supernet by uniform sampling, and one by the sandwich rule with in-place
distillation; three widths cut from each, scored uncalibrated, calibrated, and fine-tuned with a
tenth of the steps; each of the three trained alone with as many steps; and the narrowest again,
the widest one being its teacher. All by the scripts a user calls; what is there already is not run
again. Prints the tables of docs/supernet.md.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from lib.utils import cli
from tools.paper.study import FOLDER, NETWORK, Runs, shown

WIDTHS = ("wide", "middle", "narrow")
SAMPLING = ("uniform", "sandwich")
CUT = re.compile(r"^\| \w+ \| (\S+) \| (\d\.\d+) \| (\d\.\d+) \|", re.MULTILINE)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/synthetic"))
    parser.add_argument("--out", type=Path, default=Path("output/study"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=4, help="of supernets and of training alone")
    parser.add_argument("--sampling", nargs="+", choices=SAMPLING, default=list(SAMPLING))
    parser.add_argument("--threads", type=int, help="of each process")
    return parser.parse_args()


class Study:
    """The runs of one seed."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.epochs = args.epochs
        self.out = args.out / f"seed{seed}"
        self.runs = Runs(args.data, seed, threads=args.threads)

    def supernet(self, sampling: str) -> Path:
        """The checkpoint of a trained supernet."""
        out = self.out / sampling
        keys = ["SUPERNET.SAMPLING", sampling, "TRAIN.END_EPOCH", str(self.epochs)]
        self.runs.run(out, "dist_train", "supernet", arch_of("wide"), *keys)
        return out / "coco_kpt/pose_supermobilenet/supernet/checkpoint.pth.tar"

    def cut(self, sampling: str, width: str, supernet: Path) -> dict[str, float]:
        """AP of one cut: uncalibrated, calibrated, fine-tuned with a tenth of the steps."""
        out = self.out / sampling
        keys = ["TEST.MODEL_FILE", str(supernet)]
        printed = self.runs.run(out, "weight_transfer", "supernet", arch_of(width), *keys)
        difference, before, after = map(float, CUT.search(printed).groups())
        weights = supernet.parent / f"{width}.pth.tar"
        short = ["TRAIN.END_EPOCH", "1", "DATASET.MAX_IMAGES", str(400 * self.epochs)]
        short += ["TRAIN.LR", "1e-3", "MODEL.PRETRAINED", str(weights)]
        tuned = self.runs.train_and_score(out / f"tuned_{width}", arch_of(width), short)
        return {"difference": difference, "before": before, "after": after, "tuned": tuned}

    def alone(self, width: str, *flags: str, name: str = "alone") -> float:
        """AP of the same architecture trained from scratch with the supernet's steps."""
        training = [*flags, "TRAIN.END_EPOCH", str(self.epochs)]
        return self.runs.train_and_score(self.out / f"{name}_{width}", arch_of(width), training)

    def taught(self, width: str, teacher: str) -> float:
        """AP of `width` trained like `alone`, distilled from the network of width `teacher`."""
        network = self.out / f"alone_{teacher}/coco_kpt/pose_mobilenet/{NETWORK}"
        weights = network / "checkpoint.pth.tar"
        return self.alone(width, "--teacher", str(weights), name="taught")


def arch_of(width: str) -> Path:
    return FOLDER / f"{width}.json"


def main() -> None:
    args = parse_args()
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    taught = []
    for seed in args.seeds:
        study = Study(args, seed)
        alone = {width: study.alone(width) for width in WIDTHS}
        taught.append({"alone": alone[WIDTHS[-1]], "taught": study.taught(WIDTHS[-1], WIDTHS[0])})
        for sampling in args.sampling:
            supernet = study.supernet(sampling)
            for width in WIDTHS:
                figures = study.cut(sampling, width, supernet) | {"alone": alone[width]}
                rows.setdefault((sampling, width), []).append(figures)
    (args.out / "study.json").write_text(
        json.dumps(
            {"/".join(key): runs for key, runs in rows.items()} | {"taught": taught}, indent=2
        )
    )
    print(table(rows))
    print(f"\n| {WIDTHS[-1]} | AP |\n|---|---|")
    print(f"| alone | {shown([run['alone'] for run in taught])} |")
    print(f"| alone, {WIDTHS[0]} as its teacher | {shown([run['taught'] for run in taught])} |")


def table(rows: dict[tuple[str, str], Sequence[dict[str, float]]]) -> str:
    """Markdown: `shown` of every figure, and the mean ratios."""
    head = (
        "| supernet | width | uncalibrated | calibrated | fine-tuned | alone "
        "| calibrated / alone | fine-tuned / alone |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for (sampling, width), runs in rows.items():
        ratios = [
            f"{statistics.mean(run[name] / run['alone'] for run in runs):.0%}"
            for name in ("after", "tuned")
        ]
        names = ("before", "after", "tuned", "alone")
        cells = [shown([run[name] for run in runs]) for name in names]
        lines.append(f"| {sampling} | {width} | {' | '.join([*cells, *ratios])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
