"""Synthetic people: what a scene claims is what it shows, and both layouts are true to form."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO as Annotations

from lib.dataset.synthetic.describe import crowd_index, to_polygons, to_rle
from lib.dataset.synthetic.layout import make_dataset, scene_seed
from lib.dataset.synthetic.people import JOINTS, POINTS, Pose, joints_of, sample_pose
from lib.dataset.synthetic.scene import CROWD, Scene, SceneParams, draw_scene
from lib.keypoints import COCO, CROWD_POSE
from lib.sides import left_and_right

SMALL = SceneParams(width=128, height=96, tiny=0.3, crowd=0.3, min_labelled=16)
ROOT = Path(__file__).parents[2]
COUNTS = {"train": 8, "val": 4}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Crowded ones: occlusion and truncation happen."""
    params = SceneParams(truncation=0.5, occlusion=0.5, overlap=0.8, tiny=0.5, crowd=0.5)
    return [draw_scene(seed, params) for seed in range(40)]


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    make_dataset(root, COCO, COUNTS, SMALL, seed=3)
    return root


@pytest.fixture(scope="module")
def crowd_pose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("crowd_pose")
    make_dataset(root, CROWD_POSE, COUNTS | {"test": 2}, SMALL, seed=3)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def column(scene: Scene, joint: str) -> np.ndarray:
    """(P, 3): one joint of everybody."""
    return scene.keypoints[:, JOINTS.index(joint)]


# --- scenes -----------------------------------------------------------------------------


def test_a_seed_is_an_image():
    one, again, other = (draw_scene(seed, SMALL) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one.image, other.image)


def test_no_two_splits_or_seeds_share_an_image():
    seeds = [
        scene_seed(seed, split, index)
        for seed in range(3)
        for split in ("train", "val", "test")
        for index in (0, 1, 2, 2**32 - 1)
    ]
    assert len(set(seeds)) == len(seeds)


def test_every_visible_joint_shows_on_its_person(scenes: list[Scene]):
    visible = 0
    for scene in scenes:
        for person, keypoints in enumerate(scene.keypoints):
            for x, y, _ in keypoints[keypoints[:, 2] == 2]:
                assert scene.people[round(y), round(x)] == person + 1
                visible += 1
    assert visible > 500


def test_labelled_joints_are_in_the_image_and_in_the_box(scenes: list[Scene]):
    for scene in scenes:
        for person, keypoints in enumerate(scene.keypoints):
            xy, (x, y, w, h) = keypoints[keypoints[:, 2] > 0, :2], scene.boxes[person]
            assert (np.rint(xy) >= 0).all()
            assert (np.rint(xy) < scene.image.shape[1::-1]).all()
            assert ((xy >= (x, y)) & (xy <= (x + w + 1e-9, y + h + 1e-9))).all()


def test_boxes_hold_all_that_is_seen_of_a_person(scenes: list[Scene]):
    for scene in scenes:
        for person, (x, y, w, h) in enumerate(scene.boxes):
            rows, columns = np.nonzero(scene.people == person + 1)
            assert x <= columns.min()
            assert columns.max() < x + w
            assert y <= rows.min()
            assert rows.max() < y + h


def test_unlabelled_joints_are_zeros(scenes: list[Scene]):
    keypoints = np.concatenate([scene.keypoints for scene in scenes])
    assert (keypoints[keypoints[..., 2] == 0] == 0).all()


def test_scenes_know_hidden_joints_people_without_joints_and_crowds(scenes: list[Scene]):
    keypoints = np.concatenate([scene.keypoints for scene in scenes])
    assert (keypoints[..., 2] == 1).any()
    assert (keypoints[..., 2] == 0).all(axis=1).any()
    assert any((scene.people == CROWD).any() for scene in scenes)


def test_who_shows_a_nose_has_the_left_on_the_right_of_the_image(scenes: list[Scene]):
    compared = 0
    for scene in scenes:
        labelled = column(scene, "nose")[:, 2] > 0
        for pair in ("eye", "ear", "shoulder"):
            left, right = column(scene, f"left_{pair}"), column(scene, f"right_{pair}")
            both = labelled & (left[:, 2] > 0) & (right[:, 2] > 0)
            assert (left[both, 0] > right[both, 0]).all()
            compared += both.sum()
    assert compared > 100


def test_seen_from_behind_there_is_no_face_and_the_left_is_on_the_left():
    params = SceneParams(back=1.0, min_people=1, max_people=2, overlap=0.0, tiny=0.0)
    for scene in (draw_scene(seed, params) for seed in range(10)):
        assert (scene.keypoints[:, [JOINTS.index(n) for n in ("nose", "left_eye")], 2] == 0).all()
        left, right = column(scene, "left_shoulder"), column(scene, "right_shoulder")
        both = (left[:, 2] > 0) & (right[:, 2] > 0)
        assert (left[both, 0] < right[both, 0]).all()


def test_a_flipped_pose_swaps_left_and_right():
    pose = sample_pose(np.random.default_rng(0), back_probability=0.5)
    pairs = left_and_right(POINTS)
    other = dict(pairs) | {right: left for left, right in pairs}
    opposites = [POINTS.index(other.get(name, name)) for name in POINTS]
    angles = {name: -angle for name, angle in pose._asdict().items() if name != "limbs"}
    flipped = joints_of(Pose(**angles, limbs=pose.limbs[[1, 0, 3, 2]]))[opposites]
    np.testing.assert_allclose(flipped, joints_of(pose) * (-1, 1, 1), atol=1e-12)


def test_limbs_keep_their_length_whatever_the_pose():
    rng = np.random.default_rng(1)
    ends = [POINTS.index(name) for name in ("left_hip", "left_knee", "left_ankle")]
    for _ in range(20):
        hip, knee, ankle = joints_of(sample_pose(rng, 0.3))[ends]
        np.testing.assert_allclose([np.linalg.norm(hip - knee), np.linalg.norm(knee - ankle)], 0.23)


@pytest.mark.parametrize(("low", "high"), [(0, 0), (1, 1), (2, 3)])
def test_as_many_people_as_asked_for(low: int, high: int):
    params = SceneParams(min_people=low, max_people=high, tiny=0, overlap=0, occlusion=0)
    for scene in (draw_scene(seed, params) for seed in range(8)):
        assert low <= len(scene.keypoints) <= high
        assert scene.boxes.shape == (len(scene.keypoints), 4)


def test_people_are_as_tall_as_asked_for():
    params = SceneParams(
        min_people=1, max_people=1, min_height=0.8, max_height=0.8, tiny=0, truncation=0
    )
    heights = [draw_scene(seed, params).boxes[:, 3].max() / params.height for seed in range(10)]
    assert 0.6 < np.median(heights) < 0.95  # sitting is lower, arms up are higher


@pytest.mark.parametrize(
    "wrong", [{"min_people": 3, "max_people": 1}, {"min_height": 0}, {"back": 2}, {"width": 8}]
)
def test_impossible_scenes_are_refused(wrong: dict):
    with pytest.raises(ValueError, match="wanted"):
        SceneParams(**wrong)


# --- layouts ----------------------------------------------------------------------------


@pytest.mark.parametrize("split", COUNTS)
def test_coco_layout_is_read_by_pycocotools(coco: Path, split: str):
    annotations = Annotations(coco / f"annotations/person_keypoints_{split}2017.json")
    category = annotations.loadCats(1)[0]
    assert category["keypoints"] == list(COCO.joints)
    assert min(min(limb) for limb in category["skeleton"]) == 1
    assert len(annotations.getImgIds()) == COUNTS[split]
    for image in annotations.loadImgs(annotations.getImgIds()):
        pixels = cv2.imread(str(coco / f"images/{split}2017" / image["file_name"]))
        assert image["file_name"] == f"{image['id']:012d}.jpg"
        assert pixels.shape == (image["height"], image["width"], 3)
    for person in annotations.loadAnns(annotations.getAnnIds()):
        keypoints = np.reshape(person["keypoints"], (17, 3))
        assert person["num_keypoints"] == (keypoints[:, 2] > 0).sum()
        assert person["category_id"] == 1
        assert person["area"] > 0
        assert annotations.annToMask(person).any()


def test_outlines_enclose_what_is_seen(scenes: list[Scene]):
    for scene in scenes[:10]:
        for person in range(len(scene.keypoints)):
            mask = scene.people == person + 1
            if mask.sum() < 800:
                continue  # a pixel of rim is much of a thin shape
            decoded = rle.decode(rle.merge(rle.frPyObjects(to_polygons(mask), *mask.shape))) > 0
            assert (decoded & mask).sum() > 0.8 * (decoded | mask).sum()


def test_a_crowd_region_decodes_to_its_pixels(coco: Path, scenes: list[Scene]):
    masks = [scene.people == CROWD for scene in scenes]
    for mask in (masks[0], np.ones((3, 2), bool), *(m for m in masks if m.any())):
        encoded = json.loads(json.dumps(to_rle(mask)))
        decoded = rle.decode(rle.frPyObjects(encoded, *mask.shape))
        np.testing.assert_array_equal(decoded.astype(bool), mask)
    rows = json.loads((coco / "annotations/person_keypoints_train2017.json").read_text())
    crowds = [row for row in rows["annotations"] if row["iscrowd"]]
    assert crowds
    assert all(sum(row["segmentation"]["counts"]) == 128 * 96 for row in crowds)
    assert all(row["num_keypoints"] == 0 and not any(row["keypoints"]) for row in crowds)


def test_crowd_pose_layout_has_its_fields_and_no_others(crowd_pose: Path):
    sizes = {"train": 8, "val": 4, "test": 2, "trainval": 12}
    for name, size in sizes.items():
        path = crowd_pose / f"json/crowdpose_{name}.json"
        assert len(Annotations(path).getImgIds()) == size
        content = json.loads(path.read_text())
        for image in content["images"]:
            assert set(image) == {"id", "file_name", "width", "height", "crowdIndex"}
            assert 0 <= image["crowdIndex"] <= 1
            assert image["file_name"] == f"{image['id']}.jpg"
            assert (crowd_pose / "images" / image["file_name"]).is_file()
        for person in content["annotations"]:
            names = "id image_id category_id keypoints num_keypoints bbox iscrowd"
            assert set(person) == set(names.split())
            labelled = np.reshape(person["keypoints"], (14, 3))[:, 2] > 0
            assert person["num_keypoints"] == labelled[:12].sum()


def test_ids_are_unique_in_a_data_set(coco: Path, crowd_pose: Path):
    for files in (coco.glob("annotations/*.json"), crowd_pose.glob("json/crowdpose_t*t.json")):
        contents = [json.loads(path.read_text()) for path in files]
        for part in ("images", "annotations"):
            ids = [entry["id"] for content in contents for entry in content[part]]
            assert len(set(ids)) == len(ids)


def test_crowd_index_counts_strangers_in_the_box():
    joints = np.array([[(1, 1, 2), (3, 3, 2)], [(2, 2, 1), (9, 9, 2)]], float)
    boxes = np.array([(0, 0, 4, 4), (1.5, 1.5, 8, 8)])
    assert crowd_index(joints, boxes) == 0.5  # 1 of 2 in each box
    assert crowd_index(joints[:1], boxes[:1]) == 0
    assert crowd_index(joints[:0], boxes[:0]) == 0


# --- making a data set ------------------------------------------------------------------


def test_workers_share_the_work_and_change_nothing(coco: Path, tmp_path: Path):
    assert make_dataset(tmp_path, COCO, COUNTS, SMALL, seed=3, workers=2) == 12
    assert contents(tmp_path) == contents(coco)


def test_another_seed_or_split_gives_other_images(coco: Path, tmp_path: Path):
    make_dataset(tmp_path, COCO, {"train": 8}, SMALL, seed=4)
    folders = (coco / "images/train2017", coco / "images/val2017", tmp_path / "images/train2017")
    images = [path.read_bytes() for folder in folders for path in folder.iterdir()]
    assert len(set(images)) == len(images) == 8 + 4 + 8


def test_splits_may_have_parameters_of_their_own(tmp_path: Path):
    nobody = SceneParams(width=64, height=64, max_people=0, tiny=0, crowd=0)
    someone = SceneParams(width=64, height=64, min_people=2, max_people=2, overlap=0)
    make_dataset(tmp_path, COCO, COUNTS, {"train": nobody, "val": someone})
    train, val = (
        json.loads((tmp_path / f"annotations/person_keypoints_{split}2017.json").read_text())
        for split in ("train", "val")
    )
    assert train["annotations"] == []
    assert len(val["annotations"]) >= 2 * 3


def test_a_second_run_does_nothing_and_other_parameters_start_anew(tmp_path: Path):
    counts = {"train": 2}
    assert make_dataset(tmp_path, COCO, counts, SMALL) == 2
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert make_dataset(tmp_path, COCO, counts, SMALL) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert make_dataset(tmp_path, COCO, counts, SMALL, seed=1) == 2
    assert make_dataset(tmp_path, COCO, counts, replace(SMALL, clutter=0), seed=1) == 2
    assert make_dataset(tmp_path, CROWD_POSE, counts, SMALL) == 2
    assert not (tmp_path / "annotations").exists()
    next((tmp_path / "images").glob("*.jpg")).unlink()
    assert make_dataset(tmp_path, CROWD_POSE, counts, SMALL) == 2  # an image was lost


def test_an_interrupted_run_is_not_complete_and_is_made_good(coco: Path, tmp_path: Path):
    ticks = iter(range(5))  # the sixth call raises StopIteration

    with pytest.raises(StopIteration):
        make_dataset(tmp_path, COCO, COUNTS, SMALL, seed=3, tick=lambda: next(ticks))
    assert not (tmp_path / "synthetic.json").exists()
    assert any(tmp_path.rglob("*.jpg"))
    assert make_dataset(tmp_path, COCO, COUNTS, SMALL, seed=3) == 12
    assert contents(tmp_path) == contents(coco)


def test_a_folder_of_others_is_refused_and_spared(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "holiday.jpg").write_text("precious")
    with pytest.raises(ValueError, match=str(tmp_path)):
        make_dataset(tmp_path, COCO, COUNTS, SMALL)
    assert contents(tmp_path) == {"images/holiday.jpg": b"precious"}


@pytest.mark.parametrize(
    ("spec", "counts", "seed", "word"),
    [
        (COCO, {"training": 1}, 0, "training"),
        (COCO, {"train": -1}, 0, "train"),
        (COCO, {}, 0, "image"),
        (COCO, {"train": 1}, -1, "seed"),
        (COCO.with_center(), {"train": 1}, 0, "coco"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(
    tmp_path: Path, spec, counts, seed, word
):
    with pytest.raises(ValueError, match=word):
        make_dataset(tmp_path / "new", spec, counts, SMALL, seed)
    assert not (tmp_path / "new").exists()


def test_the_command_makes_a_data_set_and_answers_mistakes_in_one_line(tmp_path: Path):
    command = [sys.executable, "-m", "tools.make_synthetic", "--root", str(tmp_path / "made")]
    command += "--train 3 --val 2 --size 96x64 --people 2-2 --val-people 1 --workers 1".split()
    made = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert made.returncode == 0, made.stderr
    assert "5 images" in made.stdout
    assert len(list((tmp_path / "made").rglob("*.jpg"))) == 5
    command += ["--people", "5-2"]
    wrong = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert wrong.returncode == 2
    assert len(wrong.stderr.strip().splitlines()) == 1
