"""The weights that come with the project are what their card says, and find people."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lib.keypoints import CROWD_POSE
from lib.models.load import read_network
from lib.predictor import Predictor
from lib.utils import shipped
from lib.utils.reading import hash_of
from tests.helpers import YAMLS
from tools.demo import __main__ as demo

NAMES = ("litepose-xs-crowdpose", "litepose-xs-crowdpose-v2")
BY_HAND = ("trained_on", "teacher", "recipe", "commit", "licence", "credits", "weaknesses", "AP")
MAX_BYTES = 4_000_000


def card_of(name: str) -> dict[str, Any]:
    return json.loads((shipped.FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def test_all_weights_are_known():
    assert shipped.names() == list(NAMES)
    assert shipped.DEFAULT in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_small_and_its_card_and_page_describe_it(name):
    path, card = shipped.find_weights(name), card_of(name)
    assert path.stat().st_size == card["bytes"] <= MAX_BYTES
    assert hash_of(path) == card["sha256"]
    assert all(card[key] for key in BY_HAND)
    network = read_network(name)
    assert network.arch is not None
    assert card["architecture"] == network.arch.to_dict()
    assert card["input_size"] == network.input_size == network.arch.img_size
    assert card["joints"] == list(network.spec.joints)
    page = (shipped.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert card["sha256"] in page
    for row in card["AP"]:
        assert f"{row['AP']:.3f}".lstrip("0") in page, row


@pytest.mark.parametrize("name", NAMES)
def test_no_setting_names_a_place_of_its_training(name):
    cfg = read_network(name).cfg
    assert (cfg.DATASET.ROOT, cfg.DATASET.MIX, cfg.MODEL.PRETRAINED) == ("data/coco", [], "")


@pytest.mark.data
def test_the_demo_finds_people_in_photographs_without_a_model(data_root, tmp_path, call_tool):
    images = sorted((data_root / "mpii/images").glob("*.jpg"))[:4]
    done = call_tool(demo.main, "--input", *images, "--out", tmp_path)
    assert (done.code, done.err) == (0, "")
    assert len(list(tmp_path.glob("*.jpg"))) == 4
    predictor = Predictor.load(shipped.DEFAULT, device="cpu")
    assert predictor.keypoints is CROWD_POSE
    assert all(len(predictor(image).scores) for image in images)


# On every third image of MPII's crowdpose_val.json, by `valid.py`; the card has the AP on all 150.
AP_OF_A_THIRD = {"litepose-xs-crowdpose": 0.600, "litepose-xs-crowdpose-v2": 0.600}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_ap_on_real_images_is_the_recorded_one(name, data_root, tmp_path, call):
    """.003 for rounding on other CPUs."""
    listed = data_root / "mpii/json/crowdpose_val.json"
    tree = json.loads(listed.read_text(encoding="utf-8"))
    tree["images"] = tree["images"][::3]
    ids = {image["id"] for image in tree["images"]}
    tree["annotations"] = [one for one in tree["annotations"] if one["image_id"] in ids]
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / listed.name).write_text(json.dumps(tree), encoding="utf-8")
    (tmp_path / "images").symlink_to(data_root / "mpii/images")
    keys = ["DATASET.ROOT", str(tmp_path), "DATASET.TEST", "val", "WORKERS", "0"]
    keys += ["OUTPUT_DIR", str(tmp_path / "out"), "LOG_DIR", str(tmp_path / "log")]
    table = tmp_path / "ap.json"
    flags = ["--cfg", str(YAMLS["crowd_pose"]), "--model", name, "--json", str(table)]
    done = call("valid", *flags, *keys)
    assert done.code == 0, done.err
    report = json.loads(table.read_text(encoding="utf-8"))
    assert report["pictures"] == 50
    assert report["table"]["AP"] == pytest.approx(AP_OF_A_THIRD[name], abs=0.003)
