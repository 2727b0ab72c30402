"""A network scored on a data set of other joints, over the joints that both have."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.analysis.oracle import Oracle
from lib.config import load_config
from lib.core.evaluate import score_predictions
from lib.core.inference import settings_of
from lib.core.predictions import predict_set
from lib.core.results import Prediction
from lib.dataset.build import build_evaluation_set
from lib.dataset.shared import reduced_to, shared_joints
from lib.keypoints import COCO, CROWD_POSE
from lib.models import build_model
from lib.utils.checkpoint import save_checkpoint, save_weights
from tests.helpers import TINY, YAMLS, fill, tiny_config
from tests.test_scripts import assert_one_line, command

BODY = CROWD_POSE.joints[:12]  # COCO has them too, in this order
KEYS = ("DATASET.MAX_NUM_PEOPLE", "3")  # random weights see many more
SHARP = ("DATASET.INPUT_SIZE", "256", "MODEL.CODEC", "unbiased", "TEST.FLIP_TEST", "False")


@pytest.fixture
def data(coco_root, tmp_path):
    """Rendered images with COCO's joints."""
    return build_evaluation_set(tiny_config(coco_root, tmp_path))


class CrowdPoseOracle(Oracle):
    """Ground-truth maps of CrowdPose's joints for people with COCO's; head and neck lie at `at`."""

    at = (0.0, 0.0)

    def set_records(self, records):
        body = [COCO.joints.index(name) for name in BODY]
        self.records = []
        for record in records:
            others = np.tile(np.float32([*self.at, 1]), (len(record.joints), 2, 1))
            joints = np.concatenate([record.joints[:, body], others], axis=1)
            self.records.append(record._replace(joints=joints))


def oracle_predictions(data, at):
    """People of ground-truth maps of CrowdPose's joints on the COCO images `data`."""
    cfg = load_config(YAMLS["crowd_pose"], SHARP)
    settings = replace(settings_of(cfg), scored=tuple(range(12)))
    oracle = CrowdPoseOracle.from_config(cfg)
    oracle.at = at
    predictions, problems = predict_set(settings, oracle, data)
    assert problems == []
    return predictions


@pytest.mark.parametrize("at", [(0, 0), (60, 50)])
def test_perfect_maps_of_other_joints_have_ap_1_over_the_shared(data, at):
    reduced = reduced_to(data, shared_joints(COCO, CROWD_POSE))
    assert reduced.spec.joints == BODY
    assert score_predictions(reduced, oracle_predictions(data, at))["AP"] == pytest.approx(1)


def test_metric_and_sigmas_are_those_of_the_data_set(data):
    spec = reduced_to(data, BODY).spec
    assert (spec.metric, spec.use_area, spec.layout) == (COCO.metric, True, "coco")
    assert spec.sigmas == COCO.sigmas[5:]
    assert spec.flip_index == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10]
    assert CROWD_POSE.limited_to(COCO.joints).uncounted == ()


def test_people_without_a_shared_joint_are_not_judged(data):
    """Their other joints are labelled; a detection of somebody else is still missed."""
    first, *rest = data.ground_truth["annotations"]
    faces = first["keypoints"][:15] + [0] * 36
    tree = {**data.ground_truth, "annotations": [{**first, "keypoints": faces}, *rest]}
    reduced = reduced_to(data._replace(ground_truth=tree), BODY)
    assert [one["num_keypoints"] > 0 for one in reduced.ground_truth["annotations"]] == [
        False,
        *(any(one["keypoints"][17::3]) for one in rest),
    ]
    people = [
        Prediction(one["image_id"], np.reshape(one["keypoints"], (1, 17, 3))[:, 5:], [0.9])
        for one in rest
    ]
    assert score_predictions(reduced, people)["AP"] == pytest.approx(1)
    assert score_predictions(reduced, people[1:])["AP"] < 1


def test_no_shared_joint_is_an_error():
    other = replace(CROWD_POSE, name="hand", joints=("thumb",))
    with pytest.raises(ValueError, match="coco and hand share no joint: nose, .* and thumb$"):
        shared_joints(COCO, other)


# --- the script ---------------------------------------------------------------------------


@pytest.fixture(params=["bare", "recorded"])
def weights(request, crowd_pose_root, tmp_path):
    """A network of CrowdPose's 14 joints."""
    cfg = tiny_config(crowd_pose_root, tmp_path, data_set="crowd_pose")
    model = build_model(cfg, TINY)
    with torch.no_grad():
        fill(model, 3)
    path = tmp_path / "weights.pth.tar"
    if request.param == "bare":
        save_weights(path, model)
    else:
        save_checkpoint(path, state_dict=model.state_dict(), config=cfg.dump(), epoch=1)
    return path


@pytest.fixture
def args(coco_root, tmp_path, weights):
    TINY.to_json(tmp_path / "tiny.json")
    model = ("TEST.MODEL_FILE", str(weights), *KEYS)
    return lambda *opts: command("coco", tmp_path / "tiny.json", coco_root, tmp_path, *opts, *model)


def test_other_joints_are_refused_unless_the_shared_are_asked_for(call, args):
    assert_one_line(call("valid", *args()), "14 joints", "the 17 of coco", "--joints shared")


def test_the_shared_joints_are_named_with_the_result(call, args, tmp_path):
    reports = ("--json", str(tmp_path / "table.json"), "--report", str(tmp_path / "page"))
    done = call("valid", *args("--joints", "shared", *reports))
    assert (done.code, done.err) == (0, "")
    assert f"scored over the 12 joints that both have: {', '.join(BODY)}" in done.out
    assert "only the network has them: head, neck" in done.out
    assert "| tiny, 12 shared joints |" in done.out
    assert json.loads((tmp_path / "table.json").read_text())["joints"] == list(BODY)
    assert f"<dd>12: {', '.join(BODY)}</dd>" in (tmp_path / "page/index.html").read_text()
    [results] = tmp_path.glob("output/*/*/*/results/*.json")
    rows = json.loads(results.read_text())
    assert {len(row["keypoints"]) for row in rows} == {36}


def test_ground_truth_maps_have_no_other_joints(call, args):
    done = call("valid", *args("--joints", "shared", "--oracle", "tags"))
    assert_one_line(done, "--joints shared and --oracle")
