"""What decoding could reach with perfect maps: AP of both codecs at several input sizes.

    python -m tools.paper.codec_ceiling --cfg experiments/coco/mobilenet/mobile.yaml \\
        DATASET.MIN_LABELLED_JOINTS 6
    python -m tools.paper.codec_ceiling --cfg experiments/crowd_pose/mobilenet/mobile.yaml \\
        DATASET.TEST val --sizes 256 512

Ideal heatmaps and tags are drawn from the annotations of the test split, decoded by the very path
of evaluation, and scored. Pictures are not read, so annotations alone are enough.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm
from yacs.config import CfgNode

from lib.analysis.oracle import Oracle
from lib.codec import CODECS
from lib.config import load_config
from lib.core.evaluate import score_predictions
from lib.core.inference import InferenceSettings, predict
from lib.core.results import Prediction
from lib.dataset.build import EvaluationSet, build_evaluation_set
from lib.utils import cli


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg", required=True, help="experiments/*/*/*.yaml")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 448, 512])
    parser.add_argument("--codecs", nargs="+", choices=list(CODECS), default=list(CODECS))
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")
    return parser.parse_intermixed_args()


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.WARNING)
    columns = "".join(f"| {size} " for size in args.sizes)
    print(f"| AP with ideal maps, px {columns}|\n{'|---' * (len(args.sizes) + 1)}|", flush=True)
    for codec in args.codecs:
        print(f"| {codec} ", end="")
        for size in args.sizes:
            opts = [*args.opts, "MODEL.CODEC", codec, "DATASET.INPUT_SIZE", str(size)]
            print(f"| {ceiling(load_config(args.cfg, opts)):.3f} ", end="", flush=True)
        print("|")


def ceiling(cfg: CfgNode) -> float:
    """AP of ideal maps, drawn and decoded as `cfg` says."""
    data = build_evaluation_set(cfg)
    return score_predictions(data, ideal_predictions(cfg, data))["AP"]


def ideal_predictions(cfg: CfgNode, data: EvaluationSet) -> Iterator[Prediction]:
    oracle, settings = Oracle.from_config(cfg), InferenceSettings.from_config(cfg)
    for picture in tqdm(data.records, disable=None if cfg.VERBOSE else True, leave=False):
        oracle.set_records([picture])
        canvas = np.zeros((picture.height, picture.width, 3), np.uint8)
        yield Prediction(picture.id, *predict(settings, oracle, canvas))


if __name__ == "__main__":
    cli.run(main)
