"""Write the weights of a trained network as a small file that others can use, with its card.

    python -m tools.publish --model checkpoint.pth.tar --out weights/litepose-xs.safetensors

OUT gets the weights in half precision, the architecture, and the settings to run it, without those
of its training. Its card, OUT's name with .json, gets sha256, bytes, architecture, input size and
joints; the other entries of the card stay as they are, so write there by hand what the network was
trained on and what it scores. Weights with a card are checked against it whenever they are loaded.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from lib.config.default import _C as DEFAULTS
from lib.models.load import NetworkFile, read_network
from lib.utils import cli
from lib.utils.files import check_outputs, reported, write_file
from lib.utils.reading import hash_of, read_json
from lib.utils.safetensors_file import write_safetensors
from lib.utils.shipped import MAX_CARD, SUFFIX

USED = ("MODEL", "LOSS", "DATASET", "TEST")  # groups of keys that a network is built and run by
OF_THE_TRAINING = (  # keys of these groups that say where data and weights were
    "DATASET.ROOT",
    "DATASET.TRAIN",
    "DATASET.TEST",
    "DATASET.MIX",
    "DATASET.CACHE",
    "MODEL.PRETRAINED",
    "TEST.MODEL_FILE",
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--model", required=True, help="a file of weights")
    parser.add_argument("--out", required=True, type=Path, help=f"NAME{SUFFIX}")
    cli.add_network_flags(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.out.suffix != SUFFIX:
        raise ValueError(f"--out is {args.out}; wanted a name that ends with {SUFFIX}")
    card = args.out.with_suffix(".json")
    check_outputs([args.out, card], [args.model, args.cfg, args.superconfig])
    network = read_network(
        args.model, cfg=args.cfg, superconfig=args.superconfig, opts=args.opts
    ).expect_subnet()
    model = network.build(torch.device("cpu"))  # checks that the weights fit and are finite
    entries = read_card(card)
    with reported(args.out):
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(
            args.out, model.state_dict(), arch_to_run(network), config_to_run(network.cfg)
        )
    write_file(card, json.dumps(entries | facts(network, args.out), indent=2) + "\n")
    print(f"{args.out}: {args.out.stat().st_size} bytes; card: {card}")


def arch_to_run(network: NetworkFile) -> dict[str, Any] | None:
    """The architecture at the input size of the settings; None: the settings describe it."""
    return network.arch and replace(network.arch, img_size=network.input_size).to_dict()


def config_to_run(cfg: CfgNode) -> str:
    """The settings that a network is built and run by, as YAML text; all others are defaults."""
    kept = DEFAULTS.clone()
    for group in USED:
        kept[group] = cfg[group].clone()
    for key in OF_THE_TRAINING:
        group, name = key.split(".")
        kept[group][name] = DEFAULTS[group][name]
    return kept.dump()


def facts(network: NetworkFile, path: Path) -> dict[str, Any]:
    """What the card says of the written file."""
    return {
        "file": path.name,
        "sha256": hash_of(path),
        "bytes": path.stat().st_size,
        "architecture": arch_to_run(network),
        "input_size": network.input_size,
        "joints": list(network.spec.joints),
    }


def read_card(path: Path) -> dict[str, Any]:
    """The entries of the card; {} if there is none yet."""
    if not path.exists():
        return {}
    entries = read_json(path, "card", MAX_CARD)
    if not isinstance(entries, dict):
        raise ValueError(f"the card {path} holds a {type(entries).__name__}, not entries")
    return entries


if __name__ == "__main__":
    cli.run(main)
