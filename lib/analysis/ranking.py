"""Images ranked by how well their people were detected, the worst first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lib.analysis.diagnose import Labels, labels_by_image, match
from lib.core.results import Prediction
from lib.dataset.build import EvaluationSet
from lib.keypoints import KeypointSpec


class Standing(NamedTuple):
    """How well the people of one image were detected."""

    image_id: int
    oks: float  # mean over the judged people, 0 for those without a detection; nan without people
    people: int  # judged people
    detected: int  # judged people with a detection
    false: int  # detections of at least FALSE_SCORE that match nobody

    @property
    def summary(self) -> str:
        if not self.people:
            return f"nobody is judged, {self.false} false"
        return f"OKS {self.oks:.2f}, {self.detected} of {self.people} matched, {self.false} false"


def rank(data: EvaluationSet, predictions: Iterable[Prediction]) -> list[Standing]:
    """The images of `predictions` by rising OKS; among equals, more people first.

    Images without judged people come last, those with more false detections first.
    """
    labels = labels_by_image(data.ground_truth, data.spec)
    standings = [standing(data.spec, labels[p.image_id], p) for p in predictions]
    return sorted(standings, key=_order)


def standing(spec: KeypointSpec, labels: Labels, prediction: Prediction) -> Standing:
    """One image's standing, with people matched as in `lib.analysis.diagnose`."""
    xy, scores = prediction.people[:, : spec.num_joints, :2], np.array(prediction.scores, float)
    matching = match(spec, labels, xy, scores)
    hits, people = matching.hits, int(labels.judged.sum())
    return Standing(
        image_id=prediction.image_id,
        oks=matching.oks[hits, matching.person[hits]].sum() / people if people else math.nan,
        people=people,
        detected=len(hits),
        false=matching.false,
    )


def _order(standing: Standing) -> tuple[bool, float, int]:
    if not standing.people:
        return True, -standing.false, 0
    return False, standing.oks, -standing.people
