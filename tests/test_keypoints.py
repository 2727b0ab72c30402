"""Known joints are what they were; a file describes others, or one line says why not."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from lib.config import load_config, read_config
from lib.keypoints import COCO, CROWD_POSE, KeypointSpec, keypoints_of
from tests.helpers import YAMLS

ANIMAL = {
    "name": "beetle",
    "joints": ["head", "left_wing", "right_wing", "left_claw", "right_claw", "tail"],
    "limbs": [["head", "tail"], ["head", "left_claw"]],
    "sigmas": 0.07,
}
REFUSED = [
    ({"joint": []}, "unknown key joint; possible: name, joints, flips, limbs, sigmas, order"),
    ({"name": None}, "lacks the key name"),
    ({"sigmas": None}, "lacks the key sigmas"),
    ({"name": "My Beetle"}, "name is 'My Beetle'"),
    ({"name": 7}, "name is 7"),
    ({"name": "coco"}, "name is 'coco', a known data set"),
    ({"joints": "head"}, "joints is 'head'; wanted a list of names"),
    ({"joints": []}, "joints is []; wanted names"),
    ({"joints": ["head", False]}, "joints has False; wanted names"),
    ({"joints": ["head", "tail", "head"]}, "joints has head twice"),
    ({"joints": ["head", "left_claw"]}, "joints has left_claw without a counterpart on the other"),
    ({"limbs": [["head", "tale"]]}, "limbs has 'tale', which is none of joints"),
    ({"limbs": [["head", "head"]]}, "limbs has head with itself"),
    ({"limbs": [["head", "tail", "tail"]]}, "limbs has ['head', 'tail', 'tail']; wanted pairs"),
    ({"limbs": "head"}, "limbs is 'head'; wanted a list of pairs"),
    ({"flips": [["left_wing", "rihgt_wing"]]}, "flips has 'rihgt_wing', which is none of joints"),
    (
        {"flips": [["left_wing", "right_wing"], ["left_wing", "right_claw"]]},
        "flips has left_wing twice",
    ),
    ({"sigmas": [0.1, 0.1]}, "sigmas has 2 entries, joints has 6"),
    ({"sigmas": 0}, "sigmas has 0; wanted numbers above 0"),
    ({"sigmas": "wide"}, "sigmas has 'wide'; wanted numbers above 0"),
    ({"sigmas": True}, "sigmas has True; wanted numbers above 0"),
    ({"sigmas": float("inf")}, "sigmas has inf; wanted numbers above 0"),
    ({"sigmas": {"head": 0.1}}, "sigmas and joints do not have the same names: left_wing"),
    ({"order": ["head", "tail"]}, "order is ['head', 'tail']; wanted each of joints once"),
]


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**ANIMAL, **changes}.items() if value is not None}


@pytest.fixture
def joints_file(tmp_path):
    def write(content: str | dict[str, Any] = ANIMAL) -> str:
        path = tmp_path / "beetle.yaml"
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def load(*opts: str):
    """A config that says nothing of joints but what `opts` do."""
    return read_config("WORKERS: 0", "none.yaml", opts)


def read(path: str) -> KeypointSpec:
    return keypoints_of(load("DATASET.DATASET", path), is_train=True)


# --- known data sets --------------------------------------------------------------------


@pytest.mark.parametrize("spec", [COCO, CROWD_POSE], ids=lambda spec: spec.name)
def test_known_joints_flip_and_group_as_the_original_s(spec):
    pairs = [list(range(17)), list(range(14))][spec is CROWD_POSE]
    first = 1 if spec is COCO else 0
    for left in range(first, 17 if spec is COCO else 12, 2):
        pairs[left], pairs[left + 1] = left + 1, left
    assert spec.flip_index == pairs
    order = (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)
    assert spec.order_index == tuple(j for j in order if j < spec.num_joints)
    with_center = spec.with_center()
    assert with_center.order_index == (spec.num_joints, *spec.order_index)
    assert with_center.flip_index == [*pairs, spec.num_joints]
    assert not spec.is_custom


# --- joints from a file -----------------------------------------------------------------


def test_a_file_describes_joints(joints_file):
    spec = read(joints_file())
    assert spec.is_custom
    assert spec.flip_index == [0, 2, 1, 4, 3, 5]
    assert spec.limb_index == [(0, 5), (0, 3)]
    assert spec.sigmas == (0.07,) * 6
    assert spec.order_index == (0, 1, 2, 3, 4, 5)


def test_flips_order_and_sigmas_are_as_given(joints_file):
    sigmas = {name: 0.01 * (i + 1) for i, name in enumerate(ANIMAL["joints"])}
    content = {
        "flips": [["head", "tail"]],
        "order": ["tail", *ANIMAL["joints"][:-1]],
        "sigmas": dict(reversed(sigmas.items())),
    }
    spec = read(joints_file(changed(content)))
    assert spec.flip_index == [5, 1, 2, 3, 4, 0]
    assert spec.order_index == (5, 0, 1, 2, 3, 4)
    assert spec.sigmas == tuple(sigmas.values())
    assert read(joints_file(changed({"limbs": None}))).limbs == ()


def test_flips_follow_from_names_in_any_usual_form(joints_file):
    joints = ["nose", "L_Eye", "R_Eye", "L_Ear", "R_Ear"]
    content = {"name": "ap10k", "joints": joints, "sigmas": 0.07}
    assert read(joints_file(content)).flip_index == [0, 2, 1, 4, 3]
    assert read(joints_file(content | {"flips": []})).flip_index == [0, 1, 2, 3, 4]


def test_one_joint_or_joints_beyond_ascii_are_joints(joints_file):
    spec = read(joints_file({"name": "plant", "joints": ["stem"], "sigmas": 0.07}))
    assert (spec.flip_index, spec.order_index, spec.limb_index) == ([0], (0,), [])
    content = "name: ente\njoints: [nase, Flügel L, Flügel R, 足]\nsigmas: 0.07\n"
    assert read(joints_file(content)).flip_index == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("changes", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED]
)
def test_a_mistake_in_a_file_of_joints_names_file_and_key(joints_file, changes, message):
    path = joints_file(changed(changes))
    with pytest.raises(ValueError, match=r"beetle\.yaml") as caught:
        read(path)
    assert str(caught.value).startswith(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_joints_that_cannot_be_read_names_the_key(joints_file, tmp_path):
    with pytest.raises(ValueError, match=r"joints of DATASET.DATASET, .*none.yaml: No such file"):
        read(str(tmp_path / "none.yaml"))
    for content in ("joints: [", "", "words"):
        with pytest.raises(ValueError, match=r"beetle.yaml (is not yaml|holds no keys)"):
            read(joints_file(content))


# --- in a config ------------------------------------------------------------------------


def test_a_config_holds_the_joints_and_needs_the_file_no_more(joints_file, tmp_path):
    path = joints_file()
    cfg = load("DATASET.DATASET", path)
    (tmp_path / "beetle.yaml").unlink()
    again = read_config(cfg.dump(), "the checkpoint")
    assert again == cfg
    assert keypoints_of(again, is_train=False) == keypoints_of(cfg, is_train=True)
    assert (again.DATASET.DATASET, again.DATASET.DATASET_TEST) == ("beetle", "beetle")
    assert (again.DATASET.NUM_JOINTS, again.MODEL.NUM_JOINTS) == (6, 6)


def test_embedded_joints_are_checked_like_a_file(joints_file):
    text = load("DATASET.DATASET", joints_file()).dump().replace("- tail", "- tale", 1)
    with pytest.raises(ValueError, match=r"^DATASET\.KEYPOINTS: .*'?tail'?"):
        read_config(text, "the checkpoint")


def test_what_is_given_beside_the_file_must_fit_it(joints_file):
    path = joints_file()
    with pytest.raises(ValueError, match=r"NUM_JOINTS is 17, but DATASET.DATASET 'beetle' has 6"):
        load_config(YAMLS["coco"], ["DATASET.DATASET", path])
    with pytest.raises(ValueError, match=r"DATASET.DATASET_TEST 'coco' has 17 joints"):
        load("DATASET.DATASET", path, "DATASET.DATASET_TEST", "coco")
    with pytest.raises(ValueError, match="DATASET.NUM_JOINTS is 8"):
        load("DATASET.DATASET", path, "DATASET.NUM_JOINTS", "8")
    center = load("DATASET.DATASET", path, "DATASET.WITH_CENTER", "True")
    assert (center.DATASET.NUM_JOINTS, center.MODEL.NUM_JOINTS) == (7, 7)


def test_two_files_of_different_joints_are_refused(joints_file, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(changed({"sigmas": 0.1})))
    with pytest.raises(ValueError, match="are different joints; use the same file"):
        load("DATASET.DATASET", joints_file(), "DATASET.DATASET_TEST", str(other))


def test_as_many_joints_of_other_names_are_refused(joints_file):
    """Trained on these, evaluated on COCO: the numbers agree, the joints do not."""
    names = [f"spot{i}" for i in range(17)]
    path = joints_file({"name": "spots", "joints": names, "sigmas": 0.1})
    with pytest.raises(ValueError, match="'spots' and DATASET.DATASET_TEST 'coco' have different"):
        load("DATASET.DATASET", path, "DATASET.DATASET_TEST", "coco")


def test_a_joint_called_center_has_no_center_beside_it(joints_file):
    path = joints_file({"name": "spots", "joints": ["center", "rim"], "sigmas": 0.1})
    with pytest.raises(ValueError, match=".spots. already has a joint named center"):
        load("DATASET.DATASET", path, "DATASET.WITH_CENTER", "True")
