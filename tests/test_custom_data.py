"""Custom keypoints from the annotations to the demo, and messages where they do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dist_train
from arch_manager import ArchManager
from lib.config import load_config
from lib.core.evaluate import evaluate_predictions
from lib.core.results import Prediction
from lib.dataset.build import build_dataset, build_evaluation_set, build_search_sets
from lib.dataset.synthetic.animals import ANIMAL
from lib.models import build_model
from lib.predictor import Predictor
from lib.utils.checkpoint import load_checkpoint, save_weights
from lib.utils.dist import ALONE
from tests.helpers import JOINTS, TINY, YAMLS, tiny_config, tiny_opts
from tests.runs import SMALL, SUPERNET, train
from tests.test_scripts import assert_one_line
from tools import cache_images, check_data
from tools.demo import __main__ as demo
from tools.export import __main__ as export

FEW_FOUND = ("DATASET.MAX_NUM_PEOPLE", "3", "TEST.DETECTION_THRESHOLD", "0")  # by random weights


@pytest.fixture(scope="module")
def arch(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("arch") / "tiny.json"
    TINY.to_json(path)
    return path


@pytest.fixture(scope="module")
def trained(animal_root, tmp_path_factory) -> Path:
    """The checkpoint of a short training, whose file of joints is no more."""
    out = tmp_path_factory.mktemp("animal")
    joints = out / "joints.yaml"
    shutil.copy(JOINTS, joints)
    opts = ("DATASET.DATASET", str(joints), "TRAIN.VALIDATE_EVERY", "1", *FEW_FOUND)
    assert train(tiny_config(animal_root, out, *opts, data_set="animal"), out / "run") is None
    joints.unlink()
    return out / "run/checkpoint.pth.tar"


@pytest.fixture(scope="module")
def person(coco_root, tmp_path_factory) -> Path:
    """The checkpoint of a network of COCO's joints."""
    out = tmp_path_factory.mktemp("person")
    assert train(tiny_config(coco_root, out), out / "run") is None
    return out / "run/checkpoint.pth.tar"


@pytest.fixture
def args(arch, tmp_path):
    """Flags and keys of a script on the data set in `data`."""

    def make(data_set: str, data: Path, *opts: str) -> list[str]:
        flags = ["--cfg", str(YAMLS[data_set]), "--superconfig", str(arch)]
        return [*flags, *tiny_opts(data, tmp_path), *FEW_FOUND, *opts]

    return make


def json_of(path: Path) -> Any:
    return json.loads(path.read_text())


# --- from annotation to demo ------------------------------------------------------------


def test_a_data_set_is_looked_over(animal_root, call_tool, tmp_path):
    flags = ("--cfg", YAMLS["animal"], "--out", tmp_path / "page.png")
    done = call_tool(check_data.main, *flags, *tiny_opts(animal_root, tmp_path))
    assert (done.code, done.err) == (0, "")
    assert "0 broken or missing, 0 odd" in done.out
    assert (tmp_path / "page.png").exists()


def test_a_network_is_evaluated_joint_by_joint(trained, animal_root, args, call, tmp_path):
    model = ("TEST.MODEL_FILE", str(trained))
    done = call("valid", "--diagnose", "--vis", "2", *args("animal", animal_root, *model))
    assert (done.code, done.err) == (0, "")
    rows = [line.split("|")[1].strip() for line in done.out.splitlines() if line.startswith("|")]
    assert rows[:3] == ["Arch", "---", "tiny"]
    assert rows[3:14] == ["Joints", "---", *ANIMAL.joints, "all"]
    folder = tmp_path / "output/animal/pose_mobilenet/small"
    assert (folder / "val_people.png").exists()
    assert all(len(row["keypoints"]) == 24 for row in json_of(*(folder / "results").iterdir()))


def test_a_checkpoint_alone_finds_custom_keypoints_in_an_image(
    trained, animal_root, call_tool, tmp_path
):
    """The file of joints is gone, as on another machine."""
    image = next((animal_root / "images/val").iterdir())
    model = ("--model", trained, "--min-score", "0")
    done = call_tool(demo.main, *model, "--input", image, "--out", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    [category] = json_of(tmp_path / "out/images.json")["categories"]
    assert (category["name"], tuple(category["keypoints"])) == ("animal", ANIMAL.joints)
    results = json_of(tmp_path / "out/results.json")
    assert results
    assert all(len(row["keypoints"]) == 24 for row in results)
    assert Predictor.load(trained).keypoints == ANIMAL


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    """The folder of the network for a device."""
    out = tmp_path_factory.mktemp("exported")
    assert export.main(["--model", str(trained), "--out", str(out), "--size", "64x64"]) == 0
    return out


def test_an_exported_network_knows_custom_keypoints(exported, tmp_path, animal_root):
    card = json_of(exported / "card.json")
    assert (card["data_set"], tuple(card["joints"])) == ("animal", ANIMAL.joints)
    predictor = Predictor.load(exported / "model.onnx")
    assert (predictor.arch, predictor.input_size, predictor.codec) == (TINY, 64, "unbiased")
    spec = predictor.keypoints
    assert (spec.joints, spec.limbs, spec.sigmas) == (ANIMAL.joints, ANIMAL.limbs, ANIMAL.sigmas)
    assert spec.flip_index == ANIMAL.flip_index
    data = build_evaluation_set(tiny_config(animal_root, tmp_path, data_set="animal"))
    people = predictor(data.files.read(data.records[0]))
    assert people.keypoints.shape[1:] == (8, 3)


def test_a_cut_of_a_supernet_finds_custom_keypoints(animal_root, call, tmp_path):
    supernet = (*SUPERNET, "DATASET.INPUT_SIZE", "64", "SUPERNET.CALIBRATION_IMAGES", "6")
    cfg = tiny_config(animal_root, tmp_path, *supernet, data_set="animal")
    assert train(cfg, tmp_path / "run", arch=SMALL) is None
    keys = ("TEST.MODEL_FILE", str(tmp_path / "run/checkpoint.pth.tar"))
    narrow = tmp_path / "narrow.json"
    ArchManager.from_config(cfg, SMALL).fixed_sample(64, 0.5).to_json(narrow)
    flags = ("--cfg", str(YAMLS["animal"]), "--superconfig", str(narrow))
    opts = (*tiny_opts(animal_root, tmp_path), *supernet, *keys)
    done = call("weight_transfer", *flags, *opts, *FEW_FOUND)
    assert done.code == 0, done
    [cut] = (tmp_path / "output").rglob("narrow.pth.tar")
    assert Predictor.load(cut).keypoints == ANIMAL
    other = tmp_path / "joints.yaml"
    other.write_text(JOINTS.read_text().replace("withers", "shoulder"))
    done = call("weight_transfer", *flags, *opts, "DATASET.DATASET", str(other))
    assert_one_line(done, "predicts the 8 joints of animal")


def test_a_cache_holds_custom_images(animal_root, args, call, call_tool, tmp_path):
    cache = ("DATASET.CACHE", str(tmp_path / "cache"))
    assert call_tool(cache_images.main, *args("animal", animal_root, *cache)).code == 0
    done = call("dist_train", *args("animal", animal_root, *cache))
    assert (done.code, done.err) == (0, "")


def test_a_card_that_says_too_little_is_one_line(exported, tmp_path, call_tool, animal_root):
    out = tmp_path / "exported"
    shutil.copytree(exported, out)
    card = json_of(out / "card.json")
    image = next((animal_root / "images/val").iterdir())
    for changes in ({"sigmas": [0.1]}, {"joints": "nose"}, {"flip_index": [99] * 8}):
        (out / "card.json").write_text(json.dumps(card | changes))
        done = call_tool(demo.main, "--model", out / "model.onnx", "--input", image)
        assert_one_line(done, "card next to")


# --- fine-tuning ------------------------------------------------------------------------


def test_fine_tuning_from_other_joints_starts_the_last_layers_anew_and_nothing_else(
    person, animal_root, tmp_path
):
    opts = ("MODEL.PRETRAINED", str(person), "MODEL.PRETRAINED_PARTS", "not_final")
    cfg = tiny_config(animal_root, tmp_path, *opts, data_set="animal")
    before = load_checkpoint(person)["state_dict"]
    torch.manual_seed(cfg.SEED)
    fresh = build_model(cfg, TINY).state_dict()
    dist_train.set_backends(cfg)
    model = dist_train.start_model(cfg, TINY, ALONE)
    for name, tensor in model.state_dict().items():
        source = fresh if name.startswith("final") else before
        assert torch.equal(tensor, source[name]), name
    assert any(name.startswith("final") for name in fresh)
    assert sum(not name.startswith("final") for name in fresh) > 50
    assert train(cfg, tmp_path / "run") is None


# --- what does not fit ------------------------------------------------------------------


def test_a_network_of_other_joints_is_refused_in_an_evaluation(
    person, trained, animal_root, coco_root, args, call
):
    done = call("valid", *args("animal", animal_root, "TEST.MODEL_FILE", str(person)))
    assert_one_line(done, f"{person} predicts the 17 joints of coco, not the 8 of animal")
    done = call("valid", *args("coco", coco_root, "TEST.MODEL_FILE", str(trained)))
    assert_one_line(done, f"{trained} predicts the 8 joints of animal, not the 17 of coco")


def test_as_many_other_joints_are_refused_too(trained, animal_root, args, call, tmp_path):
    other = tmp_path / "joints.yaml"
    other.write_text(JOINTS.read_text().replace("withers", "shoulder"))
    keys = ("DATASET.DATASET", str(other), "TEST.MODEL_FILE", str(trained))
    root = tmp_path / "data"
    shutil.copytree(animal_root, root)
    change(root, lambda tree: tree.pop("categories"))
    assert_one_line(call("valid", *args("animal", root, *keys)), f"{trained} predicts the 8 joints")


def test_a_training_does_not_start_with_all_of_other_joints(person, animal_root, args, call):
    done = call("dist_train", *args("animal", animal_root, "MODEL.PRETRAINED", str(person)))
    assert_one_line(done, "predicts the 17 joints of coco, not the 8 of animal", "not_final")


def test_bare_weights_of_other_joints_are_one_line(coco_root, animal_root, args, call, tmp_path):
    path = tmp_path / "weights.pth.tar"
    save_weights(path, build_model(tiny_config(coco_root, tmp_path), TINY))
    done = call("valid", *args("animal", animal_root, "TEST.MODEL_FILE", str(path)))
    assert_one_line(done, f"{path} predicts 17 joints, not the 8 of animal", "--joints shared")


def test_a_teacher_of_other_joints_is_one_line(person, animal_root, args, call):
    done = call("dist_train", *args("animal", animal_root), "--teacher", str(person))
    assert_one_line(done, "MODEL.NUM_JOINTS 17, the student 8")


# --- odd annotations --------------------------------------------------------------------


def change(root: Path, edit: Callable[[dict], Any], split: str = "val") -> Path:
    path = root / f"annotations/{split}.json"
    tree = json_of(path)
    edit(tree)
    path.write_text(json.dumps(tree))
    return path


@pytest.fixture
def copy(animal_root, tmp_path) -> Path:
    """A copy of the data set that a test may spoil."""
    root = tmp_path / "copy"
    shutil.copytree(animal_root, root)
    return root


def perfect_table(root: Path, out: Path) -> dict[str, float]:
    """AP of those who answer what is annotated."""
    data = build_evaluation_set(tiny_config(root, out, data_set="animal"))
    answers = [Prediction(p.id, p.joints, [0.9] * len(p.joints)) for p in data.records]
    return evaluate_predictions(data, answers, out)


def bare(tree: dict) -> None:
    """Keypoints alone, in a category 7, beside a tree of another one."""
    tree["categories"] = [{"id": 3, "name": "tree"}, {"id": 7, "name": "beast"}]
    tree["annotations"] = [
        {"image_id": one["image_id"], "category_id": 7, "keypoints": one["keypoints"]}
        for one in tree["annotations"]
        if any(one["keypoints"])
    ]
    first = tree["images"][0]["id"]
    tree["annotations"].append({"image_id": first, "category_id": 3, "bbox": [1, 1, 20, 20]})


def test_what_annotations_lack_is_derived(copy, tmp_path):
    change(copy, bare)
    change(copy, bare, "train")
    table = perfect_table(copy, tmp_path)
    assert table["AP"] == pytest.approx(1)
    assert table["AR"] == pytest.approx(1)
    rows = json_of(tmp_path / "results/keypoints_val_results.json")
    assert {row["category_id"] for row in rows} == {7}
    cfg = tiny_config(copy, tmp_path, data_set="animal")
    images = build_dataset(cfg).records
    assert not any(image.ignore for image in images)  # a tree is no person to be left out
    for image in images:
        for box, joints in zip(image.boxes, image.joints, strict=True):
            xy = joints[joints[:, 2] > 0, :2]  # (n, 2)
            diagonal = np.linalg.norm(xy[:, None] - xy, axis=2).max()
            np.testing.assert_allclose(np.linalg.norm(box[2:]), diagonal, rtol=1e-5)
            middle = (xy.min(axis=0) + xy.max(axis=0)) / 2
            np.testing.assert_allclose(box[:2] + box[2:] / 2, middle, atol=1e-4)
    assert build_search_sets(cfg, 2)[1].category_id == 7


def without_categories(tree: dict) -> None:
    del tree["categories"]
    for one in tree["annotations"]:
        del one["category_id"]


def ids_from_0(tree: dict) -> None:
    for number, one in enumerate(tree["annotations"]):
        one["id"] = number


@pytest.mark.parametrize("edit", [without_categories, ids_from_0])
def test_a_file_as_other_tools_write_it_is_scored_like_ours(copy, tmp_path, edit):
    change(copy, edit)
    assert perfect_table(copy, tmp_path)["AP"] == pytest.approx(1)


def first(tree: dict) -> dict:
    return tree["annotations"][0]


ODD: dict[str, tuple[Callable[[dict], Any], str]] = {
    "no annotations": (lambda tree: tree.pop("annotations"), "has no list of annotations"),
    "no image id": (lambda tree: first(tree).pop("image_id"), "annotations[0] lacks image_id"),
    "no width": (lambda tree: tree["images"][1].pop("width"), "images[1] lacks width"),
    "text": (lambda tree: tree["annotations"].append("x"), "is 'x', wanted an object with keys"),
    "an id of text": (lambda tree: first(tree).update(image_id="a"), "image_id is 'a', wanted"),
    "too few numbers": (
        lambda tree: first(tree).update(keypoints=[1, 2, 2]),
        "annotations[0]: 3 numbers in keypoints, animal has 3 for each of 8 joints",
    ),
    "keypoints of text": (
        lambda tree: first(tree).update(keypoints="xyv"),
        "wanted a flat list of numbers",
    ),
    "an area of text": (lambda tree: first(tree).update(area="big"), "annotations[0] area is"),
    "an odd box": (
        lambda tree: first(tree).update(bbox=[1, 2]),
        "bbox is [1, 2], wanted 4 numbers",
    ),
    "two categories": (
        lambda tree: first(tree).update(category_id=2),
        "keypoints of several categories, 2, animal; a network predicts one",
    ),
    "other joints": (
        lambda tree: tree["categories"][0].update(keypoints=["a", "b"]),
        "has the joints ['a', 'b'], animal has",
    ),
    "nobody": (lambda tree: tree.update(annotations=[]), "nobody is labelled in"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_annotation_is_one_line(copy, trained, args, call, call_tool, kind, tmp_path):
    edit, message = ODD[kind]
    path = change(copy, edit)
    done = call("valid", *args("animal", copy, "TEST.MODEL_FILE", str(trained)))
    assert_one_line(done, str(path), message)
    flags = ("--cfg", YAMLS["animal"], "--split", "test")
    checked = call_tool(check_data.main, *flags, *tiny_opts(copy, tmp_path))
    assert checked.code == 1, checked
    assert "Traceback" not in checked.err


def test_what_may_be_lacking_is_no_fault(copy, call_tool, tmp_path):
    change(copy, bare)
    flags = ("--cfg", YAMLS["animal"], "--split", "test")
    done = call_tool(check_data.main, *flags, *tiny_opts(copy, tmp_path))
    assert done.code == 0, done
    assert "0 broken or missing, 0 odd" in done.out


def test_a_missing_split_names_the_file_that_would_be_it(copy, args, call):
    done = call("dist_train", *args("animal", copy, "DATASET.TRAIN", "training"))
    assert_one_line(done, f"cannot read the annotations {copy}/annotations/training.json")


def test_images_may_lie_in_an_archive(copy, tmp_path):
    shutil.make_archive(str(copy / "images/val"), "zip", copy / "images/val")
    shutil.rmtree(copy / "images/val")
    opts = ("DATASET.DATA_FORMAT", "zip")
    data = build_evaluation_set(tiny_config(copy, tmp_path, *opts, data_set="animal"))
    assert data.files.read(data.records[0]).shape == (96, 128, 3)


def test_the_experiment_names_a_file_that_is_there():
    assert load_config(YAMLS["animal"]).MODEL.NUM_JOINTS == 8
