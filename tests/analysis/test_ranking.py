"""Images with the lowest OKS come first."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from lib.analysis.ranking import Standing, rank
from lib.analysis.sheet import contact_sheet
from lib.core.results import Prediction
from lib.dataset.build import EvaluationSet
from lib.dataset.reader import records_of
from lib.keypoints import COCO
from tests.analysis.test_diagnose import annotation, person, tree_of

FAR = np.array([20_000.0, 0, 0])
NOBODY = np.zeros((0, COCO.num_joints, 3))


class Blank:
    """Image files without images."""

    def read(self, record):
        return np.full((record.height, record.width, 3), 128, np.uint8)


def images(*people: list[dict]) -> EvaluationSet:
    """An evaluation set of images 1, 2 ... with these people (lists of annotations)."""
    ids = tuple(range(1, len(people) + 1))
    rows = [one | {"image_id": i} for i, group in zip(ids, people, strict=True) for one in group]
    tree = tree_of(*rows, image_ids=ids)
    return EvaluationSet(
        spec=COCO,
        split="val2017",
        annotations=Path("a.json"),
        records=records_of(tree, COCO, Path("a.json")),
        files=Blank(),
        ground_truth=tree,
    )


def found(image_id: int, *people: np.ndarray, score: float = 0.9) -> Prediction:
    return Prediction(image_id, np.array(people).reshape(-1, 17, 3), [score] * len(people))


def test_the_worst_image_comes_first():
    """Half of the joints far off are half the OKS; somebody missed counts as 0."""
    one, two = person(0), person(1000)
    half = one + np.where(np.arange(17)[:, None] < 8, FAR, 0)
    data = images(*[[annotation(one)] for _ in range(2)], [annotation(one), annotation(two)])
    ranking = rank(data, [found(1, one), found(2, half), found(3, two)])
    assert [(s.image_id, s.people, s.detected, s.false) for s in ranking] == [
        (3, 2, 1, 0),
        (2, 1, 1, 0),
        (1, 1, 1, 0),
    ]
    assert [s.oks for s in ranking] == pytest.approx([1 / 2, 9 / 17, 1])


def test_of_images_where_nobody_was_found_the_one_with_more_people_comes_first():
    one, two = annotation(person(0)), annotation(person(1000))
    ranking = rank(images([one], [one, two], [two]), [found(1), found(2), found(3)])
    assert [(s.image_id, s.oks, s.detected) for s in ranking] == [(2, 0, 0), (1, 0, 0), (3, 0, 0)]


def test_images_without_people_come_last_and_of_these_false_people_first():
    crowd = annotation(person(0), iscrowd=1)
    somebody = person(5000)
    data = images([], [crowd], [annotation(person(0))])
    ranking = rank(data, [found(1), found(2, somebody), found(3, person(0))])
    assert [(s.image_id, s.people, s.false) for s in ranking] == [(3, 1, 0), (2, 0, 1), (1, 0, 0)]
    assert math.isnan(ranking[-1].oks)


def test_people_of_a_low_score_are_found_but_never_false():
    data = images([annotation(person(0))], [annotation(person(0))])
    low = [found(1, person(0), person(5000), score=0.1), found(2, person(0), person(5000))]
    assert [(s.detected, s.false, s.oks) for s in rank(data, low)] == [(1, 0, 1), (1, 1, 1)]


def test_only_images_that_were_evaluated_are_ranked():
    data = images([annotation(person(0))], [annotation(person(0))])
    assert [s.image_id for s in rank(data, [found(2)])] == [2]


def test_a_center_joint_changes_nothing():
    data = images([annotation(person(0))])
    wide = np.concatenate([person(0) + (5, 0, 0), FAR[None]])[None]
    ranking = rank(data, [Prediction(1, wide, [0.9])])
    assert ranking == rank(data, [found(1, person(0) + (5, 0, 0))])
    assert ranking[0].oks < 1


def test_a_standing_is_told_in_one_line():
    assert Standing(7, 1 / 3, 3, 2, 1).summary == "OKS 0.33, 2 of 3 matched, 1 false"
    assert Standing(7, math.nan, 0, 0, 2).summary == "nobody is judged, 2 false"


def test_a_contact_sheet_follows_the_ranking():
    """Of two images the second is worse, so it is the first of the sheet."""
    data = images([annotation(person(0))], [annotation(person(300))])
    predictions = [found(1, person(0)), found(2)]
    ranking = rank(data, predictions)
    one = contact_sheet(data, predictions, 1, ranking)
    reversed_set = data._replace(records=data.records[::-1])
    assert np.array_equal(one, contact_sheet(reversed_set, predictions, 1, ranking))
    assert not np.array_equal(one, contact_sheet(data, predictions, 1))
