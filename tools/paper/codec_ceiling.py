"""AP of the codecs with ground-truth maps at several input sizes: the limit of any network.

    python -m tools.paper.codec_ceiling --cfg experiments/coco/mobilenet/mobile.yaml \\
        DATASET.MIN_LABELLED_JOINTS 6
    python -m tools.paper.codec_ceiling --cfg experiments/crowd_pose/mobilenet/mobile.yaml \\
        DATASET.TEST val --sizes 256 512

Heatmaps and tags are rendered from the annotations of the test split, decoded as in the evaluation,
and scored. Unlike `valid.py --oracle` this reads no images: annotations alone are enough.
"""

from __future__ import annotations

import argparse

import numpy as np
from tqdm import tqdm
from yacs.config import CfgNode

from lib.analysis.oracle import Oracle
from lib.codec import CODECS
from lib.config import load_config
from lib.core.evaluate import score_predictions
from lib.core.inference import InferenceSettings, predict
from lib.core.results import Prediction
from lib.dataset.build import build_evaluation_set
from lib.utils import cli
from lib.utils.tables import markdown


def parse_args() -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--cfg", required=True, help="experiments/*/*/*.yaml")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 448, 512])
    parser.add_argument("--codecs", nargs="+", choices=list(CODECS), default=list(CODECS))
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")
    return parser.parse_intermixed_args()


def main() -> None:
    args = parse_args()
    rows = []
    for codec in args.codecs:
        row = [codec]
        for size in args.sizes:
            opts = [*args.opts, "MODEL.CODEC", codec, "DATASET.INPUT_SIZE", str(size)]
            row.append(f"{ceiling(load_config(args.cfg, opts)):.3f}")
        rows.append(row)
    print(markdown(["AP with ground-truth maps, px", *map(str, args.sizes)], rows))


def ceiling(cfg: CfgNode) -> float:
    """AP of ground-truth maps, rendered and decoded as `cfg` says."""
    data = build_evaluation_set(cfg)
    oracle, settings = Oracle.from_config(cfg), InferenceSettings.from_config(cfg)
    predictions = []
    for record in tqdm(data.records, disable=None if cfg.VERBOSE else True, leave=False):
        oracle.set_records([record])
        canvas = np.zeros((record.height, record.width, 3), np.uint8)
        predictions.append(Prediction(record.id, *predict(settings, oracle, canvas)))
    return score_predictions(data, predictions)["AP"]


if __name__ == "__main__":
    cli.run(main)
