"""Several data sets in one training: each is itself, and unlabelled joints cost nothing."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch

from lib.config import read_config
from lib.core.distill import Imitation
from lib.core.loss import MultiLossFactory
from lib.core.trainer import StepSettings
from lib.core.views import make_view
from lib.dataset.build import build_dataset, build_training_set, make_dataloader
from lib.keypoints import COCO, CROWD_POSE
from lib.utils.mix import mix_of
from tests.helpers import JOINTS, TINY, network, tiny_config
from tests.runs import assert_equal_files, assert_same_end, killed, train

FACE = [COCO.joints.index(name) for name in COCO.joints if name not in CROWD_POSE.joints]
BODY = [COCO.joints.index(name) for name in CROWD_POSE.joints[:12]]


@pytest.fixture
def entries(coco_root, crowd_pose_root):
    """Entries of DATASET.MIX: COCO and CrowdPose, six and ten images."""
    return [
        {"ROOT": str(coco_root), "DATASET": "coco", "TRAIN": "train2017"},
        {"ROOT": str(crowd_pose_root), "DATASET": "crowd_pose", "TRAIN": "trainval"},
    ]


@pytest.fixture
def config(request, tmp_path):
    """Settings of a tiny training, in COCO's or CrowdPose's joints, on the given entries."""

    def make(data_set: str, mix: list[dict], *opts: str):
        root = request.getfixturevalue(f"{data_set}_root")
        return tiny_config(root, tmp_path, "DATASET.MIX", str(mix), *opts, data_set=data_set)

    return make


def assert_equal_samples(one, other):
    for name, value in one._asdict().items():
        np.testing.assert_equal(value, getattr(other, name), name)


# --- each set is itself -------------------------------------------------------------------


def test_the_samples_of_a_mix_are_those_of_each_set_alone(config, entries):
    mixed = build_training_set(config("crowd_pose", entries))
    coco, crowd_pose = (build_dataset(config(name, [])) for name in ("coco", "crowd_pose"))
    assert len(mixed) == len(coco) + len(crowd_pose)
    for epoch in (0, 3):
        for index in range(len(crowd_pose)):
            alone = crowd_pose[epoch, index]
            assert_equal_samples(mixed[epoch, len(coco) + index], alone)
        for index in range(len(coco)):
            alone, sample = coco[epoch, index], mixed[epoch, index]
            labelled = np.array([name in COCO.joints for name in CROWD_POSE.joints])
            np.testing.assert_array_equal(sample.labelled, labelled)
            np.testing.assert_array_equal(sample.joints[:, :12], alone.joints[:, BODY])
            assert not sample.joints[:, 12:, 2].any()
            assert_equal_samples(sample._replace(joints=alone.joints, labelled=None), alone)


def test_a_mix_of_one_set_trains_the_weights_of_that_set(config, entries, tmp_path):
    """Bit for bit."""
    for name, mix in (("alone", []), ("mixed", entries[:1])):
        train(config("coco", mix), tmp_path / name)
    assert_equal_files(
        tmp_path / "alone/final_state0.pth.tar", tmp_path / "mixed/final_state0.pth.tar"
    )


@pytest.mark.parametrize("weight", [2, 0.5, 1.5, 0.3])
def test_a_weight_is_the_number_of_passes_of_an_epoch(config, entries, weight):
    mixed = build_training_set(config("coco", [entries[0] | {"WEIGHT": weight}, entries[1]]))
    count = round(6 * weight)
    assert len(mixed) == count + 10
    seen = [
        mixed.place((epoch, index))
        for epoch in range(30)
        for index in range(len(mixed))
        if mixed.place((epoch, index))[0] == 0
    ]
    assert len(seen) == 30 * count
    assert len(set(seen)) == len(seen)  # no crop twice
    times = Counter(image for _, _, image in seen)
    assert set(times.values()) == {5 * count}  # no image more often than another
    number, one_pass, image = mixed.place((1, 0))
    assert_equal_samples(mixed[1, 0], mixed.parts[number].dataset[one_pass, image])


def test_a_killed_run_of_a_mix_ends_the_same(config, entries, tmp_path):
    steps = ("TRAIN.END_EPOCH", "2", "TRAIN.SAVE_STEPS", "2", "TRAIN.EMA", "0.9")
    cfg = config("crowd_pose", [entries[0] | {"WEIGHT": 0.5}, entries[1]], *steps)
    train(cfg, tmp_path / "whole")
    killed(3, lambda: train(cfg, tmp_path / "part"))
    other = config("crowd_pose", entries[1:] + [entries[0] | {"WEIGHT": 0.5}], *steps)
    with pytest.raises(ValueError, match=r"trained with DATASET.MIX .*; keep DATASET.MIX"):
        train(other, tmp_path / "part")  # within an epoch, whose samples would change places
    killed(5, lambda: train(cfg, tmp_path / "part"))
    torch.manual_seed(99)  # the state of the last process is another one
    train(cfg, tmp_path / "part")
    assert_same_end(tmp_path / "whole", tmp_path / "part")
    [first, *_] = json.loads((tmp_path / "part/run_card.json").read_text())["starts"]
    assert [(one["images"], one["samples"]) for one in first["mix"]] == [(6, 3), (10, 10)]
    assert first["mix"][0]["labelled"] == list(CROWD_POSE.joints[:12])


# --- joints that a set does not label -----------------------------------------------------


def test_unlabelled_joints_get_no_gradient(config, entries):
    """Neither heatmaps nor tags, but from a teacher; the others' are the same without the mask."""
    cfg = config("coco", entries, "TRAIN.IMAGES_PER_GPU", "16", "TRAIN.SHUFFLE", "False")
    [batch] = make_dataloader(cfg, build_training_set(cfg))
    settings, criterion = StepSettings.from_config(cfg), MultiLossFactory.from_config(cfg)
    view = make_view(batch, cfg.DATASET.INPUT_SIZE, settings)
    model = network(cfg, TINY, seed=1)
    outputs = [output.detach().requires_grad_() for output in model(view.images)]
    sum(criterion(view.images, outputs, view.targets).values()).backward()
    for output in outputs:
        gradient = output.grad.abs().amax(dim=(2, 3)) > 0  # (B, C)
        for first in range(0, output.shape[1], 17):  # heatmaps, then tags
            assert not gradient[6:, first:][:, FACE].any()
            assert gradient[:6, first:][:, FACE].any()
            assert gradient[6:, first:][:, BODY].any()
    imitated = [output.detach().requires_grad_() for output in outputs]  # from a teacher
    taught = Imitation(17)(imitated, [output.detach() + 1 for output in outputs], view.targets)
    sum(taught.values()).backward()
    assert all(output.grad[6:, FACE].any() for output in imitated)
    whole = view.targets._replace(labelled=None)
    others = [output.detach().requires_grad_() for output in outputs]
    sum(criterion(view.images, others, whole).values()).backward()
    for output, other in zip(outputs, others, strict=True):
        assert other.grad[6:, FACE].any()  # without the mask they are taught to be absent
        assert torch.equal(output.grad[:, BODY], other.grad[:, BODY])
        assert torch.equal(output.grad[:6], other.grad[:6])


def test_a_person_without_any_shared_joint_is_ignored(config, entries, coco_root, tmp_path):
    """As a person without keypoints: no target, and no heatmap loss on the box."""
    root = tmp_path / "faces"
    shutil.copytree(coco_root, root)
    path = root / "annotations/person_keypoints_train2017.json"
    tree = json.loads(path.read_text())
    first = tree["annotations"][0]
    first["keypoints"][15:] = [0] * 36
    first["keypoints"][2] = 2
    first["num_keypoints"] = 1
    path.write_text(json.dumps(tree))
    before, after = (
        build_training_set(config("crowd_pose", [entries[0] | {"ROOT": str(folder)}]))
        for folder in (coco_root, root)
    )
    [one], [other] = (
        [r for r in data.parts[0].dataset.records if r.id == first["image_id"]]
        for data in (before, after)
    )
    assert len(other.joints) == len(one.joints) - 1
    assert len(other.ignore) == len(one.ignore) + 1


def test_a_flip_swaps_what_is_labelled(config, entries):
    """Of a set that labels the left wrist alone, the flipped crops have a right one."""
    data = build_training_set(config("coco", entries)).parts[1].dataset
    data.labelled = np.array([name == "left_wrist" for name in COCO.joints])
    samples = [data[epoch, 0] for epoch in range(8)]
    assert {sample.flipped for sample in samples} == {True, False}
    for sample in samples:
        [joint] = np.flatnonzero(sample.labelled)
        assert COCO.joints[joint] == ("right_wrist" if sample.flipped else "left_wrist")


def test_the_joints_file_of_an_entry_is_embedded(config, entries, tmp_path):
    """A checkpoint's config needs no file."""
    shutil.copy(JOINTS, tmp_path / "joints.yaml")
    cfg = config("coco", [entries[0] | {"DATASET": str(tmp_path / "joints.yaml")}])
    (tmp_path / "joints.yaml").unlink()
    [entry] = mix_of(read_config(cfg.dump(), "the checkpoint"))
    assert (entry.spec.name, entry.spec.num_joints) == ("animal", 8)


# --- mistakes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"WEIGHT": 0}, r"MIX\[1\]: WEIGHT is 0; must be a number above 0"),
        ({"WEIGHT": "much"}, r"MIX\[1\]: WEIGHT is 'much'"),
        ({"WEIGHT": True}, r"MIX\[1\]: WEIGHT is True"),
        ({"DATASET": "mpii"}, r"MIX\[1\]: DATASET is 'mpii'; possible: coco, .*or a joints file"),
        ({"SPLIT": "train"}, r"MIX\[1\]: unknown key 'SPLIT'; possible: ROOT, DATASET, TRAIN, WE"),
        ({"ROOT": 7}, r"MIX\[1\]: ROOT is 7; must be a name"),
        ({"ROOT": "nowhere"}, r"MIX\[1\]: ROOT nowhere does not exist"),
        ({"TRAIN": "train2017"}, "crowdpose_train2017.json"),
        ({"DATASET": str(JOINTS), "ROOT": "x"}, r"MIX\[1\]: animal and .* crowd_pose share no"),
    ],
)
def test_a_bad_entry_is_one_line(config, entries, change, message):
    with pytest.raises(ValueError, match=message) as error:
        build_training_set(config("crowd_pose", [entries[0], entries[1] | change]))
    assert "\n" not in str(error.value)


def test_a_mix_without_a_root_and_other_contradictions_are_one_line(config, entries):
    for mix, opts, message in (
        ([{}], (), r"MIX\[0\] lacks the key ROOT"),
        ([3], (), "must be a list of 0 to 100 entries"),
        (entries, ("DATASET.CACHE", "x"), "DATASET.CACHE holds one data set"),
        (
            entries,
            ("DATASET.WITH_CENTER", "True", "DATASET.NUM_JOINTS", "18", "MODEL.NUM_JOINTS", "18"),
            r"MIX\[1\]: crowd_pose lacks nose, .* DATASET.WITH_CENTER False",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            config("coco", mix, *opts)


def test_the_command_line_reads_a_mix_as_a_yaml_file_does(coco_root, tmp_path):
    for text, mix in (
        (
            "[{ROOT: data/a b, WEIGHT: 1.5},{ROOT: 'c'}]",
            [{"ROOT": "data/a b", "WEIGHT": 1.5}, {"ROOT": "c"}],
        ),
        ("[]", []),
    ):
        assert tiny_config(coco_root, tmp_path, "DATASET.MIX", text).DATASET.MIX == mix
    for text in ("[{ROOT: data/a", "[&a [*a]]", "{ROOT: data/a}", "[" * 3000):
        with pytest.raises(
            ValueError, match="DATASET.MIX is '.*must be a list of 0 to 100 entries"
        ):
            tiny_config(coco_root, tmp_path, "DATASET.MIX", text)


def test_a_mix_in_which_nobody_is_labelled_is_one_line(config, entries, coco_root, tmp_path):
    root = tmp_path / "empty"
    (root / "annotations").mkdir(parents=True)
    path = "annotations/person_keypoints_train2017.json"
    tree = json.loads((coco_root / path).read_text())
    (root / path).write_text(json.dumps({**tree, "annotations": []}))
    with pytest.raises(ValueError, match="no annotated image to train on"):
        build_training_set(config("coco", [entries[1], entries[0] | {"ROOT": str(root)}]))
