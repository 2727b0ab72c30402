"""The network that a benchmark runs: flags, settings and architecture."""

from __future__ import annotations

import argparse

from yacs.config import CfgNode

from lib.config import load_config
from lib.models.arch import ArchSpec
from lib.models.load import read_network

CFG = "experiments/coco/mobilenet/mobile.yaml"
XS = "mobile_configs/search-XS.json"


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="a file of weights, with its settings and architecture")
    parser.add_argument("--cfg", help=f"experiments/*/*/*.yaml; default: {CFG}")
    parser.add_argument("--superconfig", help=f"mobile_configs/*.json; default: {XS}")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")


def read_settings(args: argparse.Namespace) -> tuple[CfgNode, ArchSpec | None]:
    """The config and the architecture that the flags of `add_network_flags` name."""
    if args.model:
        opts = ["MODEL.PRETRAINED", "", *args.opts]  # the weights that it was trained from
        network = read_network(args.model, cfg=args.cfg, superconfig=args.superconfig, opts=opts)
        return network.cfg, network.arch
    arch = ArchSpec.from_json(args.superconfig or XS)
    return load_config(args.cfg or CFG, args.opts, img_size=arch.img_size), arch


def name_of(args: argparse.Namespace) -> str:
    """The network in the head of a table."""
    return str(args.model or args.superconfig or XS)
