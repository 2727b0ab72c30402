"""The metrics of a part are those of an evaluation of this part alone."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from lib.analysis.breakdown import (
    CROWDING,
    EVERY_SIZE,
    SIDES,
    break_down,
    evaluate,
    load_rows,
    only_crowding,
    part_of,
    precision_curves,
    with_areas,
)
from lib.core.evaluate import score_rows
from lib.core.results import Prediction, result_rows
from lib.dataset.build import build_evaluation_set
from lib.dataset.reader import ground_truth_of, read_annotations
from lib.keypoints import COCO, CROWD_POSE, KeypointSpec
from tests.analysis.test_diagnose import annotation, person, tree_of
from tests.helpers import GOLDEN, pycocotools_evaluation, tiny_config


@pytest.fixture(params=["coco", "crowd_pose", "animal"])
def data(request, tmp_path):
    root = request.getfixturevalue(f"{request.param}_root")
    return build_evaluation_set(tiny_config(root, tmp_path, data_set=request.param))


def rows_of(data, noise: float, false: int = 0) -> list[dict]:
    """The labelled people with noise in pixels, and `false` people per image who are not there.

    Joints without a label are in the middle of the box, where a network might put them.
    """
    rng = np.random.default_rng(5)
    predictions = []
    for record in data.records:
        middle = record.boxes[:, None, :2] + record.boxes[:, None, 2:] / 2
        people = np.where(record.joints[..., 2:] > 0, record.joints[..., :2], middle)
        people = np.pad(people, ((0, 0), (0, 0), (0, 1)), constant_values=1)
        people += rng.normal(0, noise, people.shape)
        others = rng.uniform(0, 90, (false, data.spec.num_joints, 3))
        people = np.concatenate([people, others])
        predictions.append(Prediction(record.id, people, rng.random(len(people)).tolist()))
    return result_rows(data.spec, predictions, data.category_id)


def pycocotools(
    spec: KeypointSpec, tree: dict, rows: Sequence[dict], sides: tuple[float, float] = EVERY_SIZE
) -> tuple[float, float, float, float]:
    """AP, AP .5, AP .75, AR by the reference evaluator."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = pycocotools_evaluation(spec, tree, rows)
        evaluation.params.areaRng = [[sides[0] ** 2, sides[1] ** 2]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    if precision.min() < 0:
        return (math.nan,) * 4
    return precision.mean(), precision[0].mean(), precision[5].mean(), recall.mean()


def same(one: Sequence[float], other: Sequence[float]) -> bool:
    return np.allclose(one, other, rtol=0, atol=1e-9, equal_nan=True)


def test_a_perfect_prediction_is_1_in_every_part(data):
    parts = break_down(data.spec, data.ground_truth, rows_of(data, 0))
    assert all(set(curve) == {1.0} for curve in parts.precision.values())
    assert list(parts.joints) == list(data.spec.joints)
    every = [*parts.joints.values(), *parts.sizes.values(), *parts.crowding.values()]
    for part in every:
        assert same(part[1:], [1.0 if part.people else math.nan] * 4)
    assert sum(part.people > 0 for part in every) > data.spec.num_joints


def test_a_joint_alone_is_the_evaluation_without_the_others_labels(data):
    rows = rows_of(data, 1.5, false=2)
    parts = break_down(data.spec, data.ground_truth, rows)
    tree = with_areas(data.spec, data.ground_truth)
    figures = []
    for k, (_, part) in enumerate(parts.joints.items()):
        for one, whole in zip(tree["annotations"], _labels(data), strict=True):
            alone = np.zeros_like(whole)
            alone[k] = whole[k]
            one["keypoints"] = alone.flatten().tolist()
            one["num_keypoints"] = int(alone[k, 2] > 0)
        assert same(part[1:], pycocotools(data.spec, tree, rows))
        assert part.people == sum(whole[k, 2] > 0 for whole in _labels(data))
        figures.append(part.ap)
    assert 0 < min(figures) < max(figures) < 1
    assert len(set(figures)) > data.spec.num_joints / 2


def _labels(data) -> list[np.ndarray]:
    tree = json.loads(data.annotations.read_text())
    return [np.array(one["keypoints"], float).reshape(-1, 3) for one in tree["annotations"]]


def test_a_wrong_joint_lowers_its_own_figures_alone(data):
    """By as far as a person is high: whoever has no label of it is still where they are."""
    rows = rows_of(data, 0)
    for row in rows:
        row["keypoints"][1] += 0.9 * np.ptp(row["keypoints"][4::3])
    parts = break_down(data.spec, data.ground_truth, rows)
    first, *others = parts.joints.values()
    assert first.ap == 0
    assert all(part.ap == pytest.approx(1) for part in others)


def test_a_range_of_sizes_is_the_evaluation_of_it(data):
    rows = rows_of(data, 2.5, false=2)
    parts = break_down(data.spec, data.ground_truth, rows)
    tree = with_areas(data.spec, data.ground_truth)
    for name, part in parts.sizes.items():
        assert same(part[1:], pycocotools(data.spec, tree, rows, SIDES[name]))
    assert sum(not math.isnan(part.ap) for part in parts.sizes.values()) >= 2


def test_every_person_is_in_one_of_the_coarse_and_one_of_the_fine_ranges(data):
    parts = break_down(data.spec, data.ground_truth, rows_of(data, 1))
    people = [part.people for part in parts.sizes.values()]
    everybody = len(_labels(data))
    assert sum(people[:3]) == everybody
    assert people[0] + sum(people[3:]) == everybody


def test_curves_fall_and_their_mean_is_ap(data):
    rows = rows_of(data, 2.5, false=2)
    table = score_rows(data.spec, data.ground_truth, rows)
    curves = break_down(data.spec, data.ground_truth, rows).precision
    assert all(len(curve) == 101 for curve in curves.values())
    assert all((np.diff(curve) <= 0).all() for curve in curves.values())
    assert min(map(min, curves.values())) >= 0
    assert 0.05 < table["AP"] < 0.95
    means = [np.mean(curve) for curve in curves.values()]
    assert same(means, [table["Ap .5"], table["AP .75"], table["AP"]])


def test_only_images_of_the_ground_truth_count(data):
    half = data._replace(records=data.records[:2])
    ground_truth = ground_truth_of(data.ground_truth, half.records)
    parts = break_down(data.spec, ground_truth, rows_of(half, 0))
    everybody = sum(len(record.joints) for record in half.records)
    assert sum(part.people for part in list(parts.sizes.values())[:3]) == everybody
    assert min(parts.precision[".50"]) == 1


def test_people_who_are_not_judged_count_nowhere():
    crowd, hidden = annotation(person(0), iscrowd=1), annotation(person(900), num_keypoints=0)
    tree = tree_of(crowd, hidden)
    rows = [{"image_id": 7, "category_id": 1, "keypoints": person(0).ravel().tolist(), "score": 1}]
    parts = break_down(COCO, tree, rows)
    assert parts.precision == {}
    for part in [*parts.joints.values(), *parts.sizes.values()]:
        assert part.people == 0
        assert math.isnan(part.ap)


def test_a_part_in_which_nobody_was_found_is_0(data):
    """The evaluator has no detection at all in images of some crowding."""
    few = [row for row in rows_of(data, 0) if row["image_id"] == data.records[0].id]
    parts = break_down(data.spec, data.ground_truth, few)
    assert all(0 <= part.ap < 1 for part in parts.joints.values())
    assert all(part.ap >= 0 or part.people == 0 for part in parts.crowding.values())


def test_rows_and_ground_truth_are_left_as_they_were(data):
    rows = rows_of(data, 1)
    before = json.dumps([rows, data.ground_truth])
    break_down(data.spec, data.ground_truth, rows)
    assert json.dumps([rows, data.ground_truth]) == before


@pytest.mark.data
def test_figures_by_crowding_are_those_of_the_official_tool(data_root):
    rows = json.loads(gzip.decompress((GOLDEN / "crowdpose_val_results.json.gz").read_bytes()))
    official = json.loads((GOLDEN / "crowdpose_val_official.json").read_text())
    path = data_root / "crowd_pose/json/crowdpose_val.json"
    tree = with_areas(CROWD_POSE, read_annotations(path, CROWD_POSE))
    by_crowding = []
    for low, high in CROWDING.values():
        subset, subset_rows = only_crowding(tree, rows, low, high)
        part = part_of(evaluate(CROWD_POSE, subset, load_rows(subset, subset_rows)), subset)
        by_crowding.append(round(part.ap, 4))
    assert by_crowding == [official[name] for name in ("AP_easy", "AP_medium", "AP_hard")]
    whole = evaluate(CROWD_POSE, tree, load_rows(tree, rows))
    means = [round(float(np.mean(curve)), 4) for curve in precision_curves(whole).values()]
    assert means == [official[name] for name in ("AP50", "AP75", "AP")]


@pytest.mark.data
def test_real_annotations_have_parts_that_sum_up(data_root, tmp_path):
    cfg = tiny_config(data_root / "coco", tmp_path)
    data = build_evaluation_set(cfg)
    parts = break_down(COCO, data.ground_truth, rows_of(data, 4))
    sizes = list(parts.sizes.values())
    assert sizes[0].people == 0  # COCO labels no joints of small people
    everybody = data.ground_truth["annotations"]
    judged = sum(one["num_keypoints"] > 0 and not one["iscrowd"] for one in everybody)
    assert 0 < sizes[1].people + sizes[2].people == judged < len(everybody)
