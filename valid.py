"""Evaluate a network: AP on COCO or CrowdPose, or a result file for COCO test-dev.

    python valid.py --cfg experiments/coco/mobilenet/mobile.yaml \\
        --superconfig mobile_configs/search-XS.json TEST.MODEL_FILE weights.pth.tar
    python valid.py --cfg ... --superconfig ... --vis 16   # and the 16 worst pictures
    python valid.py --cfg ... --superconfig ... --report output/report   # and a page of it all
    python valid.py --cfg ... --superconfig ... --diagnose # and where AP is lost
    python valid.py --cfg ... --oracle                     # what decoding can reach
    python valid.py --cfg ... --superconfig ... --oracle tags   # if only the tags were perfect
    torchrun --nproc_per_node=8 valid.py --cfg ...         # processes share the pictures

The same command goes on where it was interrupted. Exit code 0; 1 when pictures had problems, are
named and were left out; 2 for a user's mistake.
"""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from lib.analysis.diagnose import diagnose, diagnosis_table
from lib.analysis.oracle import MODES, Oracle
from lib.analysis.ranking import rank
from lib.analysis.report import (
    Report,
    make_folders,
    make_page_folder,
    write_csv,
    write_json,
)
from lib.analysis.sheet import contact_sheet
from lib.config import load_config
from lib.core.evaluate import evaluate_predictions, markdown_table
from lib.core.inference import InferenceSettings
from lib.core.pipeline import LoaderSettings
from lib.core.predictions import PredictionJournals, predict_set
from lib.core.results import Prediction, demand_some, result_path, result_rows
from lib.dataset.build import EvaluationSet, build_evaluation_set
from lib.models import build_model
from lib.models.arch import ArchSpec
from lib.utils import cli
from lib.utils.checkpoint import (
    check_same_joints,
    config_of,
    fit_weights,
    hash_of,
    load_checkpoint,
)
from lib.utils.dist import agree, barrier, leave, start_process
from lib.utils.logger import create_logger
from lib.utils.vis import save_image

logger = logging.getLogger("lib.valid")

MODEL_FILES = ("model_best.pth.tar", "final_state0.pth.tar", "checkpoint.pth.tar")


def parse_args() -> Namespace:
    parser = cli.parser(__doc__)
    cli.add_process_flags(parser)
    parser.add_argument("--json", metavar="PATH", help="write the table and its circumstances")
    parser.add_argument("--csv", metavar="PATH", help="the same as one row")
    parser.add_argument("--vis", type=int, default=0, metavar="N", help="draw the N worst pictures")
    parser.add_argument("--report", metavar="DIR", help="write the page DIR/index.html")
    parser.add_argument(
        "--oracle", choices=MODES, help="ideal maps: both (needs no network), or only these"
    )
    parser.add_argument(
        "--diagnose", action="store_true", help="a table of the kinds of errors, by joints"
    )
    return parser.parse_intermixed_args(_with_mode(sys.argv[1:]))


def _with_mode(argv: Sequence[str]) -> list[str]:
    """A bare `--oracle`, also in front of KEY VALUE, is one of both."""
    return [
        "--oracle=both" if word == "--oracle" and following not in MODES else word
        for word, following in zip(argv, [*argv[1:], ""], strict=True)
    ]


def main() -> int:
    args = parse_args()
    arch = ArchSpec.from_json(args.superconfig) if args.superconfig else None
    cfg = load_config(args.cfg, args.opts, img_size=arch.img_size if arch else None)
    process = start_process(cfg, args)
    output_dir, _ = create_logger(cfg, args.cfg, "valid", process.is_main)
    data = build_evaluation_set(cfg)
    if args.diagnose and not data.has_people:
        raise ValueError(f"--diagnose: nobody is labelled in {data.annotations}")
    make_folders(args.json, args.csv)
    make_page_folder(args.report)
    # Ideal maps of both kinds leave nothing of a network.
    weights = None if args.oracle == "both" else find_weights(cfg, output_dir)
    model = load_model(cfg, arch, weights, process.device) if weights else None
    model = Oracle.from_config(cfg, model, args.oracle) if args.oracle else model
    sha256 = hash_of(weights) if weights else ""
    made_by = {"arch": arch.to_dict() if arch else {}, "oracle": args.oracle}
    journals = PredictionJournals(
        result_path(data, output_dir), identity(cfg, sha256, **made_by), process
    )
    predictions, problems = predict_set(
        InferenceSettings.from_config(cfg),
        model,
        data,
        process,
        journals,
        loading=LoaderSettings.from_config(cfg),
    )
    report = Report(
        *(name_of(args), str(weights or ""), sha256),
        *(data.split, len(data.records), problems, OrderedDict()),
    )
    code = agree(process, lambda: tell(args, cfg, arch, data, predictions, report, output_dir))
    if code != cli.MISTAKE:
        journals.remove()
    barrier(process)  # nobody fails before all have cleared up: the launcher would end the others
    leave(process)
    return code


# Keys of TEST that change no prediction.
NEUTRAL_KEYS = ("MODEL_FILE", "IMAGES_PER_GPU", "LOG_PROGRESS")


def identity(cfg: CfgNode, weights: str, **more: Any) -> dict[str, Any]:
    """All that a prediction depends on; an evaluation resumes journals of the same identity."""
    test = {name: value for name, value in cfg.TEST.items() if name not in NEUTRAL_KEYS}
    return {
        "weights": weights,
        **more,
        "config": {"DATASET": cfg.DATASET, "MODEL": cfg.MODEL, "TEST": test, "FP16": cfg.FP16},
    }


def name_of(args: Namespace) -> str:
    """What the table calls the network: after the file that describes it."""
    name = Path(args.superconfig or args.cfg).stem
    if args.oracle:
        return "oracle" if args.oracle == "both" else f"{name}, ideal {args.oracle}"
    return name


def tell(
    args: Namespace,
    cfg: CfgNode,
    arch: ArchSpec | None,
    data: EvaluationSet,
    predictions: list[Prediction],
    report: Report,
    output_dir: Path,
) -> int:
    """Write the results, score them, and show what was asked for; the exit code."""
    demand_some(predictions, report.problems)
    report = report._replace(table=evaluate_predictions(data, predictions, output_dir))
    if report.table:
        print(markdown_table(report.table, report.arch), flush=True)
    else:
        path = result_path(data, output_dir)
        logger.info("%s is for the server that scores %s", path, data.split)
    if args.json:
        write_json(args.json, report)
    if args.csv:
        write_csv(args.csv, report)
    if args.diagnose:
        diagnosis = diagnose(data.spec, data.ground_truth, result_rows(data.spec, predictions))
        print(f"\n{diagnosis_table(data.spec, diagnosis)}", flush=True)
    if args.vis:
        path = output_dir / f"{data.split}_people.png"
        ranking = rank(data, predictions) if data.has_people else []
        save_image(path, contact_sheet(data, predictions, args.vis, ranking))
        logger.info("pictures of what was found: %s", path)
    if args.report:
        from lib.analysis.page import write_page  # here: matplotlib takes long to import

        network = arch.summary if arch else cfg.MODEL.NAME
        page = write_page(Path(args.report), data, predictions, report, network, cfg.dump())
        logger.info("the report: %s", page)
    for problem in report.problems:
        logger.warning("%s", problem)
    if report.problems:
        logger.warning("%d of %d pictures were left out", len(report.problems), report.pictures)
    return 1 if report.problems else 0


def load_model(
    cfg: CfgNode, arch: ArchSpec | None, weights: Path, device: torch.device
) -> nn.Module:
    """The trained network; ValueError when the file says other joints or another codec."""
    saved = load_checkpoint(weights)
    check_same_joints(config_of(saved), weights, cfg, is_train=False)
    trained_with = codec_of_run(saved)
    if trained_with not in (None, cfg.MODEL.CODEC):
        raise ValueError(
            f"{weights} was trained with MODEL.CODEC {trained_with}, not {cfg.MODEL.CODEC}; "
            f"give the same to decode it"
        )
    model = build_model(cfg, arch)
    fit_weights(model, saved, weights)
    logger.info("weights from %s", weights)
    memory = torch.channels_last if cfg.MODEL.CHANNELS_LAST else torch.contiguous_format
    return model.to(device, memory_format=memory).eval()


def codec_of_run(saved: Mapping[str, Any]) -> str | None:
    """MODEL.CODEC of the run that saved it; None of weights alone."""
    config = config_of(saved)
    return config.get("MODEL", {}).get("CODEC", "reference") if config else None


def find_weights(cfg: CfgNode, output_dir: Path) -> Path:
    """TEST.MODEL_FILE, or the first of MODEL_FILES that a training has left."""
    if cfg.TEST.MODEL_FILE:
        return Path(cfg.TEST.MODEL_FILE)
    for name in MODEL_FILES:
        if (output_dir / name).exists():
            return output_dir / name
    raise ValueError(f"no weights in {output_dir}; train first, or name TEST.MODEL_FILE")


if __name__ == "__main__":
    cli.run(main)
