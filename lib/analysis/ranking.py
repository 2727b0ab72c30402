"""Pictures by how well the people in them were found, the worst first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lib.analysis.diagnose import FALSE_SCORE, NOBODY, Truth, match_best, read_truth
from lib.core.pipeline import Prediction
from lib.dataset.build import EvaluationSet
from lib.keypoints import KeypointSpec


class Standing(NamedTuple):
    """What was found of the people in one picture."""

    image_id: int
    oks: float  # mean over the judged people, 0 for who was not found; nan where nobody is judged
    people: int  # judged ones
    found: int  # judged people whom a detection was matched to
    false: int  # detections of at least FALSE_SCORE that nobody was matched to

    @property
    def summary(self) -> str:
        if not self.people:
            return f"nobody is judged, {self.false} false"
        return f"OKS {self.oks:.2f}, {self.found} of {self.people} matched, {self.false} false"


def rank(data: EvaluationSet, predictions: Iterable[Prediction]) -> list[Standing]:
    """The pictures of `predictions` by rising OKS, of equals those with more people first.

    Pictures without judged people follow, those with more false people first.
    """
    truth = read_truth(data.annotations, data.spec)
    standings = [standing(data.spec, truth[p.image_id], p) for p in predictions]
    return sorted(standings, key=_place)


def standing(spec: KeypointSpec, truth: Truth, prediction: Prediction) -> Standing:
    """By the evaluators' matching (see `lib.analysis.diagnose`)."""
    scores = np.array(prediction.scores, float)
    best, oks, match = match_best(spec, truth, prediction.people[:, : spec.num_joints, :2], scores)
    hits = np.flatnonzero(match != NOBODY)
    hits = hits[truth.judged[match[hits]]]
    people = int(truth.judged.sum())
    false = (match == NOBODY) & (scores[best] >= FALSE_SCORE)
    return Standing(
        prediction.image_id,
        oks[hits, match[hits]].sum() / people if people else math.nan,
        *(people, len(hits), int(false.sum())),
    )


def _place(standing: Standing) -> tuple[bool, float, int]:
    if not standing.people:
        return True, -standing.false, 0
    return False, standing.oks, -standing.people
