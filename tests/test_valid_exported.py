"""An exported network is evaluated like the weights that it was exported from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lib.deploy import evaluate
from lib.keypoints import KEYPOINTS
from lib.utils.checkpoint import save_weights
from tests.helpers import EACH_RUNTIME, TINY, YAMLS, network, tiny_config, tiny_opts, write_exported
from tests.test_scripts import FOLDERS, assert_one_line

KEYS = ("DATASET.MAX_NUM_PEOPLE", "3")  # random weights see many more


@pytest.fixture(scope="module")
def weights(coco_root, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.pth.tar"
    arch = path.with_name("tiny.json")
    TINY.to_json(arch)
    save_weights(path, network(tiny_config(coco_root, path.parent), seed=3))
    return path


@pytest.fixture(scope="module")
def exported(weights, coco_root, tmp_path_factory):
    """*.onnx of `weights`: the graph whose export is the fastest."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    cfg = tiny_config(coco_root, path.parent, *KEYS)
    write_exported(path, cfg, network(cfg, seed=3).eval(), "network")
    return path


@pytest.fixture
def args(coco_root, tmp_path):
    """Arguments of an evaluation of `model` that writes below `out`."""

    def make(model: Path, *opts: str, out: str = "out", data_set: str = "coco") -> list[str]:
        keys = [*tiny_opts(coco_root, tmp_path / out), *opts]
        return ["--cfg", str(YAMLS[data_set]), "--model", str(model), *keys]

    return make


def results(tmp_path: Path, out: str = "out") -> list[dict]:
    [path] = (tmp_path / out / "output" / FOLDERS["coco"] / "results").iterdir()
    return json.loads(path.read_text())


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_people_are_those_of_the_weights(call, args, weights, exported, tmp_path, runtime):
    arch = ["--superconfig", str(weights.with_name("tiny.json"))]
    assert call("valid", *arch, *args(weights, *KEYS, out="eager")).code == 0
    assert call("valid", "--runtime", runtime, *args(exported)).code == 0
    ours, theirs = results(tmp_path), results(tmp_path, "eager")
    assert len(theirs) > 3
    assert [row["image_id"] for row in ours] == [row["image_id"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one["keypoints"], other["keypoints"], atol=0.05)


def test_the_report_names_the_file(call, args, exported, tmp_path):
    path = tmp_path / "ap.json"
    done = call("valid", "--json", str(path), *args(exported, "TEST.IMAGES_PER_GPU", "2"))
    assert (done.code, done.err) == (0, "")
    assert json.loads(path.read_text())["weights"] == str(exported)


@pytest.mark.parametrize(
    ("flags", "keys", "message"),
    [
        ((), ("TEST.FLIP_TEST", "False"), "TEST.FLIP_TEST cannot change them"),
        ((), ("DATASET.INPUT_SIZE", "128"), "DATASET.INPUT_SIZE cannot change them"),
        (("--oracle", "tags"), (), "--oracle cannot change them"),
        (("--superconfig", "tiny.json"), (), "--superconfig cannot change them"),
    ],
)
def test_settings_of_the_card_stay(call, args, exported, flags, keys, message):
    if "--superconfig" in flags:
        flags = ("--superconfig", str(exported.with_name("tiny.json")))
        TINY.to_json(flags[1])
    assert_one_line(call("valid", *flags, *args(exported, *keys)), message)


def test_another_joint_set_is_one_line(call, args, exported, tmp_path):
    card = json.loads(exported.with_name("card.json").read_text())
    card["joints"] = list(KEYPOINTS["crowd_pose"].joints)
    model = tmp_path / "model.onnx"
    model.write_bytes(exported.read_bytes())
    model.with_name("card.json").write_text(json.dumps(card))
    assert_one_line(call("valid", *args(model)), "finds 14 joints")


def test_a_missing_file_is_one_line(call, args, tmp_path):
    done = call("valid", *args(tmp_path / "none.onnx"))
    assert_one_line(done, "there is no exported network")


def test_an_interrupted_evaluation_is_resumed(call, args, exported, monkeypatch):
    each = evaluate.each_exported_outcome

    def interrupted(*arguments, **named):
        for number, outcome in enumerate(each(*arguments, **named)):
            if number == 3:
                raise KeyboardInterrupt
            yield outcome

    monkeypatch.setattr(evaluate, "each_exported_outcome", interrupted)
    assert call("valid", *args(exported)).code == 130
    monkeypatch.undo()
    assert "resuming: 3 of 4 images are finished" in call("valid", *args(exported)).out


def test_a_changed_card_starts_again(call, args, exported, monkeypatch):
    """It is another network: the journal of the first is not used."""
    each = evaluate.each_exported_outcome

    def interrupted(*arguments, **named):
        yield next(each(*arguments, **named))
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "each_exported_outcome", interrupted)
    assert call("valid", *args(exported)).code == 130
    monkeypatch.undo()
    card = exported.with_name("card.json")
    before = card.read_text()
    card.write_text(before + " ")
    done = call("valid", *args(exported))
    card.write_text(before)
    assert done.code == 0
    assert "resuming" not in done.out


def test_an_image_that_cannot_be_read_is_left_out(call, args, exported, coco_root, tmp_path):
    root = tmp_path / "broken"
    (root / "images/val2017").mkdir(parents=True)
    (root / "annotations").symlink_to(coco_root / "annotations")
    images = sorted((coco_root / "images/val2017").iterdir())
    for image in images[1:]:
        (root / "images/val2017" / image.name).symlink_to(image)
    done = call("valid", *args(exported, "DATASET.ROOT", str(root)))
    assert done.code == 1
    assert "1 of 4 images were left out" in done.out + done.err
