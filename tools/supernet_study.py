"""What a supernet's cuts are worth, against the same architectures trained alone.

    python -m tools.supernet_study --data data/synthetic --out output/study --seeds 0 1 2

For every seed: a small supernet by uniform sampling, and one by the sandwich rule with in-place
distillation; three widths cut from each, scored uncalibrated, calibrated, and fine-tuned with a
tenth of the steps; each of the three trained alone with as many steps; and the narrowest again,
the widest one being its teacher. All by the scripts a user calls; what is there already is not run
again. Prints the tables of docs/supernet.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path("experiments/synthetic")
WIDTHS = ("wide", "middle", "narrow")
SAMPLING = ("uniform", "sandwich")
AP = re.compile(r"^\| \w+ \| (\d\.\d+) \|", re.MULTILINE)
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
    """The runs of one seed; each leaves its figures in a JSON file."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.epochs = args.epochs
        self.out = args.out / f"seed{seed}"
        self.settings = ["DATASET.ROOT", str(args.data), "SEED", str(seed), "VERBOSE", "False"]
        threads = {"OMP_NUM_THREADS": str(args.threads)} if args.threads else {}
        self.environment = os.environ | threads

    def supernet(self, sampling: str) -> Path:
        """The checkpoint of a trained supernet."""
        out = self.out / sampling
        keys = ["SUPERNET.SAMPLING", sampling, "TRAIN.END_EPOCH", str(self.epochs)]
        self.run(out, "dist_train", "supernet", "wide", *keys)
        return out / "coco_kpt/pose_supermobilenet/supernet/checkpoint.pth.tar"

    def cut(self, sampling: str, width: str, supernet: Path) -> dict[str, float]:
        """AP of one cut: uncalibrated, calibrated, fine-tuned with a tenth of the steps."""
        out = self.out / sampling
        printed = self.run(
            out, "weight_transfer", "supernet", width, "TEST.MODEL_FILE", str(supernet)
        )
        difference, before, after = map(float, CUT.search(printed).groups())
        weights = supernet.parent / f"{width}.pth.tar"
        short = ["TRAIN.END_EPOCH", "1", "DATASET.MAX_IMAGES", str(400 * self.epochs)]
        short += ["TRAIN.LR", "1e-3"]
        tuned = self.plain(out / f"tuned_{width}", width, *short, "MODEL.PRETRAINED", str(weights))
        return {"difference": difference, "before": before, "after": after, "tuned": tuned}

    def alone(self, width: str) -> float:
        """AP of the same architecture trained from scratch with the supernet's steps."""
        return self.plain(self.out / f"alone_{width}", width, "TRAIN.END_EPOCH", str(self.epochs))

    def taught(self, width: str, teacher: str) -> float:
        """AP of `width` trained like `alone`, distilled from the network of width `teacher`."""
        network = self.out / f"alone_{teacher}/coco_kpt/pose_mobilenet/quickstart"
        keys = ["--teacher", str(network / "checkpoint.pth.tar")]
        keys += ["TRAIN.END_EPOCH", str(self.epochs)]
        return self.plain(self.out / f"taught_{width}", width, *keys)

    def plain(self, out: Path, width: str, *keys: str) -> float:
        self.run(out, "dist_train", "quickstart", width, *keys)
        return float(AP.search(self.run(out, "valid", "quickstart", width)).group(1))

    def run(self, out: Path, script: str, yaml: str, width: str, *keys: str) -> str:
        """What the script prints; an earlier run of the same name is taken as it is."""
        record = out / f"{script}_{yaml}_{width}.txt"
        if record.exists():
            return record.read_text()
        out.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, f"{script}.py", "--cfg", str(FOLDER / f"{yaml}.yaml")]
        command += ["--superconfig", str(FOLDER / f"{width}.json"), *self.settings]
        command += ["OUTPUT_DIR", str(out), "LOG_DIR", str(out / "log"), *keys]
        print(" ".join(command[1:]), file=sys.stderr, flush=True)
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ValueError(f"{script} ended with {done.returncode}: {done.stderr[-300:]}")
        record.write_text(done.stdout)
        return done.stdout


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
    print(f"| alone | {shown(taught, 'alone')} |")
    print(f"| alone, {WIDTHS[0]} as its teacher | {shown(taught, 'taught')} |")


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
        cells = [shown(runs, name) for name in ("before", "after", "tuned", "alone")]
        lines.append(f"| {sampling} | {width} | {' | '.join([*cells, *ratios])} |")
    return "\n".join(lines)


def shown(runs: Sequence[dict[str, float]], name: str) -> str:
    """The mean over the seeds, and in brackets the largest less the smallest."""
    values = [run[name] for run in runs]
    spread = f" ({max(values) - min(values):.3f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


if __name__ == "__main__":
    main()
