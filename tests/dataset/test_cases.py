"""Annotations as people have them: read right, or refused in one line; never wrong in silence."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.analysis.diagnose import diagnose
from lib.analysis.oracle import Oracle
from lib.analysis.ranking import rank
from lib.codec import codec_of
from lib.core.evaluate import score_predictions
from lib.core.inference import InferenceSettings
from lib.core.predictions import predict_set
from lib.core.results import Prediction, result_rows
from lib.dataset.build import EvaluationSet, build_dataset, build_evaluation_set
from lib.dataset.reader import ignore_mask, read_annotations
from lib.dataset.samples import collate
from lib.dataset.target_generators import make_targets
from lib.utils import cli
from tests.cases import (
    ABSENT,
    CASES,
    CLEAN,
    EVERY,
    LAYOUTS,
    REPORTED,
    ap_of_shifted,
    base_tree,
    changed,
    config_of,
    each,
    keep_joints,
    one,
    put,
    together,
    write_case,
)
from tools import check_data

SMALL = ("DATASET.INPUT_SIZE", "128", "DATASET.OUTPUT_SIZE", "[32, 64]")
NOT_JUDGED = ("iscrowd-1", "iscrowd-true", "head-and-neck")  # but trained on
PAIRS = [(layout, name) for name in CASES for layout in CASES[name].layouts]
each_case = pytest.mark.parametrize(("layout", "name"), PAIRS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for each layout: the images stay, the annotations are written for each case."""
    return {layout: tmp_path_factory.mktemp(layout) for layout in LAYOUTS}


def attempt(work: Callable[[], Any]) -> tuple[Any, str]:
    """What `work` returns, and the message of its ValueError ("": none)."""
    try:
        return work(), ""
    except ValueError as error:
        return None, str(error)


def check_line(line: str, pattern: str, path: Path) -> None:
    """A line that names the file, and says what `pattern` describes."""
    assert "\n" not in line
    assert path.name in line
    assert pattern, f"refused: {line}"
    assert re.search(pattern, line), line


def perfect(data: EvaluationSet) -> list[Prediction]:
    return [
        Prediction(record.id, record.joints, [0.9] * len(record.joints)) for record in data.records
    ]


def oracle_ap(layout: str, root: Path, *opts: str) -> float:
    """AP of ground-truth maps, as `valid.py --oracle` prints it."""
    cfg = config_of(layout, root, *SMALL, *opts)
    data, oracle = build_evaluation_set(cfg), Oracle.from_config(cfg)
    predictions, problems = predict_set(InferenceSettings.from_config(cfg), oracle, data)
    assert problems == []
    return score_predictions(data, predictions)["AP"]


@each_case
def test_a_file_is_read_right_or_refused(layout: str, name: str, folders: dict[str, Path]) -> None:
    case, root = CASES[name], folders[layout]
    path = write_case(root, layout, changed(layout, case.change))
    cfg = config_of(layout, root, *SMALL)
    data, line = attempt(lambda: build_evaluation_set(cfg))
    if line:
        check_line(line, case.line, path)
    else:
        people = sum(len(record.joints) for record in data.records)
        ap = score_predictions(data, perfect(data))["AP"]
        assert case.people is not None, f"read, {people} people, AP {ap:.3f}"
        assert (people, round(ap, 3)) == (case.people, 1.0)
        # A wrong scale would change the score of people who are off by some pixels.
        assert case.least <= round(ap_of_shifted(data, layout), 3) <= CLEAN
        if name in REPORTED:
            assert oracle_ap(layout, root) == pytest.approx(1)
    dataset, line = attempt(lambda: build_dataset(cfg))
    if line:
        check_line(line, case.line, path)
        return
    assert case.people is not None or name in NOT_JUDGED
    samples = [dataset[0, index] for index in range(len(dataset))]
    assert all(np.isfinite(sample.joints).all() for sample in samples)
    assert all(np.isfinite(sample.sigmas).all() for sample in samples)
    assert case.people in (None, sum(len(record.joints) for record in dataset.records))


@each_case
def test_check_data_names_what_is_refused(
    layout: str, name: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    case, root = CASES[name], folders[layout]
    path = write_case(root, layout, changed(layout, case.change))
    _, line = attempt(lambda: build_evaluation_set(config_of(layout, root)))
    opts = [*LAYOUTS[layout].opts, "DATASET.ROOT", str(root), "WORKERS", "1"]
    argv = ["--cfg", str(LAYOUTS[layout].yaml), "--no-decode", *opts]
    code = cli.code_of(lambda: check_data.main(argv))
    output = capsys.readouterr()
    if code == cli.MISTAKE:
        assert output.err.count("\n") == 1
        assert path.name in output.err
    else:
        assert output.err == ""
        assert (code == 0) <= (not line), f"evaluation says {line}; check_data\n{output.out}"
        if case.people is None:
            assert "0 broken or missing, 0 odd" not in output.out


@pytest.mark.parametrize("layout", EVERY)
def test_complete_annotations_are_left_as_they_are(layout: str, tmp_path: Path) -> None:
    tree = base_tree(layout)
    path = write_case(tmp_path, layout, tree)
    read = read_annotations(path, LAYOUTS[layout].spec)
    assert {key: read[key] for key in ("images", "annotations")} == {
        key: tree[key] for key in ("images", "annotations")
    }


# --- what the cases of the reports look like in training -----------------------------------


def test_a_car_is_nobody_and_its_region_counts(tmp_path: Path) -> None:
    write_case(tmp_path, "coco", changed("coco", CASES["merged-instances"].change))
    dataset = build_dataset(config_of("coco", tmp_path))
    assert all((ignore_mask(record) == 255).all() for record in dataset.records)


@pytest.mark.parametrize("layout", EVERY)
def test_incomplete_annotations_have_the_targets_of_complete_ones(
    layout: str, tmp_path: Path
) -> None:
    lacking = dict.fromkeys(("id", "area", "iscrowd", "num_keypoints", "category_id"), ABSENT)
    cfg, targets = config_of(layout, tmp_path, *SMALL), []
    for change in (lambda tree: None, each(**lacking)):
        write_case(tmp_path, layout, changed(layout, change))
        dataset = build_dataset(cfg)
        batch = collate([dataset[0, index] for index in range(len(dataset))])
        targets.append(
            make_targets(
                joints=batch.joints,
                flipped=batch.flipped,
                sigmas=batch.sigmas,
                masks=batch.masks,
                crop_size=128,
                codec=codec_of(cfg),
            )
        )
    complete, derived = (np.concatenate([h.ravel() for h in t.heatmaps]) for t in targets)
    assert complete.max() > 0.5
    np.testing.assert_array_equal(complete, derived)


@pytest.mark.parametrize(
    ("layout", "name"), [pair for pair in PAIRS if CASES[pair[1]].people and pair[1] in REPORTED]
)
def test_reports_agree_with_the_scores(layout: str, name: str, folders: dict[str, Path]) -> None:
    case, root = CASES[name], folders[layout]
    write_case(root, layout, changed(layout, case.change))
    data, line = attempt(lambda: build_evaluation_set(config_of(layout, root)))
    if line:
        return
    predictions = perfect(data)
    assert sum(one.detected for one in rank(data, predictions)) == case.people
    diagnosis = diagnose(data.spec, data.ground_truth, result_rows(data.spec, predictions))
    assert (diagnosis.detected, diagnosis.missed, diagnosis.false) == (case.people, 0, 0)


# --- choices of images, and test-dev --------------------------------------------------------


@pytest.mark.parametrize("layout", EVERY)
def test_a_choice_of_images_in_which_nobody_is_labelled_is_refused(
    layout: str, tmp_path: Path
) -> None:
    def only_the_last(tree: dict[str, Any]) -> None:
        tree["annotations"] = [one for one in tree["annotations"] if one["image_id"] == 3]

    path = write_case(tmp_path, layout, changed(layout, only_the_last))
    cfg = config_of(layout, tmp_path, "DATASET.MAX_IMAGES", "2")
    with pytest.raises(ValueError, match=rf"{path.name}.*|nobody is labelled"):
        build_evaluation_set(cfg)


@pytest.mark.parametrize("key", ["lacks", "empty"])
def test_test_dev_needs_no_annotations(key: str, tmp_path: Path) -> None:
    tree = base_tree("coco")
    put(tree, {"annotations": {"lacks": ABSENT, "empty": []}[key]})
    path = write_case(tmp_path, "coco", tree)
    path.rename(path.with_name("image_info_test-dev2017.json"))
    (tmp_path / "images/val2017").rename(tmp_path / "images/test2017")
    data = build_evaluation_set(config_of("coco", tmp_path, "DATASET.TEST", "test-dev2017"))
    assert not data.has_people
    assert len(data.records) == 3


# --- areas without extent -------------------------------------------------------------------

WAYS = {
    "horizontal": lambda u: (u, 0.5),
    "vertical": lambda u: (0.5, u),
    "almost horizontal": lambda u: (u, 0.5 + 0.005 * u),
    "diagonal": lambda u: (u / math.sqrt(2), u / math.sqrt(2)),
}


def lie(tree: dict[str, Any], way: Callable[[float], tuple[float, float]]) -> None:
    """Put the joints of everybody on a line of 60 pixels, and give no scale."""
    for annotation in tree["annotations"]:
        x, y = annotation["bbox"][:2]
        count = len(annotation["keypoints"]) // 3
        line = [way(k / (count - 1)) for k in range(count)]
        values = [v for u, w in line for v in (x + 60 * u, y + 60 * w, 2)]
        put(annotation, {"keypoints": values, "bbox": ABSENT, "area": ABSENT})


def ap_moved(layout: str, root: Path, pixels: float) -> float:
    data = build_evaluation_set(config_of(layout, root))
    moved = [p._replace(people=p.people + (pixels, 0, 0)) for p in perfect(data)]
    return score_predictions(data, moved)["AP"]


@pytest.mark.parametrize("layout", EVERY)
def test_ap_of_an_error_in_pixels_does_not_depend_on_how_joints_lie(
    layout: str, tmp_path: Path
) -> None:
    found = {}
    for name, way in WAYS.items():
        write_case(tmp_path, layout, changed(layout, lambda tree, way=way: lie(tree, way)))
        found[name] = ap_moved(layout, tmp_path, 2.0)
    assert 0.3 < found["diagonal"] < 1
    assert set(found.values()) == {found["diagonal"]}


@pytest.mark.parametrize("layout", EVERY)
def test_one_object_without_extent_among_others_is_judged_at_their_scale(
    layout: str, tmp_path: Path
) -> None:
    def one_joint(tree: dict[str, Any]) -> None:
        keep_joints(0)({"annotations": tree["annotations"][2:3]})

    found = []
    for change in (one_joint, together(one_joint, one(bbox=ABSENT, area=ABSENT))):
        write_case(tmp_path, layout, changed(layout, change))
        found.append(ap_moved(layout, tmp_path, 4.0))
    assert found[0] == found[1] < 1


# --- joints files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "joints",
    [
        ["stem"],
        ["nose", "L_Eye", "R_Eye", "L_Ear", "R_Ear"],
        ["nose", "eye_left", "eye_right", "ear_left", "ear_right"],
        ["nase", "fl\u00fcgel", "fu\u00df"],
    ],
    ids=lambda joints: joints[-1],
)
def test_objects_of_other_joints_are_found(joints: list[str], tmp_path: Path) -> None:
    file = tmp_path / "joints.yaml"
    file.write_text(f"name: other\njoints: [{', '.join(joints)}]\nsigmas: 0.07\n", "utf-8")

    def change(tree: dict[str, Any]) -> None:
        tree["categories"][0]["keypoints"] = joints
        for annotation in tree["annotations"]:
            annotation["keypoints"] = annotation["keypoints"][: 3 * len(joints)]
            annotation["num_keypoints"] = len(joints)

    write_case(tmp_path, "custom", changed("custom", change))
    assert oracle_ap("custom", tmp_path, "DATASET.DATASET", str(file)) == pytest.approx(1)
