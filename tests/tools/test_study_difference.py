"""The AP of two networks on the same images, and on draws of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lib.core.evaluate import score_rows
from lib.keypoints import COCO, CROWD_POSE, KeypointSpec
from lib.utils.checkpoint import save_checkpoint
from tests.helpers import TINY, network, tiny_config
from tools.study import difference, score

NEW, OLD = "litepose-xs-crowdpose-v2", "litepose-xs-crowdpose"
SMALL = ["DATASET.INPUT_SIZE", "128", "DATASET.MAX_IMAGES", "2", "WORKERS", "0"]


def person(image: int, number: int, spec: KeypointSpec) -> dict[str, Any]:
    xy = np.random.default_rng(number).uniform(10, 90, (spec.num_joints, 2))
    joints = np.hstack([xy, np.full((spec.num_joints, 1), 2)]).ravel().tolist()
    shared = {"image_id": image, "category_id": 1, "keypoints": joints}
    box = {"bbox": [10, 10, 80, 80], "area": 6400, "num_keypoints": spec.num_joints}
    return {**shared, **box, "id": number, "iscrowd": 0}


def scene(people: dict[int, int], spec: KeypointSpec = COCO) -> tuple[dict[str, Any], list]:
    """Ground truth of image -> number of people, and the result rows of two networks.

    The first network finds everybody, the second the people of odd images.
    """
    numbers = iter(range(1, 100))
    annotations = [
        person(image, next(numbers), spec) for image, count in people.items() for _ in range(count)
    ]
    tree = {
        "images": [{"id": image, "width": 100, "height": 100, "crowdIndex": 0} for image in people],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    keys = ("image_id", "category_id", "keypoints")
    rows = [{**{key: one[key] for key in keys}, "score": 0.5} for one in annotations]
    return tree, [rows, [row for row in rows if row["image_id"] % 2]]


@pytest.mark.parametrize("spec", [COCO, CROWD_POSE])
def test_ap_of_all_images_is_that_of_the_evaluation(spec):
    people = {7: 2, 8: 1, 11: 3, 12: 0}
    tree, rows = scene(people, spec)
    evaluations = [difference.match(spec, tree, one) for one in rows]
    ap = difference.draws_of(evaluations, 3, np.random.default_rng(0))
    assert ap.shape == (4, 2)
    assert ap[0].tolist() == [score_rows(spec, tree, one)["AP"] for one in rows]
    assert ap[0, 0] == pytest.approx(1.0)
    assert 0 < ap[0, 1] < 1


def test_an_image_that_is_drawn_twice_counts_twice():
    """Of the people of images 7, 7, 8 the second network finds two of three: recall .667."""
    tree, rows = scene({7: 1, 8: 1, 10: 0})
    everybody, some = (difference.match(COCO, tree, one) for one in rows)
    picks = [np.array([0, 0, 1]), np.array([0, 0, 0]), np.array([1, 1, 2])]
    assert difference.drawn_ap(everybody, picks) == pytest.approx([1.0, 1.0, 1.0])
    assert difference.drawn_ap(some, picks) == pytest.approx([67 / 101, 1.0, 0.0])


def test_a_draw_without_people_says_nothing():
    tree, rows = scene({7: 1, 8: 0})
    found = difference.match(COCO, tree, rows[0])
    empty, full = difference.drawn_ap(found, [np.array([1, 1]), np.array([0, 1])])
    assert np.isnan(empty)
    assert full == pytest.approx(1.0)


def test_a_network_that_finds_nobody_has_an_ap_of_0():
    tree, _ = scene({7: 2, 8: 1})
    assert difference.drawn_ap(difference.match(COCO, tree, []), [np.arange(2)]) == [0.0]


@pytest.mark.parametrize("spec", [COCO, CROWD_POSE])
def test_ground_truth_and_rows_stay_as_they_are(spec):
    tree, rows = scene({7: 2, 8: 1}, spec)
    before = json.dumps([tree, rows])
    difference.match(spec, tree, rows[0])
    assert json.dumps([tree, rows]) == before


def test_an_interval_has_ninety_of_a_hundred_draws():
    draws = np.arange(101) / 100  # differences: 0, .01, ..., 1
    ap = np.stack([np.r_[0.75, draws], np.r_[0.5, np.zeros(101)]], axis=1)
    passes = np.repeat(ap, 2, axis=1)  # --model in one pass and two, then --than
    passes[:, 0] = -1
    lines = difference.table({"one": passes}, {"one": 9}, "flip test").splitlines()
    assert lines[2] == "| one | 9 | 0.750 | 0.500 | +0.250 | +0.050 to +0.950 |"


def run(call_tool, *flags: object) -> Any:
    return call_tool(difference.main, "--model", NEW, *flags, *SMALL)


def test_a_network_is_not_above_itself(call_tool, coco_root):
    where = ["--set", "rendered", coco_root, "coco", "val2017"]
    done = run(call_tool, "--than", NEW, "--draws", "3", *where)
    assert done.code == 0, done.err
    rows = [line for line in done.out.splitlines() if line.startswith("| rendered")]
    assert [row.split("|")[-3:-1] for row in rows] == [[" +0.000 ", " +0.000 to +0.000 "]] * 2


def test_ap_is_that_of_the_score_tool(call_tool, coco_root, tmp_path):
    sets = ["--set", "rendered", coco_root, "coco", "val2017"]
    sets += ["--set", "training", coco_root, "coco", "train2017"]
    done = run(call_tool, "--than", OLD, "--draws", "2", *sets)
    assert done.code == 0, done.err
    for place, model in ((3, NEW), (4, OLD)):
        report = tmp_path / f"{model}.json"
        scored = call_tool(score.main, "--model", model, "--json", report, *sets, *SMALL)
        assert scored.code == 0, scored.err
        table = json.loads(report.read_text(encoding="utf-8"))
        for name in ("rendered", "training"):
            rows = [line for line in done.out.splitlines() if line.startswith(f"| {name} ")]
            ap = [row.split("|")[place].strip() for row in rows]
            assert ap == [f"{value:.3f}" for value in table[name].values()]
    means = [line for line in done.out.splitlines() if line.startswith("| mean | 4 |")]
    assert len(means) == len(score.PASSES)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--than", OLD, "--draws", "0"], "--draws is 0; wanted a number of at least 1"),
        (["--than", OLD, "--set", "rendered", "a", "coco", "b"], "two --set have the same name"),
        (["--than", "missing.pth.tar"], "there is no checkpoint missing.pth.tar"),
    ],
)
def test_bad_flags_are_refused_in_one_line(call_tool, coco_root, flags, message):
    done = run(call_tool, *flags, "--set", "rendered", coco_root, "coco", "val2017")
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_networks_of_other_joints_are_refused(call_tool, coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path)
    path = tmp_path / "tiny.pth.tar"
    state = network(cfg).state_dict()
    save_checkpoint(path, state_dict=state, arch=TINY.to_dict(), config=cfg.dump())
    done = run(call_tool, "--than", path, "--set", "rendered", coco_root, "coco", "val2017")
    assert (done.code, done.out) == (2, "")
    assert f"{NEW} and {path} have other joints" in done.err
