"""The studies of docs/supernet.md and docs/ablations.md, on the synthetic data set.

    python -m tools.paper.study supernet --data data/synthetic --out output/study --seeds 0 1 2
    python -m tools.paper.study ablation --data data/synthetic --out output/ablation \\
        --seeds 0 1 2 --kernels 7 5 3 9

supernet, for every seed: a small supernet trained by uniform sampling, and one by the sandwich rule
with in-place distillation; three widths extracted from each and scored before calibration, after
it, and fine-tuned with a tenth of the steps; each width trained from scratch with as many steps as
the supernet; the narrowest also distilled from the widest.

ablation, for every seed and kernel size: the same network trained from scratch with the same steps;
with the first kernel size also without the raw half of its head (paper, section 3).

Every run is a command of the scripts at the root. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lib.config import load_config
from lib.models import build_model
from lib.models.arch import ArchSpec
from lib.utils import cli
from lib.utils.complexity import count_macs, count_params
from lib.utils.files import write_file
from lib.utils.tables import markdown

FOLDER = Path("experiments/synthetic")
NETWORK = "quickstart"  # the yaml of a single network
WIDTHS = ("wide", "middle", "narrow")
SAMPLING = ("uniform", "sandwich")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    studies = parser.add_subparsers(required=True)
    supernet = studies.add_parser("supernet", help="sub-networks and training from scratch")
    supernet.set_defaults(study=supernet_study)
    supernet.add_argument("--sampling", nargs="+", choices=SAMPLING, default=list(SAMPLING))
    ablation = studies.add_parser("ablation", help="kernel sizes and the fusion head")
    ablation.set_defaults(study=ablation_study)
    ablation.add_argument("--arch", type=Path, default=FOLDER / "narrow.json")
    ablation.add_argument("--kernels", type=int, nargs="+", choices=(3, 5, 7, 9), default=[7, 3])
    for study, out, epochs in ((supernet, "output/study", 4), (ablation, "output/ablation", 3)):
        study.add_argument("--data", type=Path, default=Path("data/synthetic"))
        study.add_argument("--out", type=Path, default=Path(out))
        study.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        study.add_argument("--epochs", type=int, default=epochs, help="epochs of each training")
        study.add_argument("--threads", type=int, help="threads of each process")
        study.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    print(args.study(args))


class Runs:
    """Commands of the scripts with the settings of one seed."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.out: Path = args.out / f"seed{seed}"
        self.settings = ["DATASET.ROOT", str(args.data), "SEED", str(seed), "VERBOSE", "False"]
        self.settings += args.opts
        threads = {"OMP_NUM_THREADS": str(args.threads)} if args.threads else {}
        self.environment = os.environ | threads

    def train_and_score(
        self, folder: str, arch: Path, training: Sequence[str], network: Sequence[str] = ()
    ) -> float:
        """AP of `arch`; `training`: flags and keys of dist_train.py; `network`: keys of both."""
        self.run(folder, "dist_train", NETWORK, arch, *training, *network)
        return self.run(folder, "valid", NETWORK, arch, *network)["table"]["AP"]

    def run(self, folder: str, script: str, yaml: str, arch: Path, *keys: str) -> Any:
        """What the script writes with --json; from the record of an earlier run if there is one.

        ValueError when the script fails, or the earlier run had another command.
        """
        out = self.out / folder
        record, report = out / f"{script}_{yaml}_{arch.stem}.json", out / "report.json"
        arguments = [f"{script}.py", "--cfg", str(FOLDER / f"{yaml}.yaml")]
        arguments += ["--superconfig", str(arch), *self.settings]
        arguments += ["OUTPUT_DIR", str(out), "LOG_DIR", str(out / "log"), *keys]
        arguments += [] if script == "dist_train" else ["--json", str(report)]
        command = " ".join(arguments)
        if record.exists():
            earlier = json.loads(record.read_text(encoding="utf-8"))
            if earlier["command"] != command:
                raise ValueError(f"{record} is of another command; give another --out")
            return earlier["report"]
        out.mkdir(parents=True, exist_ok=True)
        print(command, file=sys.stderr, flush=True)
        done = python(arguments, self.environment)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            raise ValueError(f"{script}.py ended with {done.returncode}: {''.join(last)}")
        figures = None if script == "dist_train" else json.loads(report.read_text(encoding="utf-8"))
        write_file(record, json.dumps({"command": command, "report": figures}, indent=2))
        return figures


def python(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a script in a new process."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def mean_and_spread(values: Sequence[float]) -> str:
    """The mean over the seeds, and in brackets the largest minus the smallest."""
    spread = f" ({max(values) - min(values):.3f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


# ------------------------------------------------------------------------------ the supernet
def supernet_study(args: argparse.Namespace) -> str:
    """The tables of docs/supernet.md; the figures of every seed go to study.json."""
    rows: dict[str, list[dict[str, float]]] = {}
    distilled = []
    epochs = ["TRAIN.END_EPOCH", str(args.epochs)]
    for seed in args.seeds:
        runs = Runs(args, seed)
        scratch = {
            width: runs.train_and_score(f"alone_{width}", arch_of(width), epochs)
            for width in WIDTHS
        }
        teacher = runs.out / f"alone_wide/coco_kpt/pose_mobilenet/{NETWORK}/checkpoint.pth.tar"
        training = ["--teacher", str(teacher), *epochs]
        taught = runs.train_and_score("taught_narrow", arch_of("narrow"), training)
        distilled.append({"alone": scratch["narrow"], "taught": taught})
        for sampling in args.sampling:
            keys = ["SUPERNET.SAMPLING", sampling, *epochs]
            runs.run(sampling, "dist_train", "supernet", arch_of("wide"), *keys)
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
    [row] = runs.run(sampling, "weight_transfer", "supernet", arch_of(width), *keys)
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


# ------------------------------------------------------------------------------ the ablation
class Variant(NamedTuple):
    """One network of the ablation."""

    name: str
    folder: str
    arch: Path
    keys: list[str]


def ablation_study(args: argparse.Namespace) -> str:
    """The table of docs/ablations.md."""
    networks = variants(args.arch, args.kernels, args.out)
    training = ["TRAIN.END_EPOCH", str(args.epochs)]
    aps: dict[str, list[float]] = {variant.name: [] for variant in networks}
    for seed in args.seeds:
        runs = Runs(args, seed)
        for name, folder, arch, keys in networks:
            aps[name].append(runs.train_and_score(folder, arch, training, keys))
    return ablation_table(args.seeds, aps, {v.name: costs(v, args.opts) for v in networks})


def variants(path: Path, kernels: Sequence[int], out: Path) -> list[Variant]:
    """The networks to train; their architectures are written to `out`."""
    base = ArchSpec.from_json(path)
    out.mkdir(parents=True, exist_ok=True)
    networks = []
    for kernel in kernels:
        arch = out / f"{path.stem}_{kernel}.json"
        kernels_of = (name for name in base.numbers if name.endswith(".kernel"))
        base.with_numbers(dict.fromkeys(kernels_of, kernel)).to_json(arch)
        networks.append(Variant(f"{kernel}x{kernel}", arch.stem, arch, []))
    first = networks[0]
    no_fusion = first._replace(
        name=f"{first.name}, no fusion",
        folder=f"{first.folder}_no_fusion",
        keys=["MODEL.FUSION_HEAD", "False"],
    )
    return [*networks, no_fusion]


def costs(variant: Variant, opts: Sequence[str]) -> tuple[int, float]:
    """(parameters, GMACs by the true rule)."""
    arch = ArchSpec.from_json(variant.arch)
    keys = [*opts, *variant.keys]
    cfg = load_config(FOLDER / f"{NETWORK}.yaml", keys, img_size=arch.img_size)
    with torch.device("meta"):
        model = build_model(cfg, arch)
        return count_params(model), count_macs(model, arch.img_size)["true"] / 1e9


def ablation_table(
    seeds: Sequence[int], aps: Mapping[str, list[float]], costs: Mapping[str, tuple[int, float]]
) -> str:
    """A row for each network: costs, AP of every seed, and the differences to the first row."""
    first = next(iter(aps))
    head = ["network", "parameters", "GMACs", *(f"seed {seed}" for seed in seeds)]
    rows = []
    for name, values in aps.items():
        parameters, gmacs = costs[name]
        cells = [name, f"{parameters:,}", f"{gmacs:.4f}", *(f"{value:.3f}" for value in values)]
        change = differences(values, aps[first]) if name != first else ""
        rows.append([*cells, mean_and_spread(values), change])
    return markdown([*head, "mean (spread)", f"compared with {first}"], rows)


def differences(values: Sequence[float], others: Sequence[float]) -> str:
    """The mean difference of the same seeds, and in brackets the smallest and the largest."""
    changes = [value - other for value, other in zip(values, others, strict=True)]
    ends = f"{min(changes):+.3f} to {max(changes):+.3f}"
    return f"{statistics.mean(changes):+.3f} ({ends})"


if __name__ == "__main__":
    cli.run(main)
