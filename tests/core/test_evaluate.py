"""From people to AP: what is perfect is 1, what is nothing is 0, and results are never lost."""

from __future__ import annotations

import gzip
import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from lib.core import evaluate
from lib.core.evaluate import average_precision, evaluate_predictions, markdown_table, score_rows
from lib.core.inference import settings_of
from lib.core.predictions import predict_set
from lib.core.results import Prediction, check_rows, result_rows, write_results
from lib.dataset.build import build_evaluation_set
from lib.dataset.image_files import ReadError
from lib.dataset.reader import read_annotations
from lib.keypoints import COCO_METRIC, CROWD_POSE, CROWD_POSE_METRIC, CROWDING_COLUMNS
from lib.models import build_model
from tests.helpers import GOLDEN, TINY, tiny_config

NAMES = {"coco": COCO_METRIC.columns, "crowd_pose": CROWD_POSE_METRIC.columns}


@pytest.fixture(params=["coco", "crowd_pose"])
def data(request, tmp_path):
    root = request.getfixturevalue(f"{request.param}_root")
    return build_evaluation_set(tiny_config(root, tmp_path, data_set=request.param))


def perfect(data) -> list[Prediction]:
    return [
        Prediction(record.id, record.joints, [0.9] * len(record.joints)) for record in data.records
    ]


def test_perfect_predictions_have_ap_1(data, tmp_path):
    table = evaluate_predictions(data, perfect(data), tmp_path)
    assert tuple(table) == NAMES[data.spec.name]
    # -1 is the evaluators' word for a range of sizes that holds nobody.
    assert all(value == pytest.approx(1) for value in table.values() if value != -1)
    assert table["AP"] == pytest.approx(1)
    assert table["AR"] == pytest.approx(1)


def test_people_moved_away_have_ap_0(data, tmp_path):
    far = [p._replace(people=p.people + (500, 500, 0)) for p in perfect(data)]
    assert evaluate_predictions(data, far, tmp_path)["AP"] == 0


def test_half_the_people_are_half_the_recall(data, tmp_path):
    everybody = perfect(data)
    total = sum(len(p.people) for p in everybody)
    one_each = [p._replace(people=p.people[:1], scores=p.scores[:1]) for p in everybody]
    table = evaluate_predictions(data, one_each, tmp_path)
    judged = sum(len(p.people) for p in one_each)
    assert judged < total
    assert 0 < table["AR"] < 1


def test_nobody_found_is_ap_0_and_a_result_file(data, tmp_path):
    nobody = [Prediction(p.id, np.zeros((0, data.spec.num_joints, 5)), []) for p in data.records]
    table = evaluate_predictions(data, nobody, tmp_path)
    found = evaluate_predictions(data, perfect(data), tmp_path / "found")
    assert table == {name: min(value, 0) for name, value in found.items()}  # -1: nobody is judged
    assert tuple(table) == NAMES[data.spec.name]
    assert json.loads((tmp_path / f"results/keypoints_{data.split}_results.json").read_text()) == []


def test_results_are_written_before_they_are_scored(data, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("the evaluator broke down")

    monkeypatch.setattr(evaluate, "score_rows", fail)
    with pytest.raises(RuntimeError, match="broke down"):
        evaluate_predictions(data, perfect(data), tmp_path)
    rows = json.loads((tmp_path / f"results/keypoints_{data.split}_results.json").read_text())
    people = [(p.id, person) for p in data.records for person in p.joints]
    assert [row["image_id"] for row in rows] == [image_id for image_id, _ in people]
    for row, (_, person) in zip(rows, people, strict=True):
        assert row["category_id"] == 1
        assert row["score"] == 0.9
        # Three decimals are written.
        np.testing.assert_allclose(row["keypoints"], person.flatten(), rtol=0, atol=5e-4)


def test_tags_and_the_center_are_left_out_of_the_results(data, tmp_path):
    wide = [
        p._replace(people=np.pad(p.people, ((0, 0), (0, 1), (0, 2)), constant_values=7))
        for p in perfect(data)
    ]
    assert evaluate_predictions(data, wide, tmp_path)["AP"] == pytest.approx(1)


def test_three_decimals_are_written(data):
    people = np.full((1, data.spec.num_joints, 3), 12.34567)
    [row] = result_rows(data.spec, [Prediction(9, people, [1 / 3])])
    assert row["keypoints"] == [12.346] * 3 * data.spec.num_joints
    assert row["score"] == 1 / 3


def test_rows_come_by_image_and_falling_score(data):
    people = np.zeros((3, data.spec.num_joints, 3))
    rows = result_rows(
        data.spec, [Prediction(9, people, [0.1, 0.3, 0.2]), Prediction(7, people[:1], [0.5])]
    )
    order = [(row["image_id"], row["score"]) for row in rows]
    assert order == [(7, 0.5), (9, 0.3), (9, 0.2), (9, 0.1)]


def test_scores_order_the_people(data, tmp_path):
    """A wrong person costs precision where it comes first, and none after everybody."""
    wrong = np.full((1, data.spec.num_joints, 3), 500.0)

    def with_wrong(score: float) -> float:
        predictions = [
            Prediction(p.image_id, np.concatenate([wrong, p.people]), [score, *p.scores])
            for p in perfect(data)
        ]
        return evaluate_predictions(data, predictions, tmp_path)["AP"]

    assert with_wrong(0.1) == pytest.approx(1)
    assert with_wrong(1.0) < 0.8


def test_test_dev_has_its_servers_file_name_and_no_table(test_dev_root, tmp_path):
    cfg = tiny_config(test_dev_root, tmp_path, "DATASET.TEST", "test-dev2017")
    data = build_evaluation_set(cfg)
    people = np.ones((1, 17, 3), np.float32)
    predictions = [Prediction(record.id, people, [0.5]) for record in data.records]
    assert evaluate_predictions(data, predictions, tmp_path) == OrderedDict()
    [path] = (tmp_path / "results").iterdir()
    assert path.name == "person_keypoints_test-dev2017_litepose_results.json"
    assert len(json.loads(path.read_text())) == 4


def wrong(row: dict, **changes) -> dict:
    return {name: value for name, value in {**row, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 999}, "result 1 .image 999.: its image_id is not in"),
        ({"category_id": 2}, "its category_id is not 1"),
        ({"category_id": None}, "its category_id is not 1"),
        ({"keypoints": [0.0] * 50}, "it has 50 keypoint numbers, not"),
        ({"keypoints": None}, "it has 0 keypoint numbers, not"),
        ({"keypoints": float("nan")}, "a keypoint number is not finite"),
        ({"score": None}, "its score is missing or not finite"),
        ({"score": float("inf")}, "its score is missing or not finite"),
    ],
)
def test_rows_that_the_server_would_refuse_are_errors(data, changes, message):
    rows = result_rows(data.spec, perfect(data))
    check_rows(data, rows)
    if isinstance(changes.get("keypoints"), float):
        changes = {"keypoints": [changes["keypoints"], *rows[1]["keypoints"][1:]]}
    with pytest.raises(ValueError, match=message):
        check_rows(data, [rows[0], wrong(rows[1], **changes), *rows[2:]])


def test_what_the_server_would_refuse_is_not_written(data, tmp_path):
    far = [p._replace(image_id=10**9) for p in perfect(data)]
    with pytest.raises(ValueError, match="its image_id is not in"):
        evaluate_predictions(data, far, tmp_path)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("data_set", ["coco", "crowd_pose"])
def test_only_the_images_looked_at_are_judged(data_set, request, tmp_path):
    root = request.getfixturevalue(f"{data_set}_root")
    cfg = tiny_config(root, tmp_path, "DATASET.MAX_IMAGES", "2", data_set=data_set)
    data = build_evaluation_set(cfg)
    assert len(data.records) == 2
    table = evaluate_predictions(data, perfect(data), tmp_path)
    assert table["AR"] == pytest.approx(1)
    assert all(value == pytest.approx(1) for value in table.values() if value != -1)


class OneDot(nn.Module):
    """Finds all joints of one person at the brightest pixel of its input."""

    def __init__(self, num_joints: int) -> None:
        super().__init__()
        self.num_joints = num_joints
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        gray = images.mean(dim=1, keepdim=True)
        spot = (gray - gray.mean()).clamp(min=0)
        spot = spot / spot.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
        coarse = nn.functional.avg_pool2d(spot, 4).expand(-1, self.num_joints, -1, -1)
        fine = nn.functional.avg_pool2d(spot, 2).expand(-1, self.num_joints, -1, -1)
        return [torch.cat([coarse, torch.zeros_like(coarse)], dim=1), fine]


def test_people_are_found_in_pixels_of_the_image(data, tmp_path, monkeypatch):
    cfg = tiny_config(tmp_path, tmp_path, data_set=data.spec.name)
    spots = {}

    def read(record):
        rng = np.random.default_rng(record.id)
        x, y = int(rng.integers(20, record.width - 20)), int(rng.integers(20, record.height - 20))
        spots[record.id] = x, y
        image = np.zeros((record.height, record.width, 3), np.uint8)
        rows, columns = np.mgrid[: record.height, : record.width]
        image[...] = (255 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 32))[..., None]
        return image

    monkeypatch.setattr(data.files, "read", read)
    predictions, problems = predict_set(settings_of(cfg), OneDot(data.spec.num_joints), data)
    assert problems == []
    assert [p.image_id for p in predictions] == [record.id for record in data.records]
    for prediction in predictions:
        joints = prediction.people[0, :, :2]
        # One pixel of the finest map is 3 pixels of the image.
        np.testing.assert_allclose(
            joints, np.tile(spots[prediction.image_id], (len(joints), 1)), atol=3
        )


@pytest.mark.parametrize("key", ["raise", "skip"])
def test_an_unreadable_image_is_reported_and_costs_nothing_else(
    coco_root, tmp_path, monkeypatch, key
):
    cfg = tiny_config(coco_root, tmp_path, "DATASET.UNREADABLE", key)
    data = build_evaluation_set(cfg)
    whole = data.files.read
    broken = data.records[1].id

    def read(record):
        if record.id == broken:
            raise ReadError(f"image {record.id}: cannot read it")
        return whole(record)

    monkeypatch.setattr(data.files, "read", read)
    model = build_model(cfg, TINY)
    predictions, problems = predict_set(settings_of(cfg), model, data)
    assert problems == [f"image {broken}: cannot read it"]
    assert [p.image_id for p in predictions] == [
        record.id for record in data.records if record.id != broken
    ]


def test_no_readable_image_is_one_error(coco_root, tmp_path, monkeypatch):
    cfg = tiny_config(coco_root, tmp_path)
    data = build_evaluation_set(cfg)
    monkeypatch.setattr(data.files, "path", tmp_path)
    with pytest.raises(ValueError, match="none of 4 images could be evaluated; image "):
        average_precision(settings_of(cfg), build_model(cfg, TINY), data)


@pytest.mark.parametrize("training", [False, True])
def test_evaluating_changes_nothing_of_the_network(coco_root, tmp_path, training):
    cfg = tiny_config(coco_root, tmp_path)
    model = build_model(cfg, TINY).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predict_set(settings_of(cfg), model, build_evaluation_set(cfg))
    assert model.training == training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_a_table_has_the_form_of_the_original():
    table = OrderedDict([("AP", 0.40551), ("Ap .5", 1.0), ("AP (M)", -1.0)])
    assert markdown_table(table, "search-XS") == (
        "| Arch | AP | Ap .5 | AP (M) |\n|---|---|---|---|\n| search-XS | 0.406 | 1.000 | - |\n\n"
        "-: nobody to judge, or no crowdIndex, in the ground truth: AP (M)."
    )


def test_images_without_crowding_leave_these_columns_open(crowd_pose_root, tmp_path):
    data = build_evaluation_set(tiny_config(crowd_pose_root, tmp_path, data_set="crowd_pose"))
    rows = write_results(data, perfect(data), tmp_path)
    [first, *images] = data.ground_truth["images"]
    unknown = {key: value for key, value in first.items() if key != "crowdIndex"}
    table = score_rows(data.spec, {**data.ground_truth, "images": [unknown, *images]}, rows)
    assert {name for name, value in table.items() if value == -1} == set(CROWDING_COLUMNS)
    assert table["AP"] == pytest.approx(1)


@pytest.mark.data
def test_crowd_pose_figures_are_those_of_the_official_tool(data_root):
    """The recorded results are CrowdPose's validation annotations, perturbed."""
    rows = json.loads(gzip.decompress((GOLDEN / "crowdpose_val_results.json.gz").read_bytes()))
    official = json.loads((GOLDEN / "crowdpose_val_official.json").read_text())
    path = data_root / "crowd_pose/json/crowdpose_val.json"
    table = score_rows(CROWD_POSE, read_annotations(path, CROWD_POSE), rows)
    values = [round(value, 4) for value in table.values()]
    assert values == [official[name] for name in official]
    names = "AP AP50 AP75 AR AR50 AR75 AP_easy AP_medium AP_hard"
    assert list(official) == names.split()
