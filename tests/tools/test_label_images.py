"""Labels of a network are annotations that training, evaluation and check_data read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from lib.core.evaluate import score_rows
from lib.dataset.checks.split import check_split, open_split
from lib.dataset.complete import complete
from lib.dataset.reader import ignore_mask, read_annotations, records_of
from lib.dataset.synthetic.animals import ANIMAL
from lib.keypoints import COCO, CROWD_POSE, KeypointSpec
from lib.predictor import People
from lib.utils.checkpoint import save_checkpoint
from lib.utils.files import atomic_write
from lib.utils.vis import save_image
from tests.helpers import TINY, Result, network, tiny_config
from tools.label_images import __main__ as tool
from tools.label_images.annotations import Known, Thresholds, annotate
from tools.label_images.compare import agreement, spec_of

SIZE = 40  # pixels, of a person
WHITE, GRAY, DIM = 250, 170, 120  # of a point: a person of score .9, .15 (a region), .05 (nobody)
SCORES = {WHITE: 0.9, GRAY: 0.15, DIM: 0.05}


def scene(*points: tuple[int, int, int], size: tuple[int, int] = (160, 120)) -> np.ndarray:
    """Black, with a point (x, y, brightness) for each person."""
    image = np.zeros((*size[::-1], 3), np.uint8)
    for x, y, brightness in points:
        image[y - 2 : y + 3, x - 2 : x + 3] = brightness
    return image


def shape_of(spec: KeypointSpec) -> np.ndarray:
    """(K, 2): the joints of a person around its point."""
    return np.random.default_rng(0).uniform(-0.5, 0.5, (spec.num_joints, 2)) * SIZE


def finder(spec: KeypointSpec) -> Callable[[np.ndarray], People]:
    """Finds somebody around each point; the last joint is uncertain."""

    def find(image: np.ndarray) -> People:
        _, _, _, centers = cv2.connectedComponentsWithStats(np.uint8(image.min(axis=2) > 50))
        people = np.zeros((len(centers) - 1, spec.num_joints, 3))
        people[..., :2] = centers[1:, None] + shape_of(spec)
        people[..., 2] = 0.9
        people[:, -1, 2] = 0.1
        values = [int(image[round(y), round(x), 0]) for x, y in centers[1:]]
        scores = [SCORES[min(SCORES, key=lambda known: abs(known - value))] for value in values]
        return People(people, np.array(scores), np.zeros((len(people), spec.num_joints, 1)))

    return find


class PointPredictor(NamedTuple):
    """Finds points; in place of a Predictor."""

    keypoints: KeypointSpec
    group: Callable[[Any], People]
    prepare: Callable[[Any], Any] = lambda image: image
    compute: Callable[[Any], Any] = lambda image: image


class Folder(NamedTuple):
    """A data set in CrowdPose's layout, and the command that labels its images."""

    root: Path
    images: Path
    out: Path
    run: Callable[..., Result]


@pytest.fixture
def crowd(tmp_path, call_tool, monkeypatch) -> Folder:
    """Two images, one in a subfolder: a person, a region, nobody; a person."""
    return folder_of(tmp_path, CROWD_POSE, "json/crowdpose_trainval.json", call_tool, monkeypatch)


def folder_of(
    tmp_path: Path, spec: KeypointSpec, out: str, call_tool: Callable, monkeypatch: Any
) -> Folder:
    images = tmp_path / "set/images"
    (images / "more").mkdir(parents=True)
    scenes = {
        "b.png": scene((40, 50, WHITE), (110, 60, GRAY), (60, 100, DIM)),
        "more/a.png": scene((50, 60, WHITE), size=(128, 96)),
    }
    for name, image in scenes.items():
        save_image(images / name, image)
    model = tmp_path / "model.pth.tar"
    model.write_bytes(b"weights")
    predictor = PointPredictor(spec, finder(spec))
    monkeypatch.setattr(tool.Predictor, "load", lambda *_, **__: predictor)
    path = tmp_path / "set" / out

    def run(*args: object) -> Result:
        given = ("--model", model, "--images", images, "--out", path, *args)
        return call_tool(tool.main, *given)

    return Folder(tmp_path / "set", images, path, run)


def tree_of(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


def is_one_line(text: str) -> bool:
    return text.count("\n") == 1 and "Traceback" not in text


# --- what is written ----------------------------------------------------------------------


def test_people_joints_and_regions_by_their_scores(crowd):
    result = crowd.run()
    assert (result.code, result.out) == (
        0,
        f"2 people and 1 regions to ignore found in 2 images: {crowd.out}\n",
    )
    tree = tree_of(crowd.out)
    assert [(i["id"], i["file_name"], i["width"], i["height"]) for i in tree["images"]] == [
        (1, "b.png", 160, 120),
        (2, "more/a.png", 128, 96),
    ]
    assert tree["categories"][0]["keypoints"] == list(CROWD_POSE.joints)
    assert tree["info"]["labels_of_a_network"]["min_score"] == 0.2
    person, region, _ = tree["annotations"]
    joints = np.reshape(person["keypoints"], (-1, 3))
    np.testing.assert_allclose(joints[:-1, :2], (shape_of(CROWD_POSE) + (40, 50))[:-1], atol=0.01)
    assert joints[:-1, 2].tolist() == [2] * 13
    assert joints[-1].tolist() == [0, 0, 0]
    assert person["num_keypoints"] == 12  # neither head nor neck counts
    assert (region["num_keypoints"], any(region["keypoints"])) == (0, False)
    assert region["score"] == 0.15


def test_training_and_evaluation_ignore_the_regions(crowd):
    assert crowd.run().code == 0
    tree = read_annotations(crowd.out, CROWD_POSE)
    first = records_of(tree, CROWD_POSE, crowd.out)[0]
    assert len(first.joints) == 1
    mask = ignore_mask(first)
    assert mask[60, 110] == 0
    assert mask[50, 40] == 255
    found = [people_row(tree, 0, x=40, y=50), people_row(tree, 1, x=50, y=60)]
    region = people_row(tree, 0, x=110, y=60) | {"score": 0.99}
    elsewhere = people_row(tree, 0, x=40, y=1000) | {"score": 0.99}
    assert score_rows(CROWD_POSE, tree, [*found, region])["AP"] == pytest.approx(1)
    assert score_rows(CROWD_POSE, tree, [*found, elsewhere])["AP"] < 0.9


def people_row(tree: dict, image: int, x: int, y: int) -> dict:
    joints = np.concatenate([shape_of(CROWD_POSE) + (x, y), np.ones((14, 1))], axis=1)
    keypoints = joints.flatten().tolist()
    number = tree["images"][image]["id"]
    return {"image_id": number, "category_id": 1, "keypoints": keypoints, "score": 0.9}


@pytest.mark.parametrize(
    ("data_set", "spec", "out", "images"),
    [
        ("crowd_pose", CROWD_POSE, "json/crowdpose_trainval.json", "images"),
        ("coco", COCO, "annotations/person_keypoints_train2017.json", "images/train2017"),
        ("animal", ANIMAL, "annotations/train.json", "images/train"),
    ],
)
def test_check_data_reads_them_without_a_fault(
    data_set, spec, out, images, tmp_path, call_tool, monkeypatch
):
    folder = folder_of(tmp_path, spec, out, call_tool, monkeypatch)
    assert folder.run().code == 0
    if images != "images":
        shutil.copytree(folder.images, folder.root / images)
    cfg = tiny_config(folder.root, tmp_path, data_set=data_set)
    split = open_split(cfg, is_train=True)
    checked = check_split(split)
    assert not checked.faults
    assert not [note for note in checked.notes if "crowdIndex" not in note]


def test_two_runs_and_an_interrupted_one_give_the_same_bytes(crowd, monkeypatch):
    assert crowd.run().code == 0
    first = crowd.out.read_bytes()
    crowd.out.unlink()
    assert crowd.run().code == 0
    assert crowd.out.read_bytes() == first
    read, count = tool.read, []

    def interrupted(predictor, sources, seconds):
        for item in read(predictor, sources, seconds):
            count.append(item.frame.source.name)
            if len(count) == 2:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(tool, "read", interrupted)
    assert crowd.run().code == 130
    assert len(tool.journal_path(crowd.out).read_text("utf-8").splitlines()) == 2
    refused = crowd.run("TEST.FLIP_TEST", "False")
    assert refused.code == 2
    assert "its settings.TEST.FLIP_TEST is null" in refused.err
    assert is_one_line(refused.err)
    assert crowd.run("--min-joint", "0.05").code == 0  # thresholds may differ
    assert len(count) == 3  # the second image alone is read again
    assert np.all(np.reshape(tree_of(crowd.out)["annotations"][0]["keypoints"], (-1, 3))[:, 2] == 2)
    assert not tool.journal_path(crowd.out).exists()


# --- human annotations --------------------------------------------------------------------


def human_file(tmp_path: Path, size: tuple[int, int] = (128, 96)) -> Path:
    """Labels the gray point of b.png, and has an image that the folder lacks."""
    images = [("more/a.png", 7, size), ("b.png", 3, (160, 120)), ("lost.png", 9, (64, 64))]
    joints = np.concatenate([shape_of(CROWD_POSE) + (110, 60), np.full((14, 1), 2)], axis=1)
    category = {"id": 5, "name": "person", "keypoints": list(CROWD_POSE.joints)}
    tree = {
        "info": {"year": 2026},
        "images": [
            {"id": number, "file_name": name, "width": width, "height": height}
            for name, number, (width, height) in images
        ],
        "annotations": [
            {
                "id": 12,
                "image_id": 3,
                "category_id": 5,
                "iscrowd": 0,
                "keypoints": joints.flatten().tolist(),
                "bbox": [88, 38, 44, 44],
                "num_keypoints": 12,
            }
        ],
        "categories": [category],
    }
    path = tmp_path / "human.json"
    atomic_write(path, json.dumps(tree))
    return path


@pytest.mark.parametrize("merged_as", ["regions", "people"])
def test_people_whom_the_human_annotations_lack_are_added(crowd, tmp_path, merged_as):
    human = human_file(tmp_path)
    result = crowd.run("--merge", human, "--merge-as", merged_as)
    assert result.code == 0, result.err
    before, after = tree_of(human), tree_of(crowd.out)
    assert after["images"] == before["images"]
    assert after["annotations"][:1] == before["annotations"]
    assert after["info"]["year"] == 2026
    added = after["annotations"][1:]
    assert [(one["id"], one["image_id"], one["category_id"]) for one in added] == [
        (13, 7, 5),
        (14, 3, 5),
    ]
    assert [any(one["keypoints"]) for one in added] == [merged_as == "people"] * 2
    assert len(read_annotations(crowd.out, CROWD_POSE)["annotations"]) == 3


def test_nothing_is_added_to_an_image_of_another_size(crowd, tmp_path, caplog):
    result = crowd.run("--merge", human_file(tmp_path, size=(96, 128)))
    assert result.code == 1
    assert "more/a.png: the image is 128 x 96, annotated as 96 x 128" in caplog.text
    assert len(tree_of(crowd.out)["annotations"]) == 2


def test_labels_are_compared_with_human_ones(crowd, tmp_path):
    """The human annotations have the person of score .15, exactly, and neither of the other two."""
    result = crowd.run("--compare", human_file(tmp_path))
    assert result.code == 0, result.err
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in result.out.splitlines()]
    table = {(row[0], row[1]): row[2:] for row in rows if len(row) == 8}
    assert table["0.1", "0.2"] == ["3", "0.333", "1.000", "13", "1.000", "1.000"]
    assert table["0.3", "0.2"] == ["2", "0.000", "0.000", "0", "-", "-"]
    assert sum(any(one["keypoints"]) for one in tree_of(crowd.out)["annotations"]) == 2


def test_a_network_of_other_joints_is_compared_by_their_names():
    """A COCO person moved by so much that every other joint has a keypoint similarity of .6."""
    joints = np.concatenate([shape_of(COCO) * 5 + 150, np.full((17, 1), 2)], axis=1)
    box = [50.0, 50.0, 200.0, 200.0]
    tree = {
        "images": [{"id": 1, "file_name": "a", "width": 300, "height": 300}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": box}
            | {"keypoints": joints.flatten().tolist(), "area": 0.53 * 200 * 200}
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.joints)}],
    }
    person = np.zeros((14, 3))
    for k, name in enumerate(CROWD_POSE.joints[:12]):
        place = COCO.joints.index(name)
        sigma = 2 * COCO.sigmas[place] * np.sqrt(0.53) * 200
        person[k] = [*joints[place, :2], 0.9]
        person[k, 0] += sigma * np.sqrt(-2 * np.log(0.6)) * (k % 2)
    results = {"a": {"size": [300, 300], "people": [person.tolist()], "scores": [0.9]}}
    limits = Thresholds(score=0.3, joint=0.2, region=0.15)
    human = complete(tree, COCO, Path("a.json")).tree
    last = agreement(CROWD_POSE, results, limits, spec_of(tree, CROWD_POSE), human).splitlines()[-1]
    assert last == "| 0.3 | 0.4 | 1 | 1.000 | 1.000 | 12 | 1.000 | 0.500 |"


def test_somebody_found_twice_is_labelled_once():
    """Also with left and right exchanged; a neighbour of the same pose is another person."""
    person = np.concatenate([shape_of(CROWD_POSE) * 3 + 100, np.ones((14, 1))], axis=1)
    swapped, neighbour = person[CROWD_POSE.flip_index], person + [100, 0, 0]
    limits = Thresholds(score=0.3, joint=0.2, region=0.15)
    people = np.stack([person + [2, 0, 0], swapped, person, neighbour])
    entries = annotate(CROWD_POSE, people, [0.5, 0.6, 0.7, 0.2], (400, 300), limits)
    assert [one["score"] for one in entries] == [0.7, 0.2]
    crowd = Known(np.zeros((14, 3)), np.array([0, 0, 150, 300]))  # a region of human annotations
    entries = annotate(CROWD_POSE, people, [0.5, 0.6, 0.7, 0.2], (400, 300), limits, [crowd])
    assert [one["score"] for one in entries] == [0.2]


# --- faults -------------------------------------------------------------------------------


def test_unreadable_images_are_named_and_left_out(crowd, caplog):
    atomic_write(crowd.images / "a.jpg", b"no image")
    assert crowd.run().code == 1
    assert "a.jpg is not a readable image" in caplog.text
    assert [image["file_name"] for image in tree_of(crowd.out)["images"]] == ["b.png", "more/a.png"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--min-score", "1.5"], "--min-score is 1.5"),
        (["--min-score", "0.05"], "--min-region is 0.1; wanted at most --min-score, 0.05"),
        (["--merge-as", "people"], "needs --merge"),
        (["--images", "{root}/json"], "has no images"),
        (["--images", "{root}/nowhere"], "there is no folder"),
        (["--out", "{root}/images/b.png"], "is the file of the input"),
        (["--out", "{root}"], "is a folder"),
        (["--merge", "{root}/images/b.png"], "b.png"),
    ],
)
def test_a_mistake_is_one_line(crowd, args, message):
    (crowd.root / "json").mkdir()
    before = (crowd.images / "b.png").read_bytes()
    result = crowd.run(*(word.format(root=crowd.root) for word in args))
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert is_one_line(result.err)
    assert (crowd.images / "b.png").read_bytes() == before


# --- networks -----------------------------------------------------------------------------


def test_a_network_of_another_file_does_not_resume(crowd_pose_root, tmp_path, call_tool):
    cfg = tiny_config(crowd_pose_root, tmp_path, data_set="crowd_pose")
    model, out = tmp_path / "model.pth.tar", tmp_path / "labels.json"
    state = network(cfg, seed=1).state_dict()
    save_checkpoint(model, state_dict=state, config=cfg.dump(), arch=TINY.to_dict())
    (tmp_path / "images").mkdir()
    shutil.copy(next((crowd_pose_root / "images").iterdir()), tmp_path / "images")
    args = ("--model", model, "--images", tmp_path / "images", "--out", out)
    result = call_tool(tool.main, *args, "--min-score", "0", "--min-region", "0")
    assert result.code == 0, result.err
    read_annotations(out, CROWD_POSE)
    atomic_write(tool.journal_path(out), '{"images": "elsewhere"}\n')
    result = call_tool(tool.main, *args)
    assert result.code == 2
    assert "is of another run" in result.err
    assert is_one_line(result.err)


@pytest.mark.data
def test_published_weights_label_what_people_labelled(
    data_root, published_weights, tmp_path, call_tool
):
    model = published_weights
    images, out = data_root / "crowd_pose/images", tmp_path / "labels.json"
    args = ("--model", model, "--images", images, "--out", out, "TEST.FLIP_TEST", "False")
    assert call_tool(tool.main, *args).code == 0
    human = read_annotations(data_root / "crowd_pose/json/crowdpose_test.json", CROWD_POSE)
    labels = read_annotations(out, CROWD_POSE)
    number = {image["file_name"]: image["id"] for image in human["images"]}
    rows = [
        one | {"image_id": number[image["file_name"]]}
        for image in labels["images"]
        for one in labels["annotations"]
        if one["image_id"] == image["id"] and one["num_keypoints"]
    ]
    assert score_rows(CROWD_POSE, human, rows)["Ap .5"] > 0.7
