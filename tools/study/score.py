"""AP of one network on several data sets, with and without the flip test.

    python -m tools.study.score --model weights.pth.tar --json ap.json \\
        --set "MPII val" data/mpii crowd_pose val --set "COCO val" data/coco coco val2017

A set is a name, DATASET.ROOT, DATASET_TEST and TEST. Joints that network and set share are scored.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from yacs.config import CfgNode

from lib.core.evaluate import average_precision
from lib.core.inference import InferenceSettings
from lib.core.pipeline import LoaderSettings
from lib.dataset.build import EvaluationSet, build_evaluation_set
from lib.dataset.shared import share_joints
from lib.models.load import read_network
from lib.utils import cli
from lib.utils.device import resolve_device
from lib.utils.files import write_file

PASSES = {"one pass": False, "flip test": True}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    cli.add_network_flags(parser)
    parser.add_argument("--model", required=True, type=Path, help="weights")
    add_set_flag(parser)
    parser.add_argument("--json", required=True, type=Path, help="write {set: {passes: AP}}")
    return parser.parse_intermixed_args(argv)


def add_set_flag(to: argparse.ArgumentParser) -> None:
    metavar = ("NAME", "ROOT", "LAYOUT", "SPLIT")
    to.add_argument("--set", dest="sets", nargs=4, action="append", required=True, metavar=metavar)


def named_sets(args: argparse.Namespace) -> dict[str, list[str]]:
    """Name -> root, layout and split; ValueError for a name that is repeated."""
    sets = {name: where for name, *where in args.sets}
    if len(sets) < len(args.sets):
        raise ValueError(
            f"two --set have the same name; given: {', '.join(s[0] for s in args.sets)}"
        )
    return sets


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    sets = named_sets(args)
    network = read_network(args.model, cfg=args.cfg, superconfig=args.superconfig, opts=args.opts)
    cfg = network.cfg
    model = network.build(resolve_device(args.gpu))
    settings = InferenceSettings.from_config(cfg)
    loading = LoaderSettings.from_config(cfg)
    table = {}
    for name, where in sets.items():
        data, scored = share_joints(evaluation_set(cfg, *where), network.spec)
        table[name] = {
            passes: average_precision(
                replace(settings, flip_test=flip, scored=scored), model, data, loading
            )
            for passes, flip in PASSES.items()
        }
    write_file(args.json, json.dumps(table, indent=2))


def evaluation_set(cfg: CfgNode, root: str, layout: str, split: str) -> EvaluationSet:
    """The test split of another data set than that of `cfg`."""
    cfg = cfg.clone()
    cfg.defrost()
    keys = {"ROOT": root, "DATASET_TEST": layout, "TEST": split}
    cfg.merge_from_list([word for key in keys.items() for word in (f"DATASET.{key[0]}", key[1])])
    return build_evaluation_set(cfg)


if __name__ == "__main__":
    cli.run(main)
