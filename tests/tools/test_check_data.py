"""The checker names every fault of a data set, and finds none in a clean one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lib.dataset.checks.faults import Fault
from lib.dataset.checks.preview import SMALLEST
from lib.dataset.checks.summary import fault_lines
from lib.utils import cli
from tools.check_data import main

ROOT = Path(__file__).parents[2]
COCO_CFG = str(ROOT / "experiments/coco/mobilenet/mobile.yaml")
CROWD_POSE_CFG = str(ROOT / "experiments/crowd_pose/mobilenet/mobile.yaml")
TRAIN_JSON = "annotations/person_keypoints_train2017.json"
LEFT_EYE = slice(3, 6)  # of COCO's keypoints


@pytest.fixture
def coco(coco_root: Path, tmp_path: Path) -> Path:
    """A copy to plant faults in."""
    return Path(shutil.copytree(coco_root, tmp_path / "coco"))


def check(root: Path, *flags: str, cfg: str = COCO_CFG) -> int:
    return main(["--cfg", cfg, *flags, "DATASET.ROOT", str(root), "WORKERS", "1"])


def change(root: Path, edit: Callable[[dict[str, Any]], object], name: str = TRAIN_JSON) -> None:
    """Let `edit` change the annotation tree of a file."""
    tree = json.loads((root / name).read_text())
    edit(tree)
    (root / name).write_text(json.dumps(tree))


def person(tree: dict[str, Any]) -> dict[str, Any]:
    """The last annotation of somebody whose joints are labelled."""
    return [a for a in tree["annotations"] if a["num_keypoints"]][-1]


def names_of(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The person that `person` picks, and its image."""
    tree = json.loads((root / TRAIN_JSON).read_text())
    somebody = person(tree)
    [image] = [image for image in tree["images"] if image["id"] == somebody["image_id"]]
    return image, somebody


def line_with(text: str, words: str) -> str:
    [line] = [line for line in text.splitlines() if words in line]
    return line


# --- clean data -------------------------------------------------------------------------


def test_a_clean_set_has_exit_code_0_and_no_lines_of_faults(
    coco_root: Path, crowd_pose_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(coco_root) == 0
    assert check(crowd_pose_root, cfg=CROWD_POSE_CFG) == 0
    text = capsys.readouterr().out
    assert "broken:" not in text
    assert "odd:" not in text
    assert "train2017: 6 images" in text
    assert "val2017: 4 images" in text


def test_a_split_may_be_in_an_archive(coco: Path) -> None:
    shutil.make_archive(str(coco / "images/train2017"), "zip", coco / "images/train2017")
    shutil.rmtree(coco / "images/train2017")
    flags = ["--split", "train"]
    options = ["DATASET.DATA_FORMAT", "zip", "DATASET.ROOT", str(coco)]
    assert main(["--cfg", COCO_CFG, *flags, *options]) == 0


def test_images_without_public_ground_truth_are_fine(coco: Path) -> None:
    tree = json.loads((coco / "annotations/person_keypoints_test2017.json").read_text())
    images = json.dumps({"images": tree["images"]})
    (coco / "annotations/image_info_test-dev2017.json").write_text(images)
    options = ["DATASET.TEST", "test-dev2017", "DATASET.ROOT", str(coco)]
    assert main(["--cfg", COCO_CFG, "--split", "test", *options]) == 0


# --- one fault each -----------------------------------------------------------------------


def set_values(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda tree: person(tree).update(values)


def set_joint(*values: float) -> Callable[[dict[str, Any]], object]:
    return lambda tree: person(tree)["keypoints"].__setitem__(LEFT_EYE, values)


RUNS = {"counts": [5, 5], "size": [96, 128]}
PERSON_FAULTS = [  # (edit of the tree, words of the line, exit code)
    (set_values(bbox=[100, 10, 60, 20]), "leaves the 128 x 96 image", 0),
    (set_values(bbox=[10, 10, 0, 20]), "has no extent", 0),
    (set_values(bbox=[10, 10, 20]), "bbox is [10, 10, 20], wanted 4 numbers", 1),
    (set_values(bbox=[1, 1, float("nan"), 2]), "bbox [1, 1, nan, 2] has no extent", 0),
    (set_values(keypoints=[1, 2, 2]), "3 numbers in keypoints, coco has 3 for each of 17", 1),
    (set_values(keypoints="none"), "keypoints is 'none', wanted a flat list of numbers", 1),
    (set_values(num_keypoints=99), "num_keypoints is 99", 0),
    (set_values(segmentation=[["a", 2, 3]]), "segmentation is no list of polygons", 1),
    (set_values(segmentation="outline"), "segmentation is neither polygons nor an RLE", 1),
    (set_values(segmentation=RUNS), "counts do not add up to the image's 12288 pixels", 1),
    (set_values(segmentation=RUNS | {"size": [9, 9]}), "size is [9, 9]", 1),
    (set_values(segmentation=RUNS | {"counts": 7}), "counts are 7", 1),
    (set_values(segmentation={"size": [96, 128]}), "counts are None", 1),
    (set_joint(300, 20, 2), "outside the 128 x 96 image: left_eye (300, 20)", 0),
    (set_joint(0, 0, 2), "labelled at 0, 0: left_eye", 0),
    (set_joint(30, 20, 5), "visibility is neither 0, 1 nor 2: left_eye 5", 0),
    (set_joint(float("nan"), 20, 2), "left_eye is [nan, 20, 2]; wanted coordinates", 1),
    (
        set_values(keypoints=[0.5, 0.25, 2, 0.75, 0.5, 2] + [0] * 45),
        "from 0 to 1; wanted pixels",
        0,
    ),
    (set_values(area=-4), "area -4 in a 128 x 96 image", 0),
    (set_values(area=float("inf")), "area inf in a 128 x 96 image", 0),
    (lambda tree: tree["annotations"].append(person(tree)), "another annotation has this id", 0),
]


@pytest.mark.parametrize(("edit", "words", "code"), PERSON_FAULTS)
def test_a_fault_of_an_annotation_is_one_line_with_image_annotation_and_file(
    coco: Path,
    capsys: pytest.CaptureFixture[str],
    edit: Callable[[dict[str, Any]], object],
    words: str,
    code: int,
) -> None:
    image, somebody = names_of(coco)
    change(coco, edit)
    assert check(coco, "--split", "train", "--no-decode") == code
    line = line_with(capsys.readouterr().out, words)
    assert line.startswith(f"train2017: {'broken' if code else 'odd'}: image {image['id']}, ")
    assert f"annotation {somebody['id']}, " in line
    assert str(coco / "images/train2017" / image["file_name"]) in line


def set_image(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda tree: tree["images"][0].update(values)


IMAGE_FAULTS = [
    (set_image(width=0), "width is 0, wanted a whole number of pixels", 1),
    (set_image(width=64), "the image is 128 x 96, annotated as 64 x 96", 1),
    (lambda tree: tree["images"][0].pop("height"), "lacks height", 1),
    (lambda tree: tree["images"].append(tree["images"][0]), "it counts once", 0),
    (
        lambda tree: tree["images"].insert(0, tree["images"][0] | {"file_name": "a.jpg"}),
        "another image has this id",
        1,
    ),
    (lambda tree: tree["images"].append(tree["images"][0] | {"id": 7}), "has the same file", 0),
]


@pytest.mark.parametrize(("edit", "words", "code"), IMAGE_FAULTS)
def test_a_fault_of_an_image_is_one_line_with_its_file(
    coco: Path,
    capsys: pytest.CaptureFixture[str],
    edit: Callable[[dict[str, Any]], object],
    words: str,
    code: int,
) -> None:
    image = json.loads((coco / TRAIN_JSON).read_text())["images"][0]
    change(coco, edit)
    assert check(coco, "--split", "train") == code
    line = line_with(capsys.readouterr().out, words)
    assert f"image {image['id']}" in line
    assert str(coco / "images/train2017" / image["file_name"]) in line


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_image(path: Path) -> None:
    path.write_text("not found")


def huge_header(path: Path) -> None:
    """A PNG that claims 100000 x 100000 pixels."""
    _, data = cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))
    size = (100_000).to_bytes(4, "big")
    path.write_bytes(data[:16].tobytes() + size + size + data[24:].tobytes())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (Path.unlink, "the image is missing"),
        (half, "the file is no image"),
        (no_image, "the file is no image"),
        (huge_header, "the file is no image"),
    ],
)
def test_an_image_that_cannot_be_read_is_named(
    coco: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    words: str,
) -> None:
    image, _ = names_of(coco)
    path = coco / "images/train2017" / image["file_name"]
    spoil(path)
    assert check(coco, "--split", "train") == 1
    line = line_with(capsys.readouterr().out, words)
    assert line.startswith(f"train2017: broken: image {image['id']}, {path}: ")


def test_an_annotation_of_no_image_is_named(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, somebody = names_of(coco)
    change(coco, set_values(image_id=987))
    assert check(coco, "--split", "train", "--no-decode") == 0
    text = capsys.readouterr().out
    assert "left out: annotations of images that the file does not list: 1, such as" in text
    line = line_with(text, "no image has this id")
    assert f"image 987, annotation {somebody['id']}, {coco / TRAIN_JSON}" in line


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda tree: person(tree).pop("image_id"), "lacks image_id"),
        (lambda tree: tree["annotations"].append(5), "is 5, wanted an object with keys"),
        (lambda tree: tree["images"].append("one.jpg"), "is 'one.jpg', wanted an object with keys"),
        (lambda tree: tree.pop("annotations"), "has no list of annotations"),
        (lambda tree: tree["categories"][0].update(keypoints=["nose"]), "has the joints"),
    ],
)
def test_an_entry_without_an_image_is_named_by_its_annotation_file(
    coco: Path,
    capsys: pytest.CaptureFixture[str],
    edit: Callable[[dict[str, Any]], object],
    words: str,
) -> None:
    change(coco, edit)
    assert check(coco, "--split", "train", "--no-decode") == 1
    assert str(coco / TRAIN_JSON) in line_with(capsys.readouterr().out, words)


def test_no_fault_hides_another(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, _ = names_of(coco)
    change(coco, set_values(bbox=[0, 0, 0, 0], segmentation="outline", num_keypoints=50))
    (coco / "images/train2017" / image["file_name"]).unlink()
    assert check(coco, "--split", "train") == 1
    text = capsys.readouterr().out
    for words in ("is missing", "no extent", "neither polygons", "num_keypoints is 50"):
        assert f"image {image['id']}" in line_with(text, words)


# --- what is only counted -----------------------------------------------------------------


def test_images_with_too_many_people_are_counted(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["DATASET.ROOT", str(coco), "DATASET.MAX_NUM_PEOPLE", "1"]
    assert main(["--cfg", COCO_CFG, "--split", "train", "--no-decode", *options]) == 0
    assert "more than MAX_NUM_PEOPLE 1 people; the first is image" in capsys.readouterr().out


def test_files_that_no_annotation_names_are_counted(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (coco / "images/train2017/stray.jpg").touch()
    assert check(coco) == 0
    line = line_with(capsys.readouterr().out, "stray.jpg")
    assert f"{coco / 'images/train2017'}: 1 files" in line


def test_many_faults_of_one_kind_are_twenty_lines_and_a_number() -> None:
    faults = [Fault("missing image", f"image {i}", "the image is missing") for i in range(57)]
    lines = fault_lines(faults)
    assert len(lines) == 21
    assert lines[-1] == "broken: 37 more: missing image"


# --- two splits ---------------------------------------------------------------------------


def test_an_image_in_both_splits_is_odd_and_named(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, _ = names_of(coco)
    change(
        coco,
        lambda tree: tree["images"].append(image),
        "annotations/person_keypoints_val2017.json",
    )
    folder = coco / "images"
    name = image["file_name"]
    shutil.copy(folder / "train2017" / name, folder / "val2017" / name)
    assert check(coco) == 0
    line = line_with(capsys.readouterr().out, "is in val2017, too")
    assert line.startswith(f"train2017: odd: image {image['id']}, {folder / 'train2017' / name}: ")


def test_one_split_that_serves_as_both_is_said_in_one_line(
    coco_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["DATASET.ROOT", str(coco_root), "DATASET.TEST", "train2017"]
    assert main(["--cfg", COCO_CFG, *options]) == 0
    assert "train2017 is both the training and the test split" in capsys.readouterr().out


def test_two_files_with_the_same_images_are_said_in_one_line(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(coco / TRAIN_JSON, coco / "annotations/person_keypoints_again.json")
    shutil.copytree(coco / "images/train2017", coco / "images/again")
    options = ["DATASET.ROOT", str(coco), "DATASET.TEST", "again"]
    assert main(["--cfg", COCO_CFG, *options]) == 0
    text = capsys.readouterr().out
    assert "train2017 and again are the same 6 images" in text
    assert "odd:" not in text


def test_every_data_set_of_a_mix_is_checked_with_its_own_joints(
    coco: Path, crowd_pose_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of two sets may have the same ids; those of the test split's folder may not."""
    change(coco, lambda tree: person(tree).update(keypoints=[1] * 50))
    entries = [
        {"ROOT": str(coco), "DATASET": "coco", "TRAIN": "train2017"},
        {"ROOT": str(crowd_pose_root), "DATASET": "crowd_pose", "TRAIN": "train"},
    ]
    options = ["DATASET.ROOT", str(crowd_pose_root), "DATASET.MIX", str(entries), "WORKERS", "1"]
    assert main(["--cfg", CROWD_POSE_CFG, *options]) == 1
    text = capsys.readouterr().out
    assert f"{coco}, train2017: broken: " in text
    assert "50 numbers in keypoints, coco has 3 for each of 17 joints" in line_with(
        text, "broken: "
    )
    assert "is in test, too" not in text
    assert f"{crowd_pose_root}, train: " in text
    assert text.endswith("1 broken or missing, 0 odd\n")


def test_a_data_set_of_a_mix_that_is_missing_is_named(coco: Path, tmp_path: Path) -> None:
    entries = [{"ROOT": str(tmp_path / "gone"), "DATASET": "coco", "TRAIN": "train2017"}]
    with pytest.raises(ValueError, match=r"DATASET\.MIX\[0\]: ROOT .*gone does not exist"):
        check(coco, "DATASET.MIX", str(entries))


# --- the page, and a user's mistakes ------------------------------------------------------


def test_a_page_shows_images_beside_their_crops(coco_root: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.png"
    assert check(coco_root, "--no-decode", "--out", str(page), "--images", "3") == 0
    image = cv2.imread(str(page))
    assert image.shape[0] > 2 * 256  # two rows of crops
    assert image.shape[1] > 4 * 256  # two pairs


def test_small_crops_are_shown_large_enough_for_their_captions(
    coco_root: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.png"
    keys = ["DATASET.INPUT_SIZE", "64", "DATASET.OUTPUT_SIZE", "[16, 32]"]
    check(coco_root, "--no-decode", "--out", str(page), "--pictures", "1", *keys)
    image = cv2.imread(str(page))
    assert image.shape[0] > SMALLEST
    assert image.shape[1] > 2 * SMALLEST


def test_annotations_that_cannot_be_drawn_are_one_more_line(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(coco, lambda tree: person(tree).pop("image_id"))
    assert check(coco, "--split", "train", "--no-decode", "--out", str(tmp_path / "a.png")) == 1
    assert "no page is rendered: " in capsys.readouterr().out


def test_a_broken_archive_is_an_error_that_names_it(coco: Path) -> None:
    (coco / "images/train2017.zip").write_text("<html>")
    options = ["DATASET.ROOT", str(coco), "DATASET.DATA_FORMAT", "zip"]
    with pytest.raises(ValueError, match="train2017.zip is no zip archive"):
        main(["--cfg", COCO_CFG, "--split", "train", *options])


def test_a_mistake_of_the_user_is_one_line_and_exit_code_2(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (coco / TRAIN_JSON).write_text("<html>")
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: check(coco))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{coco / TRAIN_JSON} is not JSON" in error


def test_a_missing_folder_is_an_error_that_names_it(coco: Path) -> None:
    with pytest.raises(ValueError, match="DATASET.ROOT .*nowhere does not exist"):
        check(coco / "nowhere")
    shutil.rmtree(coco / "images/val2017")
    with pytest.raises(ValueError, match="the image folder .*val2017 does not exist"):
        check(coco)


# --- real images --------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "cfg"), [("coco", COCO_CFG), ("crowd_pose", CROWD_POSE_CFG)], ids=["coco", "crowd"]
)
def test_nothing_is_broken_in_the_real_sets(data_root: Path, folder: str, cfg: str) -> None:
    assert check(data_root / folder, cfg=cfg) == 0
