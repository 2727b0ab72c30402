"""A config is whole, checked and frozen, or one line says what is wrong with it."""

from __future__ import annotations

import logging

import pytest

from lib.config import load_config, read_config
from lib.config.default import _C
from tests.helpers import JOINTS, ROOT, YAMLS

COCO = YAMLS["coco"]
KNOWN = "coco, coco_kpt, crowd_pose, crowd_pose_kpt"
EXPERIMENTS = sorted(set((ROOT / "experiments").rglob("*.yaml")) - {JOINTS})


def refused(*opts: str, img_size: int | None = None) -> str:
    """What the user reads."""
    with pytest.raises(ValueError, match=".") as caught:
        load_config(COCO, opts, img_size)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_experiment_loads(path):
    cfg = load_config(path, img_size=256)
    assert list(cfg.DATASET.OUTPUT_SIZE) == [64, 128]
    joints = {"crowd_pose": 14, "animal": 8}
    assert cfg.MODEL.NUM_JOINTS == joints.get(path.relative_to(ROOT).parts[1], 17)


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("TRAIN.LR_STPE", "TRAIN.LR_STEP"),
        ("DATASET.INPUTSIZE", "DATASET.INPUT_SIZE"),
        ("OUTPUT_DIRS", "OUTPUT_DIR"),
        ("TEST.FLIPTEST", "TEST.FLIP_TEST"),
    ],
)
def test_a_misspelt_key_is_told_the_nearest_known_one(misspelt, meant):
    assert refused(misspelt, "1") == f"command line: unknown key {misspelt}; did you mean {meant}?"


def test_a_misspelt_key_of_a_yaml_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("TRAIN:\n  LEARNING_RATE: 1.0\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: unknown key TRAIN\.LEARNING_RATE"):
        load_config(path)


def test_the_node_of_model_specific_keys_is_open():
    cfg = load_config(COCO, ["MODEL.EXTRA.STAGE2.NUM_MODULES", "3"])
    assert cfg.MODEL.EXTRA.STAGE2.NUM_MODULES == 3
    assert "unknown key MODEL.STAGE2" in refused("MODEL.STAGE2", "3")


@pytest.mark.parametrize("value", ["{1, 2}", "1j", "b'x'", "[1e999]", "{1: 2}", "0x" + "f" * 3900])
def test_a_key_without_a_default_holds_plain_values(value):
    message = refused("MODEL.EXTRA.STAGE2.NUM_MODULES", value)
    assert message.endswith("must be numbers, text, or lists of them")
    assert len(message) < 200


def test_a_value_has_no_keys_below_it():
    message = refused("MODEL.EXTRA.STAGE2", "3", "MODEL.EXTRA.STAGE2.NUM_MODULES", "3")
    assert message.endswith("MODEL.EXTRA.STAGE2.NUM_MODULES: STAGE2 has no keys below it")


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("TRAIN.LR", "fast", "a number from 1e-12 to 1000"),
        ("TRAIN.END_EPOCH", "2.5", "a whole number from 1 to 1000000000"),
        ("TRAIN.SHUFFLE", "1", "True or False"),
        ("DATASET.INPUT_SIZE", "100", "a whole number from 32 to 4096 in steps of 32"),
        ("LOSS.NUM_STAGES", "1000000000", "a whole number from 1 to 6"),
        ("TRAIN.OPTIMIZER", "lamb", "one of adam, sgd"),
    ],
)
def test_a_value_out_of_range_names_key_value_and_range(key, value, accepted):
    message = refused(key, value)
    assert message.startswith(f"command line: {key} is ")
    assert value in message
    assert message.endswith(f"must be {accepted}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATASET.OUTPUT_SIZE", "['a', 'b']"),
        ("TRAIN.LR_STEP", "['late']"),
        ("LOSS.WITH_AE_LOSS", "[1.5, 'no']"),
        ("TEST.SCALE_FACTOR", "['1']"),
    ],
)
def test_an_entry_of_another_type_names_its_list(key, value):
    assert refused(key, value).startswith(f"command line: {key} is ")


def test_text_may_look_like_a_number():
    assert load_config(COCO, ["OUTPUT_DIR", "2024"]).OUTPUT_DIR == "2024"


@pytest.mark.parametrize(
    "key",
    [
        "LOSS.WITH_HEATMAPS_LOSS",
        "LOSS.HEATMAPS_LOSS_FACTOR",
        "LOSS.WITH_AE_LOSS",
        "LOSS.PUSH_LOSS_FACTOR",
        "LOSS.PULL_LOSS_FACTOR",
        "TEST.WITH_HEATMAPS",
        "TEST.WITH_AE",
        "DATASET.OUTPUT_SIZE",
    ],
)
def test_a_list_that_misses_a_stage_is_told_so(key):
    entry = {"FACTOR": "1.0", "SIZE": "128"}.get(key.rsplit("_", 1)[1], "True")
    assert refused(key, f"[{entry}]") == f"{key} has 1 entries, LOSS.NUM_STAGES is 2"


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["DATASET.NUM_JOINTS", "14"], "DATASET.NUM_JOINTS is 14, but"),
        (["MODEL.NUM_JOINTS", "14"], "MODEL.NUM_JOINTS is 14, DATASET.NUM_JOINTS is 17"),
        (["DATASET.DATASET_TEST", "crowd_pose"], "DATASET.DATASET_TEST 'crowd_pose' has 14 joints"),
        (["DATASET.WITH_CENTER", "True"], "has 17 joints plus the center"),
    ],
)
def test_joints_must_be_those_of_the_data_set(opts, message):
    assert message in refused(*opts)


def test_the_center_is_one_joint_more():
    joints = ["DATASET.NUM_JOINTS", "18", "MODEL.NUM_JOINTS", "18"]
    assert load_config(COCO, ["DATASET.WITH_CENTER", "True", *joints]).MODEL.NUM_JOINTS == 18


@pytest.mark.parametrize(
    ("key", "value", "possible"),
    [
        ("DATASET.DATASET", "mpii", f"{KNOWN}, or a joints file, *.yaml"),
        ("DATASET.DATASET_TEST", "mpii", f"{KNOWN}, or a joints file, *.yaml"),
    ],
)
def test_an_unknown_choice_is_told_the_possible_ones(key, value, possible):
    assert refused(key, value) == f"{key} is {value!r}; possible: {possible}"


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["DATASET.OUTPUT_SIZE", "[60, 120]"], "DATASET.OUTPUT_SIZE is [60, 120]"),
        (["DATASET.OUTPUT_SIZE", "[128, 64]"], "DATASET.OUTPUT_SIZE is [128, 64]"),
        (["DATASET.OUTPUT_SIZE", "[0, 128]"], "DATASET.OUTPUT_SIZE is [0, 128]"),
        (["MODEL.EXTRA.NUM_DECONV_LAYERS", "2"], "MODEL.EXTRA.NUM_DECONV_LAYERS is 2"),
        (["TEST.NMS_KERNEL", "7"], "TEST.NMS_PADDING is 2; with TEST.NMS_KERNEL 7 it must be 3"),
        (["DATASET.MIN_SCALE", "2"], "DATASET.MIN_SCALE is 2.0, above DATASET.MAX_SCALE 1.5"),
        (["TEST.SCALE_FACTOR", "[0.5, 2]"], "several scales must have 1 among them"),
        (["TEST.SCALE_FACTOR", "[0.37, 1]"], "1 is no multiple of 0.25 x 0.37"),
        (["TEST.SCALE_FACTOR", "[1, 1.26]"], "1.26 is no multiple of 0.25 x 1"),
        (
            ["TEST.SCALE_FACTOR", "[1, 1.25]", "MODEL.NAME", "pose_higher_hrnet"],
            "1.25 is no multiple of 0.5 x 1",
        ),
        (["TRAIN.BEGIN_EPOCH", "500"], "TRAIN.BEGIN_EPOCH is 500, not below TRAIN.END_EPOCH 500"),
        (["TRAIN.NESTEROV", "True", "TRAIN.MOMENTUM", "0"], "Nesterov needs a momentum"),
        (["DATASET.MIN_LABELLED_JOINTS", "18"], "is 18, above DATASET.NUM_JOINTS 17"),
        (
            ["LOSS.HEATMAPS_LOSS_FACTOR", "[0, 0]", "LOSS.WITH_AE_LOSS", "[True, False]"]
            + ["LOSS.PUSH_LOSS_FACTOR", "[0, 1]", "LOSS.PULL_LOSS_FACTOR", "[0, 1]"],
            "switch off every loss",
        ),
        (["TEST.WITH_AE", "(False, False)"], "TEST.WITH_AE must"),
        (["TEST.WITH_AE", "(True, True)"], "TEST.WITH_AE uses tags of stage 1"),
    ],
)
def test_settings_that_no_network_has_are_refused(opts, message):
    assert message in refused(*opts)


@pytest.mark.parametrize("factors", ["[0.5, 1, 2]", "[1, 1.25]", "[0.1, 0.3, 1]", "[0.37]"])
def test_scales_of_which_each_input_fits_the_network(factors):
    assert len(load_config(COCO, ["TEST.SCALE_FACTOR", factors]).TEST.SCALE_FACTOR) >= 1


def test_the_command_line_wins_over_the_yaml():
    cfg = load_config(COCO, ["TRAIN.LR", "0.5", "DATASET.ROOT", "elsewhere"])
    assert (cfg.TRAIN.LR, cfg.DATASET.ROOT) == (0.5, "elsewhere")
    assert load_config(COCO).TRAIN.LR == 4e-3


def test_an_exponent_without_a_point_is_a_number(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("TRAIN: {LR: 4e-3}")
    assert load_config(path).TRAIN.LR == 0.004
    assert load_config(path, ["TRAIN.LR", "1e-2"]).TRAIN.LR == 0.01


def test_a_whole_number_is_a_float_where_one_is_expected(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("TRAIN: {LR: 1}")
    for cfg in (load_config(path), load_config(COCO, ["TRAIN.LR", "1"])):
        assert cfg.TRAIN.LR == 1.0
        assert isinstance(cfg.TRAIN.LR, float)


def test_the_architecture_sets_the_size_of_inputs_and_maps():
    cfg = load_config(COCO, img_size=448)
    assert cfg.DATASET.INPUT_SIZE == 448
    assert list(cfg.DATASET.OUTPUT_SIZE) == [112, 224]


@pytest.mark.parametrize("size", [0, 33, 10**6])
def test_an_input_size_that_no_network_has_is_refused(size):
    assert f"DATASET.INPUT_SIZE is {size}; must be" in refused(img_size=size)


def test_an_input_size_on_the_command_line_wins_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        cfg = load_config(COCO, ["DATASET.INPUT_SIZE", "128"], img_size=448)
    assert cfg.DATASET.INPUT_SIZE == 128
    [record] = caplog.records
    assert "DATASET.INPUT_SIZE 128" in record.getMessage()
    assert "img_size 448" in record.getMessage()


@pytest.mark.parametrize("img_size", [None, 448])
def test_maps_follow_an_input_size_of_the_command_line(img_size):
    cfg = load_config(COCO, ["DATASET.INPUT_SIZE", "128"], img_size)
    assert list(cfg.DATASET.OUTPUT_SIZE) == [32, 64]


def test_a_loaded_config_is_frozen():
    cfg = load_config(COCO)
    with pytest.raises(AttributeError, match="frozen|immutable"):
        cfg.TRAIN.LR = 1.0
    with pytest.raises(AttributeError, match="frozen|immutable"):
        cfg.SEED = 1


def test_loading_leaves_no_trace():
    before = _C.dump()
    first = load_config(COCO, ["TRAIN.LR", "0.5", "MODEL.EXTRA.NEW", "1"], img_size=448)
    assert _C.dump() == before
    assert "NEW" not in load_config(COCO).MODEL.EXTRA
    assert first.TRAIN.LR == 0.5


def test_a_key_without_a_value_is_named():
    assert "'TRAIN.LR' has no value" in refused("SEED", "1", "TRAIN.LR")


def test_a_key_cannot_have_both_a_value_and_keys_below_it():
    assert "TRAIN" in refused("TRAIN", "1", "TRAIN.LR", "2")


def test_a_missing_yaml_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the config .*none\.yaml: No such file"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "content",
    [b"TRAIN: [1, 2", b"TRAIN:\n\tLR: 1", b"just words", b"", b"\x89PNG\xff\xfe\x00"],
    ids=["open bracket", "tab", "words", "empty", "binary"],
)
def test_a_yaml_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.yaml (is not yaml|holds no keys)") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_the_config_that_a_checkpoint_carries_is_the_config():
    cfg = load_config(COCO, ["TRAIN.LR", "0.5"], img_size=256)
    assert read_config(cfg.dump(), "the checkpoint") == cfg
    assert read_config(cfg.dump(), "the checkpoint", ["TRAIN.LR", "0.25"]).TRAIN.LR == 0.25


@pytest.mark.parametrize("text", ["TRAIN: {LRS: 1}", "a: b: c", "just words"])
def test_what_is_wrong_with_a_carried_config_names_its_file(text):
    with pytest.raises(ValueError, match="^run/checkpoint") as caught:
        read_config(text, "run/checkpoint")
    assert "\n" not in str(caught.value)


def test_the_size_of_a_person_needs_several_dimensions():
    assert "but MODEL.AE_TAG_DIMS is 1" in refused("LOSS.TAG_SIZE_FACTOR", "0.1")
    assert "but MODEL.AE_TAG_DIMS is 1" in refused("LOSS.PUSH_EACH_DIM", "True")


def test_a_start_of_the_push_loss_is_for_exp_alone():
    message = refused("LOSS.PUSH_START", "0.1", "LOSS.AE_LOSS_TYPE", "max")
    assert message.endswith(
        "LOSS.PUSH_START is 0.1, but LOSS.AE_LOSS_TYPE is max; it changes exp alone"
    )
