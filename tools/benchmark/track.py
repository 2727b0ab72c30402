"""Ids of people who cross: IDF1 and id switches of `tools.demo --track` on rendered clips.

    python -m tools.benchmark track    # without a network
    python -m tools.benchmark track --model checkpoint.pth.tar --people 2 3 --seeds 0 1 2 3

The clips are those of tools.make_clip, whose people are known. Without --model the detections are
the ground truth with noise: joints moved by 2 % of the person's height, 20 % of the joints and 10 %
of the people missing, in any order.

IDF1 (Ristani et al. 2016) is the F1 score of detections that have the id which stands for the
person: each person is assigned one id, so that most detections agree. Somebody whose id changes
halfway counts half. Its limit is what the same detections would have with true ids. A switch is a
person who is found with another id than before. Found means an OKS of 0.3 or more: where people
are, and not how exactly, is asked here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from lib.dataset.synthetic.people import ROW
from lib.keypoints import CROWD_POSE, KeypointSpec
from lib.predictor import Predictor
from lib.utils.tables import markdown
from tools.demo.media import Frame, Source
from tools.demo.pipeline import Item, grouping
from tools.demo.track import Tracker, similarity
from tools.make_clip import FPS, walk

FOUND = 0.3  # OKS of a detection with the person
NOISE = 0.02  # of the person's height
NO_JOINT, NO_PERSON = 0.2, 0.1  # probabilities
MIN_SCORE = 0.2  # of people, as in tools.demo
SAME_ID = 1.0  # more than any OKS: whoever had this id in the last frame keeps it

# number of the frame, image, people of the frame (P, K, 2) -> people (N, K, 3), their ids
Find = Callable[[int, np.ndarray, np.ndarray], tuple[np.ndarray, list[int]]]


class Tracked(NamedTuple):
    """One frame: N people were found where P are."""

    oks: np.ndarray  # (P, N)
    ids: list[int]  # N


class Score(NamedTuple):
    found: float  # share of people, over all frames
    idf1: float
    limit: float  # IDF1 with true ids
    switches: int
    ids: int  # how many different ones


def add_flags(parser: argparse.ArgumentParser) -> None:
    weights = "a file of weights, or *.onnx; default: the ground truth with noise"
    parser.add_argument("--model", type=Path, help=weights)
    parser.add_argument("--people", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="of the clips")
    parser.add_argument("--size", type=int, nargs=2, default=[640, 480], metavar=("W", "H"))
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    if min(*args.people, args.frames, *args.size) < 1 or min(args.seeds) < 0:
        raise ValueError("--people, --frames and --size are 1 or more, --seeds 0 or more")
    predictor = Predictor.load(args.model, opts=args.opts, device=device) if args.model else None
    spec = predictor.keypoints if predictor else CROWD_POSE
    if not set(spec.joints) <= set(ROW):
        raise ValueError(f"{args.model} finds joints that rendered people do not have")
    rows = []
    for people in args.people:
        for seed in args.seeds:
            find = network(predictor) if predictor else noisy_truth(spec, seed)
            frames = track_clip(spec, find, walk(seed, people, tuple(args.size), args.frames))
            rows.append({"people": people, "seed": seed, **score(frames)._asdict()})
    return {"rows": rows}


def network(predictor: Predictor) -> Find:
    """The people that the demo finds with --track."""
    group, source = grouping(predictor, track=True, min_score=MIN_SCORE), Source("clip", "", True)

    def find(number: int, image: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, list[int]]:
        maps = predictor.compute(predictor.prepare(image))
        frame = Frame(source, number, (number - 1) / FPS, image, timing=None)
        people = group(Item(frame, maps))
        return people.keypoints, people.ids or []

    return find


def noisy_truth(spec: KeypointSpec, seed: int) -> Find:
    """The ground truth with noise and drop-outs, tracked."""
    tracker, rng = Tracker(spec), np.random.default_rng(seed)

    def find(number: int, _: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, list[int]]:
        height = np.ptp(truth[..., 1], axis=1)[:, None, None]
        places = truth + rng.normal(0, NOISE, truth.shape) * height
        has = rng.random(truth.shape[:2]) >= NO_JOINT
        people = np.dstack([places, np.ones_like(has)]) * has[..., None]
        people = people[(rng.random(len(people)) >= NO_PERSON) & has.any(axis=1)]
        return tracker.update(rng.permutation(people), (number - 1) / FPS)

    return find


def track_clip(spec: KeypointSpec, find: Find, frames: Any) -> list[Tracked]:
    """Every frame of `walk`, tracked."""
    rows, sigmas = [ROW[joint] for joint in spec.joints], np.array(spec.sigmas)
    tracked = []
    for number, (image, points) in enumerate(frames, 1):
        truth = points[:, rows, :2]
        people, ids = find(number, image, truth)
        whole = np.dstack([truth, np.ones(truth.shape[:2])])
        tracked.append(Tracked(similarity(whole, people, sigmas), ids))
    return tracked


def score(frames: list[Tracked]) -> Score:
    """IDF1 and switches of a clip; every frame has the same P people."""
    column = {name: i for i, name in enumerate(sorted({i for frame in frames for i in frame.ids}))}
    people = len(frames[0].oks)
    together = np.zeros((people, len(column)))  # frames in which an id is at a person
    last: dict[int, int] = {}  # the id of each person
    found = detections = switches = 0
    for oks, ids in frames:
        near = oks >= FOUND
        for person, i in np.argwhere(near):
            together[person, column[ids[i]]] += 1
        same = np.array([[last.get(p) == name for name in ids] for p in range(people)])
        weights = np.where(near, oks + SAME_ID * same.reshape(oks.shape), 0)
        for person, i in zip(*linear_sum_assignment(weights, maximize=True), strict=True):
            if near[person, i]:
                switches += last.get(person, ids[i]) != ids[i]
                last[person] = ids[i]
        found += near[linear_sum_assignment(near, maximize=True)].sum()
        detections += len(ids)
    whole = people * len(frames)
    agree = together[linear_sum_assignment(together, maximize=True)].sum()
    idf1, limit = (float(2 * hits / (whole + detections)) for hits in (agree, found))
    return Score(float(found / whole), idf1, limit, switches, len(column))


def table(report: dict[str, Any]) -> str:
    names = ["people", "seed", *Score._fields]
    rows = [[format_cell(row[name]) for name in names] for row in report["rows"]]
    means = [format_cell(float(np.mean([row[name] for row in report["rows"]]))) for name in names]
    rows.append(["mean", "", *means[2:]])
    return markdown(names, rows)


def format_cell(value: float) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
