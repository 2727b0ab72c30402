"""What large kernels and the fusion head are worth on a small network (paper, section 3).

    python -m tools.paper.ablation_study --data data/synthetic --out output/ablation \\
        --seeds 0 1 2 --kernels 7 5 3 9

For every seed and every kernel size the same network is trained alone, with the same steps, and
scored on the pictures held out; with the first kernel size also without the raw half of its head.
All by the scripts a user calls; what is there already is not run again. Prints the table of
docs/ablations.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from lib.config import load_config
from lib.models import build_model
from lib.models.arch import ArchSpec
from lib.utils import cli
from lib.utils.complexity import count_macs, count_params
from tools.paper.study import FOLDER, NETWORK, Runs, shown


class Variant(NamedTuple):
    """One network of the study."""

    name: str
    folder: str
    arch: Path
    keys: list[str]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/synthetic"))
    parser.add_argument("--out", type=Path, default=Path("output/ablation"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arch", type=Path, default=FOLDER / "narrow.json", help="of any kernels")
    parser.add_argument("--kernels", type=int, nargs="+", choices=(3, 5, 7, 9), default=[7, 3])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    networks = variants(args.arch, args.kernels, args.out)
    training = ["TRAIN.END_EPOCH", str(args.epochs)]
    found: dict[str, list[float]] = {variant.name: [] for variant in networks}
    for seed in args.seeds:
        runs = Runs(args.data, seed, args.opts)
        for name, folder, arch, keys in networks:
            out = args.out / f"seed{seed}" / folder
            found[name].append(runs.train_and_score(out, arch, training, keys))
    print(table(args.seeds, found, {v.name: costs(v, args.opts) for v in networks}))


def variants(path: Path, kernels: Sequence[int], out: Path) -> list[Variant]:
    """The networks to train; their architectures are written to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for kernel in kernels:
        arch = out / f"{path.stem}_{kernel}.json"
        with_kernel(ArchSpec.from_json(path), kernel).to_json(arch)
        found.append(Variant(f"{kernel}x{kernel}", arch.stem, arch, []))
    name, folder, arch, _ = found[0]
    headless = ["MODEL.FUSION_HEAD", "False"]
    return [*found, Variant(f"{name}, no fusion", f"{folder}_no_fusion", arch, headless)]


def with_kernel(arch: ArchSpec, kernel: int) -> ArchSpec:
    """The same network with this kernel size in every block."""
    stages = [
        replace(stage, blocks=tuple((expansion, kernel) for expansion, _ in stage.blocks))
        for stage in arch.stages
    ]
    return replace(arch, stages=tuple(stages))


def costs(variant: Variant, opts: Sequence[str]) -> tuple[int, float]:
    """(parameters, GMACs really performed)."""
    arch = ArchSpec.from_json(variant.arch)
    keys = [*opts, *variant.keys]
    cfg = load_config(FOLDER / f"{NETWORK}.yaml", keys, img_size=arch.img_size)
    with torch.device("meta"):
        model = build_model(cfg, arch)
        return count_params(model), count_macs(model, arch.img_size)["true"] / 1e9


def table(
    seeds: Sequence[int], found: dict[str, list[float]], costs: dict[str, tuple[int, float]]
) -> str:
    """Markdown: costs, AP of every seed, `shown` of them, and what is `beside` the first row."""
    columns = ["network", "parameters", "GMACs", *(f"seed {seed}" for seed in seeds)]
    first = next(iter(found))
    columns += ["mean (spread)", f"beside {first}"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, values in found.items():
        parameters, gmacs = costs[name]
        cells = [name, f"{parameters:,}", f"{gmacs:.4f}", *(f"{value:.3f}" for value in values)]
        cells += [shown(values), beside(values, found[first]) if name != first else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def beside(values: Sequence[float], others: Sequence[float]) -> str:
    """The mean difference of the same seeds, and in brackets the smallest and the largest."""
    differences = [value - other for value, other in zip(values, others, strict=True)]
    ends = f"{min(differences):+.3f} to {max(differences):+.3f}"
    return f"{statistics.mean(differences):+.3f} ({ends})"


if __name__ == "__main__":
    cli.run(main)
