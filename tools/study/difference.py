"""How far the AP of one network is above that of another, and what other test images would say.

    python -m tools.study.difference --model new.pth.tar --than old.pth.tar \\
        --set "MPII val" data/mpii crowd_pose val --set "COCO val" data/coco coco val2017

A set is a name, DATASET.ROOT, DATASET_TEST and TEST, as of `tools.study.score`. Both networks see
the same images. The paired bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 13) then draws as many images as the set has, some of them several times and others not at
all, and both are scored on them, again and again. Ninety of a hundred draws have a difference
within the interval: if all of it is above 0, the images do not explain the gain. What another
training with another seed would give is not in it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pycocotools.cocoeval import COCOeval
from torch import nn

from lib.core.evaluate import Tree, coco_evaluation, find_rows
from lib.core.inference import InferenceSettings
from lib.core.pipeline import LoaderSettings
from lib.core.results import Row
from lib.dataset.annotations import BOX_AREA
from lib.dataset.shared import share_joints
from lib.keypoints import KeypointSpec
from lib.models.load import NetworkFile, read_network
from lib.utils import cli
from lib.utils.device import resolve_device
from lib.utils.tables import markdown
from tools.study.score import PASSES, add_set_flag, evaluation_set, named_sets

PERCENTILES = (5, 95)
HEAD = ("", "images", "AP", "of --than", "difference", "90 % of the draws")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    cli.add_network_flags(parser)
    parser.add_argument("--model", required=True, type=Path, help="weights")
    parser.add_argument("--than", required=True, type=Path, help="weights of the other network")
    add_set_flag(parser)
    parser.add_argument("--draws", type=int, default=1000)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    cli.check_range("--draws", args.draws, 1)
    sets = named_sets(args)
    networks = [
        read_network(
            path, cfg=args.cfg, superconfig=args.superconfig, opts=args.opts
        ).expect_subnet()
        for path in (args.model, args.than)
    ]
    if networks[0].spec != networks[1].spec:
        raise ValueError(f"{args.model} and {args.than} have other joints: compare AP of the same")
    models = [network.build(resolve_device(args.gpu)) for network in networks]
    judged = {
        name: [
            evaluation
            for network, model in zip(networks, models, strict=True)
            for evaluation in judge(network, model, *where)
        ]
        for name, where in sets.items()
    }
    random = np.random.default_rng(0)
    ap = {name: draws_of(one, args.draws, random) for name, one in judged.items()}
    images = {name: len(one[0].params.imgIds) for name, one in judged.items()}
    if len(ap) > 1:
        ap["mean"], images["mean"] = np.mean(list(ap.values()), axis=0), sum(images.values())
    print("\n\n".join(f"{passes}:\n\n{table(ap, images, passes)}" for passes in PASSES))


def judge(
    network: NetworkFile, model: nn.Module, root: str, layout: str, split: str
) -> list[COCOeval]:
    """What a network finds in a test set, matched with its people, for each of `PASSES`."""
    data, scored = share_joints(evaluation_set(network.cfg, root, layout, split), network.spec)
    if not data.has_people:
        raise ValueError(f"{split} of {root} has no annotations: no AP can be computed")
    settings = replace(InferenceSettings.from_config(network.cfg), scored=scored)
    loading = LoaderSettings.from_config(network.cfg)
    return [
        match(
            data.spec,
            data.ground_truth,
            find_rows(replace(settings, flip_test=flip), model, data, loading),
        )
        for flip in PASSES.values()
    ]


def match(spec: KeypointSpec, ground_truth: Tree, rows: Sequence[Row]) -> COCOeval:
    """The result rows of each image, matched with the people in it."""
    people = [dict(person) for person in ground_truth["annotations"]]
    if not spec.use_area:
        for person in people:
            person["area"] = BOX_AREA * person["bbox"][2] * person["bbox"][3]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        evaluation = coco_evaluation(
            spec, {**ground_truth, "annotations": people}, list(map(dict, rows))
        )
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
    return evaluation


def draws_of(
    evaluations: Sequence[COCOeval], draws: int, random: np.random.Generator
) -> np.ndarray:
    """AP (1 + draws, len(evaluations)): on the images as they are, then on each draw of them.

    NaN where nobody is labelled in the drawn images.
    """
    count = len(evaluations[0].params.imgIds)
    picks = [np.arange(count), *random.integers(count, size=(draws, count))]
    return np.array([drawn_ap(one, picks) for one in evaluations]).T


def drawn_ap(evaluation: COCOeval, picks: Iterable[np.ndarray]) -> list[float]:
    """AP on the images of each of `picks`: as many indices as there are images; they may repeat."""
    matched = evaluation.evalImgs
    ap = []
    for pick in picks:
        evaluation.evalImgs = [matched[index] for index in pick]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        precision = evaluation.eval["precision"]  # -1 without people
        ap.append(precision.mean() if precision.min() > -1 else np.nan)
    evaluation.evalImgs = matched
    return ap


def table(ap: dict[str, np.ndarray], images: dict[str, int], passes: str) -> str:
    """A row for each test set, in these passes."""
    place = list(PASSES).index(passes)
    rows = []
    for name, values in ap.items():
        new, old = values[:, place], values[:, place + len(PASSES)]
        change = new - old
        low, high = np.nanpercentile(change[1:], PERCENTILES)
        cells = [f"{new[0]:.3f}", f"{old[0]:.3f}", f"{change[0]:+.3f}"]
        rows.append([name, images[name], *cells, f"{low:+.3f} to {high:+.3f}"])
    return markdown(HEAD, rows)


if __name__ == "__main__":
    cli.run(main)
