"""The network of a tool, from the file it is in: weights, or an exported network."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib.keypoints import KeypointSpec
from lib.predictor import Predictor


class Network(NamedTuple):
    """Image -> people, in three steps, each of which may run in another thread."""

    spec: KeypointSpec
    prepare: Callable[[np.ndarray], Any]  # of an image (H, W, 3) uint8 RGB
    compute: Callable[[Any], Any]
    group: Callable[[Any], tuple[np.ndarray, Sequence[float]]]


def add_settings_flags(parser: argparse.ArgumentParser) -> None:
    """Settings that win over those of a file of weights, or that it does not have."""
    parser.add_argument("--cfg", help="experiments/*.yaml, for a model that does not carry its own")
    parser.add_argument("--superconfig", help="mobile_configs/*.json, likewise")
    parser.add_argument("--gpu", type=int, help="CUDA device; the CPU is used where there is none")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")


def open_network(
    path: Path,
    cfg_path: str | None = None,
    superconfig: str | None = None,
    opts: Sequence[str] = (),
    gpu: int | None = None,
) -> Network:
    """The network in `path`; ValueError as in `Predictor.load`."""
    predictor = Predictor.load(path, cfg=cfg_path, superconfig=superconfig, opts=opts, device=gpu)

    def group(maps: Any) -> tuple[np.ndarray, Sequence[float]]:
        people = predictor.group(maps)
        return people.keypoints, people.scores.tolist()

    return Network(predictor.keypoints, predictor.prepare, predictor.compute, group)
