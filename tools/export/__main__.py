"""From a checkpoint to a device: an ONNX model, a torch.export program, and a card beside them.

    python -m tools.export --model output/.../checkpoint.pth.tar --out exported
    python -m tools.export --model ... --out exported --int8 100 --evaluate   # and in 8 bits; AP
    python -m tools.export --cfg experiments/crowd_pose/mobilenet/finetune.yaml \\
        --superconfig mobile_configs/search-XS.json --model model_best.pth.tar --out exported

A checkpoint.pth.tar and a cut of weight_transfer.py say their settings and architecture; for bare
weights name them. What is written is compared with PyTorch. Exit code 0; 1 where it differs; 2 for
a user's mistake. tools/device_runner.py runs the result without PyTorch and this repository.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from lib.analysis.report import make_folders
from lib.config import load_config
from lib.dataset.build import EvaluationSet, build_dataset, build_evaluation_set
from lib.deploy.export import make_card, make_program, write_onnx, write_program
from lib.deploy.fold import fold_norms
from lib.deploy.graph import GRAPHS
from lib.deploy.quantize import quantize
from lib.models.load import read_network
from lib.utils import cli
from lib.utils.checkpoint import hash_of
from lib.utils.run_card import CODE, git_state, versions
from lib.utils.transforms import STRIDE
from tools.device_runner import prepare
from tools.export.check import compare_numbers, table_of_people

logger = logging.getLogger("lib.export")

CHECKED = 8  # pictures of the test split that are looked at without --evaluate


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="FILE", help="the weights; or TEST.MODEL_FILE")
    parser.add_argument("--cfg", help="experiments/*/*/*.yaml; else as the weights say")
    parser.add_argument("--superconfig", help="an architecture; else as the weights say")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    parser.add_argument(
        "--graph",
        choices=list(GRAPHS),
        default="pixels",
        help="what comes out: peaks and all pixels, peaks alone, or the network's maps",
    )
    parser.add_argument("--size", metavar="WxH", help="of all inputs, as 512x448; else any")
    parser.add_argument("--flip", action="store_true", help="with the mirror image, twice the work")
    parser.add_argument("--int8", type=int, metavar="N", help="calibrate on N training pictures")
    parser.add_argument("--evaluate", action="store_true", help="AP on the test split")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")
    args = parser.parse_intermixed_args(argv)
    if args.evaluate and args.graph == "network":
        parser.error("--evaluate needs a graph that finds candidates")
    if args.int8 is not None and args.int8 < 1:
        parser.error(f"--int8 is {args.int8}; wanted 1 or more")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    size = read_size(args.size) if args.size else None
    cfg, model, provenance = read_model(args)
    make_folders(str(args.out / "card.json"))
    training = build_dataset(cfg) if args.int8 else None
    data = build_evaluation_set(cfg) if args.evaluate else available_images(cfg)

    graph = GRAPHS[args.graph](cfg, fold_norms(model)).eval()
    program = make_program(graph, size)
    write_program(args.out / "model.pt2", program)
    write_onnx(args.out / "model.onnx", program, graph.outputs)
    card = make_card(cfg, graph, size, provenance)
    (args.out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    models = [args.out / "model.onnx"]
    if training:
        models.append(args.out / "model-int8.onnx")
        pictures = (training.files.read(picture) for picture in training.records[: args.int8])
        quantize(models[0], models[1], (prepare(card, picture)[0] for picture in pictures))

    whole = GRAPHS[args.graph](cfg, model).eval()  # nothing is folded in it
    inputs = (prepare(card, picture)[0] for picture in samples(data))
    fits = compare_numbers(whole, args.out, inputs)
    if data and args.graph != "network":
        print(f"\n{table_of_people(cfg, model, data, models)}")
    return 0 if fits else 1


def read_size(text: str) -> tuple[int, int]:
    """ "512x448" -> (512, 448)"""
    sides = re.fullmatch(r"(\d+)x(\d+)", text)
    size = tuple(map(int, sides.groups())) if sides else (0, 0)
    if any(side < STRIDE or side % STRIDE for side in size):
        raise ValueError(
            f"--size is {text}; wanted width x height, multiples of {STRIDE}, as 512x448"
        )
    return size


def read_model(args: argparse.Namespace) -> tuple[CfgNode, nn.Module, dict[str, Any]]:
    """The settings, the trained network, and where it comes from."""
    if not (args.cfg or args.model):
        raise ValueError("name the weights (--model), and the settings (--cfg) if these lack them")
    opts = [*args.opts, "TEST.FLIP_TEST", str(args.flip)]
    path = args.model or load_config(args.cfg, opts).TEST.MODEL_FILE
    if not path:
        raise ValueError("name the weights: --model, or TEST.MODEL_FILE")
    network = read_network(
        path, cfg=args.cfg, superconfig=args.superconfig, opts=opts
    ).expect_subnet()
    provenance = {
        "weights": str(path),
        "sha256": hash_of(path),
        "supernet": network.supernet,
        "epoch": network.epoch,
        "arch": network.arch.to_dict() if network.arch else None,
        "config": network.cfg.dump(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git": git_state(CODE),
        "versions": versions(),
    }
    return network.cfg, network.build(torch.device("cpu")), provenance


def available_images(cfg: CfgNode) -> EvaluationSet | None:
    """The first pictures of the test split; None, with a line, where it cannot be read."""
    try:
        data = build_evaluation_set(cfg)
    except ValueError as error:
        logger.warning("compared on noise alone: %s", error)
        return None
    return data._replace(records=data.records[:CHECKED])


def samples(data: EvaluationSet | None) -> Iterator[np.ndarray]:
    """Two pictures of noise, and the first of `data`."""
    noise = np.random.default_rng(0)
    for size in ((480, 640, 3), (640, 480, 3)):
        yield noise.integers(0, 256, size, np.uint8)
    for picture in data.records[:CHECKED] if data else ():
        yield data.files.read(picture)


if __name__ == "__main__":
    cli.run(main)
