"""Kernel sizes and the fusion head, on the synthetic data set (docs/ablations.md)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from lib.config import load_config
from lib.models import build_model
from lib.models.arch import ArchSpec
from lib.utils.complexity import count_macs, count_params
from lib.utils.tables import markdown
from tools.study.runs import Runs, Subparsers, add_flags, differences, mean_and_spread

FOLDER = Path("experiments/synthetic")
NETWORK = FOLDER / "quickstart.yaml"


def add_parser(studies: Subparsers) -> None:
    parser = studies.add_parser("ablation", help="kernel sizes and the fusion head")
    parser.set_defaults(study=ablation_study)
    parser.add_argument("--arch", type=Path, default=FOLDER / "narrow.json")
    parser.add_argument("--kernels", type=int, nargs="+", choices=(3, 5, 7, 9), default=[7, 3])
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each training")
    parser.add_argument("--data", type=Path, default=Path("data/synthetic"))
    add_flags(parser, out="output/ablation")


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
        runs = Runs(args, seed, NETWORK, ["DATASET.ROOT", str(args.data)])
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
    cfg = load_config(NETWORK, keys, img_size=arch.img_size)
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
