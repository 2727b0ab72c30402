"""What annotations lack is derived, the same in all layouts; nothing is lost in silence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as rle_tools

from lib.core.evaluate import score_rows
from lib.dataset.complete import Completed, complete
from lib.keypoints import COCO, CROWD_POSE, KeypointSpec
from lib.utils.reading import read_json

PATH = Path("a.json")
IMAGE = {"id": 7, "file_name": "7.jpg", "width": 200, "height": 100}
SPECS = [COCO, CROWD_POSE]
OFFICIAL = "coco/annotations/person_keypoints_val2017.json", "crowd_pose/json/crowdpose_val.json"


def keypoints_at(spec: KeypointSpec, points: list[tuple[float, float]]) -> list[float]:
    """The first joints at `points`; the others are not labelled."""
    labelled = [value for x, y in points for value in (x, y, 2)]
    return labelled + [0] * (3 * spec.num_joints - len(labelled))


def completed(spec: KeypointSpec, *annotations: dict, image: dict = IMAGE) -> Completed:
    return complete({"images": [image], "annotations": list(annotations)}, spec, PATH)


def person(spec: KeypointSpec, *points: tuple[float, float], **fields) -> dict:
    return {"image_id": 7, "keypoints": keypoints_at(spec, list(points)), **fields}


def turned(points: np.ndarray, degrees: float) -> list[tuple[float, float]]:
    angle = math.radians(degrees)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return [(x + 100, y + 50) for x, y in (points @ rotation.T).tolist()]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_score_of_an_error_in_pixels_does_not_depend_on_how_joints_lie(spec):
    """A row of joints, horizontal, vertical or oblique, has the same scale."""
    row = np.array([(-30, 0), (-10, 0), (20, 0), (30, 0)], float)
    scores = []
    for degrees in (0, 30, 45, 90):
        tree = completed(spec, person(spec, *turned(row, degrees))).tree
        found = np.array(tree["annotations"][0]["keypoints"], float).reshape(-1, 3)
        found[:, 0] += 1.2 if spec is COCO else 4  # COCO's eyes are strict
        rows = [
            {"image_id": 7, "category_id": 1, "keypoints": found.flatten().tolist(), "score": 1.0}
        ]
        scores.append(score_rows(spec, tree, rows)["AP"])
    assert 0 < scores[0] < 1
    assert scores == [scores[0]] * 4


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("box", [None, [], [0, 0, 0, 0], [5, 5, -3, 9], [1, math.nan, 2, 2]])
def test_a_box_without_extent_is_that_of_the_joints(spec, box):
    one = person(spec, (10, 10), (40, 50), bbox=box, iscrowd=0, num_keypoints=2, id=1)
    tree, derived, left_out = completed(spec, one)
    [annotation] = tree["annotations"]
    side = math.hypot(30, 40) / math.sqrt(2)
    assert annotation["bbox"] == pytest.approx([25 - side / 2, 30 - side / 2, side, side])
    line = "no bbox with an extent, so it is that of the labelled joints: 1, such as annotations[0]"
    assert line in derived
    assert not left_out


@pytest.mark.parametrize("area", [None, 0, -3, math.nan, math.inf, 200 * 100 + 1])
def test_an_impossible_area_is_a_part_of_the_box(area):
    one = person(COCO, (10, 10), (40, 50), bbox=[0, 0, 50, 60], area=area)
    assert completed(COCO, one).tree["annotations"][0]["area"] == pytest.approx(0.53 * 50 * 60)


def test_a_single_joint_takes_the_scale_of_its_area_or_of_the_others():
    others = [person(COCO, (9, 9), bbox=[0, 0, side, side]) for side in (10, 20, 90)]
    tree = completed(COCO, person(COCO, (30, 40)), *others).tree
    assert tree["annotations"][0]["bbox"] == [20, 30, 20, 20]
    tree = completed(COCO, person(COCO, (30, 40), area=0.53 * 16)).tree
    assert tree["annotations"][0]["bbox"] == pytest.approx([28, 38, 4, 4])
    with pytest.raises(ValueError, match=r"a\.json: annotations\[0\] .* give .* a bbox or an area"):
        completed(COCO, person(COCO, (30, 40)))


def test_coordinates_of_unlabelled_joints_may_be_no_numbers():
    one = person(COCO, (10, 10), (40, 50))
    one["keypoints"][6:12] = [math.nan, math.nan, 0, None, None, None]
    assert completed(COCO, one).tree["annotations"][0]["keypoints"][6:12] == [0] * 6
    one["keypoints"][0] = math.nan
    with pytest.raises(ValueError, match=r"annotations\[0\]: nose is \[nan, 10, 2\]; wanted"):
        completed(COCO, one)


def test_relative_coordinates_are_refused():
    one = person(COCO, (0.2, 0.3), (0.9, 0.1), bbox=[0.1, 0.1, 0.8, 0.8])
    with pytest.raises(ValueError, match="coordinates of all keypoints are from 0 to 1"):
        completed(COCO, one)
    assert completed(COCO, one, person(COCO, (20, 30), (30, 40))).tree  # check_data names it


def test_an_outline_gives_the_box_of_somebody_without_joints():
    mask = np.zeros((100, 200), np.uint8)
    mask[20:50, 60:70] = 1
    rle = rle_tools.encode(np.asfortranarray(mask))
    text = {"size": rle["size"], "counts": rle["counts"].decode()}
    tree = completed(COCO, {"image_id": 7, "segmentation": text}).tree
    assert tree["annotations"][0]["bbox"] == [60, 20, 10, 30]
    assert tree["annotations"][0]["num_keypoints"] == 0


@pytest.mark.parametrize("segmentation", [None, [], [[]], [30, 40], [[30, 40]], [[1, 2, 3, 4]]])
def test_an_annotation_of_which_nothing_is_known_is_left_out_with_a_line(segmentation):
    tree, _, left_out = completed(COCO, {"image_id": 7, "segmentation": segmentation})
    assert not tree["annotations"]
    assert left_out == [
        "annotations without labelled joints, box and outline: 1, such as annotations[0]"
    ]


@pytest.mark.parametrize("counts", ["", "0", "zzzz", "ZZZZ", "0X6"])
def test_an_rle_of_another_number_of_pixels_is_refused(counts):
    one = {"image_id": 7, "segmentation": {"size": [100, 200], "counts": counts}}
    with pytest.raises(ValueError, match=r"annotations\[0\]: the segmentation's counts do not add"):
        completed(COCO, one)


def test_ids_that_are_floats_are_whole_and_others_are_refused():
    image = {"id": 7.0, "file_name": "7.jpg", "width": 200.0, "height": 100}
    one = person(COCO, (10, 10), (40, 50), id=3.0, image_id=7.0, category_id=1.0)
    tree = completed(COCO, one, image=image).tree
    [annotation], [image] = tree["annotations"], tree["images"]
    values = *(annotation[key] for key in ("id", "image_id", "category_id")), image["width"]
    assert values == (3, 7, 1, 200)
    assert {type(value) for value in values} == {int}
    for wrong in ("7", True, 7.5, None, 2**60, math.nan):
        with pytest.raises(ValueError, match=r"a\.json: annotations\[0\] image_id is .*, wanted"):
            completed(COCO, one | {"image_id": wrong})


def test_an_image_listed_twice_counts_once_but_an_id_is_of_one_file():
    tree = {"images": [IMAGE, IMAGE], "annotations": []}
    whole, _, left_out = complete(tree, COCO, PATH)
    assert whole["images"] == [IMAGE]
    assert left_out == ["images listed twice, which count once: 1, such as images[1]"]
    tree["images"][1] = IMAGE | {"file_name": "8.jpg"}
    with pytest.raises(ValueError, match=r"images\[1\]: 8.jpg has the id 7 of another image"):
        complete(tree, COCO, PATH)


def test_entries_of_one_file_are_one_image_and_repeated_people_count_once():
    images = [IMAGE, IMAGE | {"id": 8}, IMAGE | {"id": 9}]
    people = [
        person(COCO, (10 * number, 10), (50, 50)) | {"image_id": number} for number in (7, 8, 9)
    ]
    tree = {"images": images, "annotations": [*people, *people]}
    whole, _, left_out = complete(tree, COCO, PATH)
    assert whole["images"] == [IMAGE]
    assert [one["image_id"] for one in whole["annotations"]] == [7, 7, 7]
    assert left_out == [
        "images listed twice, which count once: 2, such as images[1]",
        "repetitions of annotations, joint by joint: 3, such as annotations[3]",
    ]
    tree["images"][1]["width"] = 100
    with pytest.raises(ValueError, match=r"images\[1\]: 7.jpg is listed twice, with other sizes"):
        complete(tree, COCO, PATH)


def test_the_category_of_people_is_that_of_their_joints():
    people = person(COCO, (10, 10), (40, 50), category_id=5)
    car = {"image_id": 7, "category_id": 3, "bbox": [1, 1, 9, 9]}
    categories = [{"id": 3, "name": "car"}, {"id": 5, "name": "human"}]
    tree = {"images": [IMAGE], "annotations": [car, people], "categories": categories}
    whole, _, left_out = complete(tree, COCO, PATH)
    assert [one["id"] for one in whole["categories"]] == [5]
    assert len(whole["annotations"]) == 1
    assert left_out == ["annotations of other categories: 1, such as annotations[0]"]


@pytest.mark.data
@pytest.mark.parametrize(
    "file", ["coco/annotations/person_keypoints_val2017.json", "crowd_pose/json/crowdpose_val.json"]
)
def test_nothing_is_derived_for_the_official_files(data_root, file):
    spec = CROWD_POSE if "crowd" in file else COCO
    tree = read_json(data_root / file, "annotations")
    whole, derived, left_out = complete(tree, spec, data_root / file)
    assert whole["annotations"] == json.loads(json.dumps(tree["annotations"]))
    assert not left_out
    assert [line for line in derived if "crowds (iscrowd 1)" not in line] == []
