"""Export a network for devices: an ONNX model, a torch.export program, and a card of conventions.

    python -m tools.export --model output/.../checkpoint.pth.tar --out exported
    python -m tools.export --model ... --out exported --int8 100 --evaluate   # also 8 bits; AP
    python -m tools.export --model ... --out exported --to ncnn               # also for ncnn
    python -m tools.export --model model_best.pth.tar --cfg experiments/.../finetune.yaml \\
        --superconfig mobile_configs/search-XS.json --out exported

--model accepts any file of weights; --cfg and --superconfig override the settings in it. The
exported files are compared with PyTorch. Exit code 0; 1 when they differ; 2 for a user's mistake.
tools/device_runner.py runs the result without PyTorch and without this repository.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from lib.analysis.report import make_folders
from lib.config import load_config
from lib.core.inference import InferenceSettings
from lib.dataset.build import EvaluationSet, build_dataset, build_evaluation_set
from lib.dataset.reader import ground_truth_of
from lib.deploy.compiled import CompiledNetwork
from lib.deploy.export import make_card, make_program, program_file, write_onnx
from lib.deploy.fold import fold_norms
from lib.deploy.graph import GRAPHS, CandidateGraph, Graph, PixelGraph
from lib.models.load import NetworkFile, read_network
from lib.utils import cli
from lib.utils.files import check_outputs, write_file
from lib.utils.reading import hash_of
from lib.utils.run_card import CODE, git_state, versions
from lib.utils.transforms import STRIDE
from tools.demo.media import quiet_opencv
from tools.device_runner import prepare
from tools.export.check import (
    TOLERANCE,
    Model,
    RunSession,
    compare_outputs,
    compare_people,
    run_of,
)
from tools.export.fit import describe_fit, without_borders
from tools.export.forms import open_form
from tools.export.int8 import folder_inputs, spread, write_int8
from tools.export.targets import (
    TARGETS,
    OpenTarget,
    check_target,
    open_target,
    write_target,
)

logger = logging.getLogger("lib.export")

INT8 = "model-int8.onnx"
OUTPUTS = ("model.pt2", "model.onnx", INT8, "card.json")  # in --out
CHECKED = 8  # images of the test split that are compared without --evaluate


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--model", metavar="FILE", help="the weights; default: TEST.MODEL_FILE")
    parser.add_argument("--cfg", help="experiments/*/*/*.yaml; default: the settings in the file")
    parser.add_argument("--superconfig", help="mobile_configs/*.json; default: as in the file")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    parser.add_argument(
        "--graph",
        choices=list(GRAPHS),
        default="pixels",
        help="outputs: peaks and all pixels (default), peaks alone, or the network's maps",
    )
    parser.add_argument("--size", metavar="WxH", help="fixed input size; default: any size")
    parser.add_argument("--flip", action="store_true", help="include the flip test: twice the work")
    parser.add_argument(
        "--to",
        action="append",
        choices=list(TARGETS),
        default=[],
        help="also write files for this runtime, compared as well; may be repeated",
    )
    parser.add_argument(
        "--runtime",
        choices=("onnxruntime", "openvino"),
        default="onnxruntime",
        help="that finds the people of the *.onnx to compare",
    )
    parser.add_argument("--int8", type=int, metavar="N", help="also int8, calibrated on N images")
    parser.add_argument(
        "--calibrate", type=Path, metavar="FOLDER", help="of images; default: the training split"
    )
    parser.add_argument("--evaluate", action="store_true", help="also report AP on the test split")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")
    args = parser.parse_intermixed_args(argv)
    if args.int8 is not None and args.int8 < 1:
        parser.error(f"--int8 is {args.int8}; at least 1")
    if args.calibrate and args.int8 is None:
        parser.error("--calibrate needs --int8 N, the number of images")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    quiet_opencv()
    size = read_size(args.size) if args.size else None
    targets = {name: TARGETS[name] for name in args.to}
    for name in targets:
        check_target(name, size)
    network = read_weights(args)
    files = [*OUTPUTS, *(file for target in targets.values() for file in target.files)]
    check_outputs([args.out / name for name in files], [network.source, args.cfg, args.superconfig])
    model = network.build(torch.device("cpu"))
    make_folders(str(args.out / "card.json"))
    data = build_evaluation_set(network.cfg) if args.evaluate else available_images(network.cfg)

    settings = InferenceSettings.from_config(network.cfg)
    unfolded = GRAPHS[args.graph](settings, model).eval()
    card = make_card(settings, unfolded, size, provenance_of(network))
    calibration = list(calibration_inputs(args, network.cfg, partial(filled_input, card)))
    graph = GRAPHS[args.graph](settings, fold_norms(model)).eval()
    program = make_program(graph, size)
    content = program_file(program)
    write_file(args.out / "model.pt2", content)
    write_onnx(args.out / "model.onnx", program, graph.outputs)
    write_card(args.out, card)
    name_leftovers(args.out, files if calibration else set(files) - {INT8})
    models = [args.out / "model.onnx"]
    if calibration:
        models.append(args.out / INT8)
        print(write_int8(models[1], unfolded, size, calibration), flush=True)
    for name in targets:
        card.setdefault("runtimes", {})[name] = write_target(name, graph, size, args.out)
        write_card(args.out, card)

    inputs = [prepare(card, image)[0] for image in samples(data)]
    forms = {"model.onnx": models[0], "model.pt2": content}
    equal = compare_outputs(unfolded, graph, forms, args.out, inputs)
    opened = [open_target(target, unfolded, graph, args.out) for target in targets.values()]
    for one in opened:
        form, tolerance = {one.files[0].name: one.run}, one.target.tolerance
        equal &= compare_outputs(one.reference, one.folded, form, args.out, inputs, tolerance)
    if data and size:
        images = np.array([(record.width, record.height) for record in data.records], float)
        print(describe_fit(images, size, free_scale(card["input"], images)))
    return 0 if equal & equal_people(unfolded, card, data, models, opened, args.runtime) else 1


def equal_people(
    graph: Graph,
    card: dict[str, Any],
    data: EvaluationSet | None,
    paths: Sequence[Path],
    opened: Sequence[OpenTarget],
    runtime: str,
) -> bool:
    """Compare people and print the table; whether those of all models in floats are PyTorch's.

    graph: in PyTorch. paths: ONNX models for `runtime`, the first one in floats. True without
    `data`.
    """
    if not data:
        return True
    is_network = not isinstance(graph, CandidateGraph)
    peaks = PixelGraph(graph.settings, graph.network).eval() if is_network else graph
    models = []
    for path in paths:
        run = open_form(path, torch.get_num_threads(), runtime)
        if is_network:
            run = run_of(PixelGraph(graph.settings, CompiledNetwork(run, one_by_one=True)).eval())
        models.append(Model([path], RunSession(run), as_pytorch=path == paths[0]))
    for one in opened:
        candidates = one.candidates(type(peaks))
        if candidates:
            as_pytorch = one.target.tolerance == TOLERANCE
            models.append(Model(one.files, RunSession(candidates), as_pytorch))
    check = compare_people(peaks, card, data, models)
    print(f"\n{check.table}")
    for problem in check.problems:
        print(f"error: {problem}", file=sys.stderr)
    return not check.problems


def name_leftovers(folder: Path, written: Collection[str]) -> None:
    """Warn of files of an earlier export, possibly of another network than the new card's."""
    names = {*OUTPUTS, *(file for target in TARGETS.values() for file in target.files)}
    left = sorted(name for name in names - set(written) if (folder / name).exists())
    if left:
        logger.warning("%s: files of an earlier export are left: %s", folder, ", ".join(left))


def write_card(folder: Path, card: dict[str, Any]) -> None:
    write_file(folder / "card.json", json.dumps(card, indent=2) + "\n")


def calibration_inputs(
    args: argparse.Namespace, cfg: CfgNode, prepare: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Inputs of --int8 images of --calibrate, or of the training split; none without --int8."""
    if args.calibrate:
        yield from folder_inputs(args.calibrate, args.int8, prepare)
    elif args.int8:
        training = build_dataset(cfg)
        for index in spread(training.records, args.int8):
            yield prepare(training.files.read(training.records[index]))


def filled_input(card: Mapping[str, Any], image: np.ndarray) -> np.ndarray:
    """(1, H, W, 3): the part of an image that fills the network's input."""
    return prepare(dict(card), without_borders(image, card["input"]))[0]


def free_scale(rules: Mapping[str, Any], images: np.ndarray) -> np.ndarray:
    """(N,) pixels of a free input per pixel of images (N, 2) of these widths and heights.

    rules: the entry "input" of the card; its side is a multiple of 64.
    """
    sides = images.min(axis=1) if rules["scale_type"] == "short" else images.max(axis=1)
    return rules["side"] / sides


def read_size(text: str) -> tuple[int, int]:
    """ "512x448" -> (512, 448)"""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    width, height = map(int, match.groups()) if match else (0, 0)
    if any(side < STRIDE or side % STRIDE for side in (width, height)):
        raise ValueError(
            f"--size is {text}; wanted width x height, multiples of {STRIDE}, like 512x448"
        )
    return width, height


def fixed_size_opts(size: str | None) -> list[str]:
    """Config keys of --size: images are padded with black, where no joint may be found."""
    return ["TEST.MASK_BORDERS", "True"] if size else []


def read_weights(args: argparse.Namespace) -> NetworkFile:
    """The network to export; --flip sets the flip test, --size masks the borders."""
    opts = [*fixed_size_opts(args.size), *args.opts, "TEST.FLIP_TEST", str(args.flip)]
    path = args.model or (load_config(args.cfg, opts).TEST.MODEL_FILE if args.cfg else None)
    if not path:
        raise ValueError("name the weights: --model, or --cfg with TEST.MODEL_FILE")
    network = read_network(path, cfg=args.cfg, superconfig=args.superconfig, opts=opts)
    return network.expect_subnet()


def provenance_of(network: NetworkFile) -> dict[str, Any]:
    """Where an exported network comes from, for its card."""
    return {
        "weights": str(network.source),
        "sha256": hash_of(network.source),
        "supernet": network.supernet,
        "epoch": network.epoch,
        "arch": network.arch.to_dict() if network.arch else None,
        "config": network.cfg.dump(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git": git_state(CODE),
        "versions": versions(),
    }


def available_images(cfg: CfgNode) -> EvaluationSet | None:
    """The first images of the test split; None, with a warning, when it cannot be read."""
    try:
        data = build_evaluation_set(cfg)
    except ValueError as error:
        logger.warning("compared on noise alone: %s", error)
        return None
    records = data.records[:CHECKED]
    return data._replace(records=records, ground_truth=ground_truth_of(data.ground_truth, records))


def samples(data: EvaluationSet | None) -> Iterator[np.ndarray]:
    """Two images of noise, then the first of `data`."""
    noise = np.random.default_rng(0)
    for size in ((480, 640, 3), (640, 480, 3)):
        yield noise.integers(0, 256, size, np.uint8)
    if data:
        yield from map(data.files.read, data.records[:CHECKED])


if __name__ == "__main__":
    cli.run(main)
