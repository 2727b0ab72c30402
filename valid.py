"""Evaluate a network: AP on COCO or CrowdPose, or a result file for COCO test-dev.

    python valid.py --cfg experiments/coco/mobilenet/mobile.yaml \\
        --superconfig mobile_configs/search-XS.json TEST.MODEL_FILE weights.pth.tar
    python valid.py --cfg ... --superconfig ... --vis 16   # and pictures of what was found
    python valid.py --cfg ... --superconfig ... --diagnose # and where AP is lost
    python valid.py --cfg ... --oracle                     # what decoding can reach
    python valid.py --cfg ... --superconfig ... --oracle tags   # if only the tags were perfect

Exit code 0; 1 when pictures could not be read and were left out; 2 for a user's mistake.
"""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from yacs.config import CfgNode

from lib.config import load_config
from lib.core.diagnose import diagnose, diagnosis_table
from lib.core.evaluate import (
    contact_sheet,
    evaluate_predictions,
    markdown_table,
    predict_set,
    result_rows,
)
from lib.core.oracle import MODES, Oracle
from lib.dataset.build import build_evaluation_set
from lib.models import build_model
from lib.models.arch import ArchSpec
from lib.utils import cli
from lib.utils.checkpoint import load_weights
from lib.utils.dist import choose_device
from lib.utils.logger import create_logger
from lib.utils.vis import save_picture

logger = logging.getLogger("lib.valid")

MODEL_FILES = ("model_best.pth.tar", "final_state0.pth.tar", "checkpoint.pth.tar")


def parse_args() -> Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("--vis", type=int, default=0, metavar="N", help="draw N pictures")
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
    output_dir, _ = create_logger(cfg, args.cfg, "valid")
    data = build_evaluation_set(cfg)
    if args.diagnose and not data.has_people:
        raise ValueError(f"--diagnose: nobody is labelled in {data.annotations}")
    device = choose_device(cfg, args.gpu)
    # Ideal maps of both kinds leave nothing of a network.
    model = None if args.oracle == "both" else load_model(cfg, arch, output_dir, device)
    model = Oracle.from_config(cfg, model, args.oracle) if args.oracle else model
    predictions, problems = predict_set(cfg, model, data)
    table = evaluate_predictions(data, predictions, output_dir)
    if table:
        name = Path(args.superconfig).stem if args.superconfig else cfg.MODEL.NAME
        if args.oracle:
            name = "oracle" if args.oracle == "both" else f"{name}, ideal {args.oracle}"
        print(markdown_table(table, name))
    if args.diagnose:
        ids = [picture.id for picture in data.pictures]
        rows = result_rows(data.spec, predictions)
        print(f"\n{diagnosis_table(data.spec, diagnose(data.spec, data.annotations, rows, ids))}")
    if args.vis and predictions:
        path = output_dir / f"{data.split}_people.png"
        save_picture(path, contact_sheet(data, predictions, args.vis))
        logger.info("pictures of what was found: %s", path)
    for problem in problems:
        logger.warning("%s", problem)
    if problems:
        logger.warning("%d of %d pictures were left out", len(problems), len(data.pictures))
    return 1 if problems else 0


def load_model(
    cfg: CfgNode, arch: ArchSpec | None, output_dir: Path, device: torch.device
) -> nn.Module:
    """The trained network of TEST.MODEL_FILE, or the best one in `output_dir`."""
    path = Path(cfg.TEST.MODEL_FILE) if cfg.TEST.MODEL_FILE else newest_weights(output_dir)
    model = build_model(cfg, arch)
    load_weights(model, path)
    logger.info("weights from %s", path)
    memory = torch.channels_last if cfg.MODEL.CHANNELS_LAST else torch.contiguous_format
    return model.to(device, memory_format=memory).eval()


def newest_weights(output_dir: Path) -> Path:
    """The first of MODEL_FILES that a training has left."""
    for name in MODEL_FILES:
        if (output_dir / name).exists():
            return output_dir / name
    raise ValueError(f"no weights in {output_dir}; train first, or name TEST.MODEL_FILE")


if __name__ == "__main__":
    cli.run(main)
