"""Every error made on purpose is found in its own class and in no other."""

from __future__ import annotations

import contextlib
import gzip
import io
import json

import numpy as np
import pytest

from lib.analysis.breakdown import with_areas
from lib.analysis.diagnose import CLASSES, Diagnosis, diagnose, diagnosis_table
from lib.dataset.reader import ground_truth_of, read_annotations
from lib.keypoints import COCO, CROWD_POSE, KeypointSpec
from tests.helpers import GOLDEN, TINY, YAMLS, pycocotools_evaluation, read_records, tiny_opts

AREA = 10_000.0  # s is 100 pixels
NOSE, WRIST, OTHER_WRIST, ANKLE = (
    COCO.joints.index(name) for name in ("nose", "left_wrist", "right_wrist", "left_ankle")
)
FAR = 10_000.0


def person(left: float, spec: KeypointSpec = COCO) -> np.ndarray:
    """(K, 3), all labelled, at least 60 pixels from one another."""
    rows, columns = np.divmod(np.arange(spec.num_joints), 4)
    return np.stack([left + 60 * columns, 60 * rows, np.full(spec.num_joints, 2)], axis=1) + 0.0


@pytest.fixture
def two() -> np.ndarray:
    """(2, K, 3): two people, far from one another."""
    return np.stack([person(0), person(1000)])


def annotation(joints: np.ndarray, **fields) -> dict:
    low, high = joints[:, :2].min(axis=0), joints[:, :2].max(axis=0)
    labelled = joints[:, 2] > 0
    return {
        "image_id": 7,
        "category_id": 1,
        "iscrowd": 0,
        "keypoints": joints.flatten().tolist(),
        "num_keypoints": int(labelled.sum()),
        "bbox": [*low, *(high - low)],
        "area": AREA,
    } | fields


def row(joints: np.ndarray, score: float = 0.9, image_id: int = 7) -> dict:
    keypoints = joints.flatten().tolist()
    return {"image_id": image_id, "category_id": 1, "keypoints": keypoints, "score": score}


def tree_of(*annotations: dict, image_ids: tuple[int, ...] = (7,)) -> dict:
    """Ground truth: an annotation tree."""
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 3000, "height": 900} for i in image_ids]
    people = [a | {"id": i} for i, a in enumerate(annotations, 1)]
    categories = [{"id": 1, "name": "person"}]
    return {"images": images, "annotations": people, "categories": categories}


def judge(annotated: np.ndarray, detected: np.ndarray) -> Diagnosis:
    """Both (P, K, 3)."""
    return diagnose(COCO, tree_of(*map(annotation, annotated)), [row(one) for one in detected])


def errors(diagnosis: Diagnosis) -> dict[tuple[str, str], int]:
    """Joint, class -> count, but for good ones."""
    return {
        (COCO.joints[joint], CLASSES[kind]): int(diagnosis.joints[joint, kind])
        for joint, kind in np.argwhere(diagnosis.joints)
        if CLASSES[kind] != "good"
    }


def people(diagnosis: Diagnosis) -> tuple[int, int, int]:
    return diagnosis.detected, diagnosis.missed, diagnosis.false


def offset_of(ks: float, joint: int) -> float:
    """How far from its place a joint of an `AREA` person has this similarity."""
    return float(np.sqrt(-2 * AREA * (2 * COCO.sigmas[joint]) ** 2 * np.log(ks)))


# --- the classes ------------------------------------------------------------------------


def test_perfect_predictions_are_good(two):
    diagnosis = judge(two, two)
    assert errors(diagnosis) == {}
    assert diagnosis.joints.sum() == 34
    assert people(diagnosis) == (2, 0, 0)


@pytest.mark.parametrize(
    ("ks", "expected"), [(0.86, {}), (0.84, "jitter"), (0.51, "jitter"), (0.49, "missed")]
)
@pytest.mark.parametrize("joint", [NOSE, ANKLE])
def test_a_shifted_joint_is_good_then_jitter_then_missed(two, joint, ks, expected):
    found = two.copy()
    found[0, joint, 1] -= offset_of(ks, joint)  # away from the others or not near enough to them
    diagnosis = judge(two, found)
    assert errors(diagnosis) == ({(COCO.joints[joint], expected): 1} if expected else {})
    assert people(diagnosis) == (2, 0, 0)


def test_exchanged_left_and_right_are_inversions(two):
    found = two.copy()
    found[0, [WRIST, OTHER_WRIST]] = two[0, [OTHER_WRIST, WRIST]]
    assert errors(judge(two, found)) == {
        ("left_wrist", "inversion"): 1,
        ("right_wrist", "inversion"): 1,
    }


def test_an_ankle_on_the_own_wrist_is_an_inversion(two):
    found = two.copy()
    found[1, ANKLE] = two[1, WRIST]
    assert errors(judge(two, found)) == {("left_ankle", "inversion"): 1}


def test_exchanged_wrists_of_two_people_are_swaps(two):
    found = two.copy()
    found[[0, 1], WRIST] = two[[1, 0], WRIST]
    assert errors(judge(two, found)) == {("left_wrist", "swap"): 2}


def test_a_wrist_on_another_persons_ankle_is_a_swap(two):
    found = two.copy()
    found[0, WRIST] = two[1, ANKLE]
    assert errors(judge(two, found)) == {("left_wrist", "swap"): 1}


@pytest.mark.parametrize(
    ("own", "others", "expected"), [(0.9, 0.6, "inversion"), (0.6, 0.9, "swap")]
)
def test_the_nearer_of_two_wrong_joints_decides(two, own, others, expected):
    place = np.array([400.0, 700.0])
    two[0, OTHER_WRIST, :2] = place + (offset_of(own, OTHER_WRIST), 0)
    two[1, WRIST, :2] = place - (offset_of(others, WRIST), 0)
    found = two.copy()
    found[0, WRIST, :2] = place
    assert errors(judge(two, found)) == {("left_wrist", expected): 1}


def test_nobody_is_confused_with_joints_that_are_not_labelled(two):
    found = two.copy()
    found[0, [WRIST, OTHER_WRIST]] = two[0, [OTHER_WRIST, WRIST]]
    two[0, OTHER_WRIST, 2] = 0
    assert errors(judge(two, found)) == {("left_wrist", "missed"): 1}


def test_joints_that_are_not_labelled_are_not_counted(two):
    two[0, 5:, 2] = 0
    found = two.copy()
    found[0, 5:, :2] += FAR
    diagnosis = judge(two, found)
    assert errors(diagnosis) == {}
    assert diagnosis.joints.sum() == 5 + 17


def test_similarity_grows_with_the_person(two):
    found = two.copy()
    found[0, NOSE, 1] -= offset_of(0.84, NOSE)
    for area, expected in ((AREA, {("nose", "jitter"): 1}), (2 * AREA, {})):
        tree = tree_of(*(annotation(one, area=area) for one in two))
        assert errors(diagnose(COCO, tree, [row(one) for one in found])) == expected


@pytest.mark.parametrize("spec", [COCO, CROWD_POSE], ids=lambda spec: spec.name)
def test_areas_come_from_boxes_where_there_are_no_others(spec):
    joints, box = person(0, spec), [0, 0, 100, AREA / 0.53 / 100]
    # CrowdPose has no areas, whatever a file says.
    fields = {"area": 9 * AREA} if spec is CROWD_POSE else {}
    plain = annotation(joints, bbox=box)
    del plain["area"]
    tree = tree_of(plain | fields)
    knee = spec.joints.index("left_knee")
    for ks, good in ((0.86, True), (0.84, False)):
        found = joints.copy()
        found[knee, 0] -= float(np.sqrt(-2 * AREA * (2 * spec.sigmas[knee]) ** 2 * np.log(ks)))
        assert (diagnose(spec, tree, [row(found)]).joints[knee, 0] == 1) == good


# --- people -----------------------------------------------------------------------------


def test_all_joints_of_a_person_nobody_found_are_of_one_class(two):
    diagnosis = judge(two, two[:1])
    assert errors(diagnosis) == {(name, "person missed"): 1 for name in COCO.joints}
    assert people(diagnosis) == (1, 1, 0)


def test_a_false_person_is_false_and_changes_nothing_else(two):
    diagnosis = judge(two, np.concatenate([two, two[:1] + (FAR, 0, 0)]))
    assert errors(diagnosis) == {}
    assert people(diagnosis) == (2, 0, 1)


def test_a_second_detection_of_a_person_is_false(two):
    assert people(judge(two, two[[0, 1, 1]])) == (2, 0, 1)


def test_faint_false_people_are_not_counted(two):
    tree = tree_of(annotation(two[0]))
    faint, sure = row(two[1], 0.19), row(two[1], 0.2)
    assert people(diagnose(COCO, tree, [row(two[0], 0.01), faint])) == (1, 0, 0)
    assert people(diagnose(COCO, tree, [row(two[0], 0.01), sure])) == (1, 0, 1)


def test_the_better_scored_detection_is_the_persons(two):
    tree = tree_of(annotation(two[0]))
    worse = two[0] - (offset_of(0.8, NOSE), 0, 0)
    first = diagnose(COCO, tree, [row(two[0], 0.5), row(worse, 0.4)])
    second = diagnose(COCO, tree, [row(two[0], 0.4), row(worse, 0.5)])
    assert errors(first) == {}
    assert ("nose", "jitter") in errors(second)
    assert people(first) == people(second) == (1, 0, 1)


def test_only_the_twenty_best_scored_of_an_image_count(two):
    tree = tree_of(annotation(two[0]))
    others = [row(two[1], 0.9)] * 20
    assert people(diagnose(COCO, tree, [*others, row(two[0], 0.8)])) == (0, 1, 20)
    assert people(diagnose(COCO, tree, [*others, row(two[0], 1.0)])) == (1, 0, 19)


def test_nobody_found(two):
    diagnosis = judge(two, two[:0])
    assert errors(diagnosis) == {(name, "person missed"): 2 for name in COCO.joints}
    assert people(diagnosis) == (0, 2, 0)


def test_nobody_there(two):
    assert people(judge(two[:0], two)) == (0, 0, 2)
    nothing = judge(two[:0], two[:0])
    assert people(nothing) == (0, 0, 0)
    assert nothing.joints.sum() == 0
    assert "| all | 0 | 0.0 % |" in diagnosis_table(COCO, nothing)


@pytest.mark.parametrize(
    ("fields", "false"),
    [
        # A crowd takes all detections on it; a person without keypoints, one.
        ({"iscrowd": 1, "keypoints": [0.0] * 51, "num_keypoints": 0}, 0),
        ({"keypoints": [0.0] * 51, "num_keypoints": 0}, 1),
        ({"iscrowd": 1}, 0),
        # As in CrowdPose, where head and neck are no keypoints.
        ({"num_keypoints": 0}, 1),
    ],
)
def test_people_who_are_not_judged_are_neither_missed_nor_false(two, fields, false):
    tree = tree_of(annotation(two[0]), annotation(two[1], **fields))
    nobody = diagnose(COCO, tree, [row(two[0])])
    twice = diagnose(COCO, tree, [row(two[0]), row(two[1]), row(two[1])])
    assert people(nobody) == (1, 0, 0)
    assert people(twice) == (1, 0, false)
    assert errors(nobody) == errors(twice) == {}
    assert nobody.joints.sum() == twice.joints.sum() == 17


def test_a_judged_person_goes_before_a_crowd(two):
    crowd = annotation(two[0], iscrowd=1, keypoints=[0.0] * 51, num_keypoints=0)
    shifted = two[0] + (offset_of(0.5, WRIST), 0, 0)
    tree = tree_of(crowd, annotation(two[0]))
    assert people(diagnose(COCO, tree, [row(shifted)])) == (1, 0, 0)


def test_images_add_up_and_only_those_of_the_ground_truth_count(two):
    other = annotation(two[1], image_id=8)
    tree = tree_of(annotation(two[0]), other, image_ids=(7, 8, 9))
    rows = [row(two[0]), row(two[0], image_id=8), row(two[0], image_id=9)]
    assert people(diagnose(COCO, tree, rows)) == (1, 1, 2)
    assert people(diagnose(COCO, tree_of(annotation(two[0])), rows)) == (1, 0, 0)


def evaluators_people(tree: dict, rows: list[dict], spec: KeypointSpec) -> tuple[int, int, int]:
    """Detected, missed, false as pycocotools matches at OKS 0.1."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = pycocotools_evaluation(spec, tree, rows)
        evaluation.params.iouThrs = np.array([0.1])
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.evaluate()
    total = np.zeros(3, int)
    for image in filter(None, evaluation.evalImgs):
        judged = ~np.array(image["gtIgnore"], bool)
        hit = np.array(image["gtMatches"])[0] > 0
        wrong = (image["dtMatches"][0] == 0) & ~image["dtIgnore"][0].astype(bool)
        sure = np.array(image["dtScores"]) >= 0.2
        total += [(hit & judged).sum(), (~hit & judged).sum(), (wrong & sure).sum()]
    return tuple(total.tolist())


def test_people_are_matched_as_the_evaluators_match_them():
    """Crowded images, with crowds and people without keypoints among them."""
    rng = np.random.default_rng(0)
    annotations, rows = [], []
    for image_id in range(12):
        for i in range(15):
            joints = person(rng.uniform(0, 400)) * (1, 1, rng.random() < 0.8)
            kind = {2: {"iscrowd": 1}, 5: {"num_keypoints": 0}}.get(i, {})
            fields = {"area": rng.uniform(0.3, 3) * AREA, "image_id": image_id}
            annotations.append(annotation(joints, **fields, **kind))
            for _ in range(2):
                found = joints + rng.normal(0, 40, joints.shape)
                rows.append(row(found, rng.random(), image_id))
    tree = tree_of(*annotations, image_ids=tuple(range(12)))
    expected = evaluators_people(tree, rows, COCO)
    assert min(expected) > 10
    assert people(diagnose(COCO, tree, rows)) == expected


@pytest.mark.data
def test_the_recorded_results_are_matched_as_the_evaluators_match_them(data_root):
    rows = json.loads(gzip.decompress((GOLDEN / "crowdpose_val_results.json.gz").read_bytes()))
    path = data_root / "crowd_pose/json/crowdpose_val.json"
    tree = ground_truth_of(read_annotations(path, CROWD_POSE), read_records(path, CROWD_POSE)[:400])
    ids = {image["id"] for image in tree["images"]}
    rows = [row for row in rows if row["image_id"] in ids]
    assert people(diagnose(CROWD_POSE, tree, rows)) == evaluators_people(
        with_areas(CROWD_POSE, tree), rows, CROWD_POSE
    )


# --- the table --------------------------------------------------------------------------


def test_the_table_has_shares_by_part_of_the_body(two):
    found = two.copy()
    found[0, WRIST] = two[1, WRIST]
    found[1, NOSE] += FAR
    assert diagnosis_table(COCO, judge(two, found)).splitlines() == [
        "| Joints | labelled | good | jitter | inversion | swap | missed | person missed |",
        "|---|---|---|---|---|---|---|---|",
        "| head | 10 | 90.0 % | 0.0 % | 0.0 % | 0.0 % | 10.0 % | 0.0 % |",
        "| arms | 12 | 91.7 % | 0.0 % | 0.0 % | 8.3 % | 0.0 % | 0.0 % |",
        "| legs | 12 | 100.0 % | 0.0 % | 0.0 % | 0.0 % | 0.0 % | 0.0 % |",
        "| all | 34 | 94.1 % | 0.0 % | 0.0 % | 2.9 % | 2.9 % | 0.0 % |",
        "",
        "| People | found | missed | false, score >= 0.2 |",
        "|---|---|---|---|",
        "| 2 | 2 | 0 | 0 |",
        "",
        f"| Side | found | missed | labelled | {' | '.join(CLASSES)} |",
        "|---|---|---|---|---|---|---|---|---|---|",
        "| 96 to 144 px | 2 | 0 | 34 | 94.1 % | 0.0 % | 0.0 % | 2.9 % | 2.9 % | 0.0 % |",
    ]


def test_people_and_joints_are_counted_by_size(two):
    small, large = annotation(two[0], area=32.0**2), annotation(two[1], area=300.0**2)
    shifted = two[0].copy()
    shifted[ANKLE] += FAR
    unjudged = annotation(person(2000), area=100.0, num_keypoints=0)
    tree = tree_of(small, large, unjudged)
    lines = diagnosis_table(COCO, diagnose(COCO, tree, [row(shifted)])).splitlines()
    assert lines[-2:] == [
        "| 32 to 48 px | 1 | 0 | 17 | 94.1 % | 0.0 % | 0.0 % | 0.0 % | 5.9 % | 0.0 % |",
        "| from 216 px | 0 | 1 | 17 | 0.0 % | 0.0 % | 0.0 % | 0.0 % | 0.0 % | 100.0 % |",
    ]


def test_every_joint_of_crowd_pose_is_in_one_part():
    joints = person(0, CROWD_POSE)
    tree = tree_of(annotation(joints))
    lines = diagnosis_table(CROWD_POSE, diagnose(CROWD_POSE, tree, [row(joints)])).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:6]] == ["2", "6", "6", "14"]


@pytest.mark.parametrize("data_set", YAMLS)
def test_the_script_says_where_ap_is_lost(request, data_set, tmp_path, call):
    root = request.getfixturevalue(f"{data_set}_root")
    TINY.to_json(tmp_path / "tiny.json")
    args = ["--cfg", str(YAMLS[data_set]), "--superconfig", str(tmp_path / "tiny.json")]
    args += ["--diagnose", "--oracle", *tiny_opts(root, tmp_path), "DATASET.INPUT_SIZE", "256"]
    done = call("valid", *args)
    assert (done.code, done.err) == (0, "")
    lines = [line.strip("| ").split(" | ") for line in done.out.splitlines() if line[:1] == "|"]
    [everything] = [line for line in lines if line[0] == "all"]
    assert float(everything[2].removesuffix(" %")) > 95  # good: ground-truth maps are
    head = [line[0] for line in lines].index("People")
    total, found, missed, _ = map(int, lines[head + 2])
    assert total == found + missed
    assert total >= 4
    blind = call("valid", *args, "TEST.DETECTION_THRESHOLD", "2.0")
    assert "| 100.0 % |" in next(line for line in blind.out.splitlines() if "| all |" in line)
    assert f"| {total} | 0 | {total} | 0 |" in blind.out


def test_a_split_without_ground_truth_is_not_diagnosed(test_dev_root, tmp_path, call):
    args = ["--cfg", str(YAMLS["coco"]), "--oracle", "--diagnose"]
    args += tiny_opts(test_dev_root, tmp_path)
    done = call("valid", *args, "DATASET.TEST", "test-dev2017")
    assert done.code == 2
    assert done.err.startswith("error: --diagnose: nobody is labelled in ")
    assert done.err.count("\n") == 1
