"""A run resumes where it was saved, or one line explains why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from lib.training.run import start_state
from lib.training.state import TrainingState, resume, save_training
from lib.utils.checkpoint import load_checkpoint, save_checkpoint, save_weights
from lib.utils.dist import ALONE
from tests.helpers import OTHER, TINY, as_opts, network, tiny_config


@pytest.fixture
def cfg(tmp_path):
    return tiny_config(tmp_path, tmp_path)


def training_state(cfg, arch=TINY, seed: int = 0) -> TrainingState:
    return start_state(cfg, network(cfg, arch, seed), ALONE, images=10, steps=5)


def train_a_little(state: TrainingState, seed: int) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    sum(output.square().mean() for output in state.model(images)).backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.scheduler.step()


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert list(first) == list(second)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_resuming_restores_everything(cfg, tmp_path):
    state = training_state(cfg, seed=1)
    for seed in range(3):
        train_a_little(state, seed)
    state.epoch, state.best_ap = 4, 0.25
    torch.manual_seed(11)
    save_training(state, tmp_path / "c.pth.tar")
    numbers = torch.rand(3)
    again = training_state(cfg, seed=2)
    resume(again, tmp_path / "c.pth.tar")
    assert torch.equal(torch.rand(3), numbers)
    assert (again.epoch, again.best_ap) == (4, 0.25)
    assert again.scheduler.state_dict() == state.scheduler.state_dict()
    assert_same(state.model, again.model)
    for seed in range(3, 5):  # the optimizer's moments show in the next steps
        train_a_little(state, seed)
        train_a_little(again, seed)
    assert_same(state.model, again.model)


def test_a_resume_of_another_architecture_says_what_to_do(cfg, tmp_path):
    save_training(training_state(cfg, OTHER), tmp_path / "c.pth.tar")
    state = training_state(cfg)
    with pytest.raises(ValueError, match=r"another OUTPUT_DIR.*AUTO_RESUME False") as caught:
        resume(state, tmp_path / "c.pth.tar")
    assert str(tmp_path / "c.pth.tar") in str(caught.value)


def test_bare_weights_cannot_be_resumed_from(cfg, tmp_path):
    save_weights(tmp_path / "w.pth.tar", network(cfg))
    with pytest.raises(ValueError, match=r"cannot be resumed from: it lacks .*epoch.*optimizer"):
        resume(training_state(cfg), tmp_path / "w.pth.tar")


@pytest.mark.parametrize(
    "key", ["epoch", "best_ap", "state_dict", "optimizer", "scheduler", "scaler", "random"]
)
def test_the_missing_part_of_a_checkpoint_is_named(cfg, tmp_path, key):
    save_training(training_state(cfg), tmp_path / "c.pth.tar")
    saved = load_checkpoint(tmp_path / "c.pth.tar")
    del saved[key]
    save_checkpoint(tmp_path / "c.pth.tar", **saved)
    with pytest.raises(ValueError, match=f"cannot be resumed from: it lacks {key}"):
        resume(training_state(cfg), tmp_path / "c.pth.tar")


def test_a_resume_with_another_optimizer_says_so(cfg, tmp_path):
    save_training(training_state(cfg), tmp_path / "c.pth.tar")
    sgd = tiny_config(tmp_path, tmp_path, "TRAIN.OPTIMIZER", "sgd")
    with pytest.raises(ValueError, match="another optimizer"):
        resume(training_state(sgd), tmp_path / "c.pth.tar")


# --- settings that a resume may change, and those it may not ------------------------------


def resumed_with(tmp_path, *opts: str, step: int = 0, before: tuple[str, ...] = ()) -> None:
    """Save a run with the keys `before`, and resume it with the keys `opts` instead."""
    state = training_state(tiny_config(tmp_path, tmp_path, *before))
    state.step = step
    save_training(state, tmp_path / "c.pth.tar")
    resume(training_state(tiny_config(tmp_path, tmp_path, *opts)), tmp_path / "c.pth.tar")


def refusal(tmp_path, *opts: str, **options) -> str:
    with pytest.raises(ValueError, match=r"c\.pth\.tar was ") as caught:
        resumed_with(tmp_path, *opts, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


TWO_TAGS = ("LOSS.WITH_AE_LOSS", "[True, True]", "TEST.WITH_AE", "[True, True]")
CENTER = ("DATASET.WITH_CENTER", "True", "DATASET.NUM_JOINTS", "18", "MODEL.NUM_JOINTS", "18")


@pytest.mark.parametrize(
    ("opts", "key", "old", "new"),
    [
        (("MODEL.CODEC", "unbiased"), "MODEL.CODEC", "'reference'", "'unbiased'"),
        (("MODEL.TAG_PER_JOINT", "False"), "MODEL.TAG_PER_JOINT", "True", "False"),
        (("MODEL.AE_TAG_DIMS", "2"), "MODEL.AE_TAG_DIMS", "1", "2"),
        (("MODEL.FUSION_HEAD", "False"), "MODEL.FUSION_HEAD", "True", "False"),
        (TWO_TAGS, "LOSS.WITH_AE_LOSS", "[True, False]", "[True, True]"),
        (CENTER, "DATASET.WITH_CENTER", "False", "True"),
    ],
)
def test_a_resume_with_other_outputs_names_key_values_and_remedy(tmp_path, opts, key, old, new):
    line = refusal(tmp_path, *opts)
    assert f"was trained with {key} {old}, the config has {new}; keep {key}, choose" in line
    assert "another OUTPUT_DIR, or set AUTO_RESUME False" in line
    assert f"{key} {new}, the config has {old}" in refusal(tmp_path, before=opts)


def joints_file(path: Path, joints: list[str], flips: list[list[str]]) -> tuple[str, ...]:
    """A joints file of three joints, and the keys to train with it."""
    tree = {"name": path.stem, "joints": joints, "flips": flips, "sigmas": 0.1}
    path.write_text(yaml.safe_dump(tree))
    keys = {"DATASET.DATASET": path, "DATASET.NUM_JOINTS": 3, "MODEL.NUM_JOINTS": 3}
    return tuple(as_opts(keys | {"DATASET.DATASET_TEST": path}))


def test_a_resume_with_other_joints_names_the_first_that_differs(tmp_path):
    """Another order alone is enough: joints are channels of the maps."""
    fins = [["fin_a", "fin_b"]]
    old = joints_file(tmp_path / "fish.yaml", ["mouth", "fin_a", "fin_b"], fins)
    new = joints_file(tmp_path / "eel.yaml", ["mouth", "fin_b", "fin_a"], fins)
    line = refusal(tmp_path, *new, before=old)
    assert "with the 3 joints of fish, the config has the 3 of eel: joint 1 was fin_a, now" in line
    assert "keep DATASET.DATASET and its joints file, choose another OUTPUT_DIR" in line
    new = joints_file(tmp_path / "eel.yaml", ["mouth", "fin_a", "fin_b"], [])
    line = refusal(tmp_path, *new, before=old)
    assert "fin_a was flipped to fin_b, now to fin_a" in line
    crowd_pose = {"DATASET.DATASET": "crowd_pose_kpt", "DATASET.DATASET_TEST": "crowd_pose"}
    crowd_pose |= {"DATASET.NUM_JOINTS": 14, "MODEL.NUM_JOINTS": 14}
    line = refusal(tmp_path, *as_opts(crowd_pose))
    assert "the 14 of crowd_pose: joint 0 was nose, now it is left_shoulder" in line
    new = joints_file(tmp_path / "eel.yaml", ["mouth", "fin_a", "fin_b"], [["fin_b", "fin_a"]])
    resumed_with(tmp_path, *new, before=old)  # the same under another name


def test_a_resume_may_change_how_the_network_is_trained(tmp_path):
    tuning = {
        "TRAIN.LR": "0.5",
        "TRAIN.END_EPOCH": "9",
        "TRAIN.IMAGES_PER_GPU": "2",
        "DATASET.MAX_ROTATION": "10",
        "DATASET.ROOT": "elsewhere",
        "LOSS.AE_LOSS_TYPE": "max",
        "SEED": "7",
        "TRAIN.SHUFFLE": "False",
        "WORKERS": "3",
        "TEST.FLIP_TEST": "False",
    }
    resumed_with(tmp_path, *as_opts(tuning))


@pytest.mark.parametrize(
    ("key", "old", "new"), [("SEED", "0", "7"), ("TRAIN.SHUFFLE", "True", "False")]
)
def test_within_an_epoch_its_images_stay_in_their_order(tmp_path, key, old, new):
    line = refusal(tmp_path, key, new, step=2)
    assert f"{key} {old}, the config has {new}; keep {key} until the end of the epoch" in line


def test_a_checkpoint_of_before_settings_were_stored_resumes(cfg, tmp_path):
    save_training(training_state(cfg), tmp_path / "c.pth.tar")
    saved = load_checkpoint(tmp_path / "c.pth.tar")
    for config in ("", None):
        save_checkpoint(tmp_path / "c.pth.tar", **{**saved, "config": config})
        resume(training_state(cfg), tmp_path / "c.pth.tar")


@pytest.mark.parametrize(
    ("opts", "best"),
    [
        (("DATASET.TEST", "test2017"), -1.0),
        (("TEST.FLIP_TEST", "False"), -1.0),
        (("TEST.IMAGES_PER_GPU", "4"), 0.5),
        (("TRAIN.LR", "0.1"), 0.5),
    ],
)
def test_the_best_ap_counts_where_it_is_measured_alike(cfg, tmp_path, caplog, opts, best):
    state = training_state(cfg)
    state.best_ap = 0.5
    save_training(state, tmp_path / "c.pth.tar")
    again = training_state(tiny_config(tmp_path, tmp_path, *opts))
    resume(again, tmp_path / "c.pth.tar")
    assert again.best_ap == best
    said = [line for line in caplog.messages if f"{opts[0]} is {opts[1]}, it was" in line]
    assert len(said) == (best < 0)


def test_optimizer_settings_come_from_the_config(tmp_path):
    sgd = ("TRAIN.OPTIMIZER", "sgd", "TRAIN.WD")
    save_training(
        training_state(tiny_config(tmp_path, tmp_path, *sgd, "0.1")), tmp_path / "c.pth.tar"
    )
    state = training_state(tiny_config(tmp_path, tmp_path, *sgd, "0.2"))
    resume(state, tmp_path / "c.pth.tar")
    assert [group["weight_decay"] for group in state.optimizer.param_groups] == [0.2]


# --- damaged parts ------------------------------------------------------------------------

MOMENT = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"epoch": "3"}, "epoch '3'"),
        ({"epoch": -1}, "epoch -1"),
        ({"epoch": torch.tensor(3)}, "epoch tensor(3)"),
        ({"epoch": 2.0}, "epoch 2.0"),
        ({"step": -5}, "step -5"),
        ({"step": True}, "step True"),
        ({"best_ap": "high"}, "best_ap 'high'"),
        ({"best_ap": float("nan")}, "best_ap nan"),
        ({"layout": 7}, "layout 7"),
        ({"layout": [1, 2]}, "layout [1, 2]"),
        ({"step": 1, "layout": []}, "unknown layout"),
        ({"optimizer": []}, "optimizer []"),
        ({"optimizer": {}}, "another optimizer"),
        ({"optimizer": {"param_groups": 3}}, "another optimizer"),
        ({"optimizer": {"param_groups": [{"betas": 0}]}}, "'state'"),
        ({"optimizer": {"param_groups": [{"betas": 0}], "state": {0: {}}}}, "'step'"),
        ({"optimizer": {"param_groups": [{"betas": 0}], "state": {0: MOMENT}}}, "exp_avg of shape"),
        ({"optimizer": {"param_groups": [{"betas": 0}], "state": {9999: MOMENT}}}, "index out of"),
        ({"scheduler": {}}, "'_step_count'"),
        ({"scheduler": {"_step_count": "x", "last_epoch": 0}}, "cannot be resumed from"),
        ({"scheduler": {"_step_count": torch.zeros(2), "last_epoch": 0}}, "is not numeric"),
        ({"layout": torch.zeros(2)}, "layout tensor"),
        ({"scaler": 0}, "scaler 0"),
        ({"random": {}}, "'torch'"),
        ({"random": {"torch": torch.zeros(3), "cuda": []}}, "cannot be resumed from"),
        ({"state_dict": {}}, "holds no state dict"),
        ({"trained": {"a": torch.zeros(1)}}, "does not fit this model"),
        ({"average_updates": -10}, "average_updates -10"),
        ({"arch": "tiny"}, "arch in {} is a str, not a dict"),
        ({"arch": TINY.to_dict() | {"input_channel": torch.zeros(3)}}, "input_channel is tensor"),
        ({"config": "a: &a [*a]"}, "is not yaml"),
        ({"config": ["x"]}, "is a list, not a str"),
        ({"config": "DATASET: {DATASET: fish}"}, "names no joints"),
    ],
)
def test_a_damaged_part_is_one_line(cfg, tmp_path, fields, problem):
    path = tmp_path / "c.pth.tar"
    save_training(training_state(cfg), path)
    save_checkpoint(path, **{**load_checkpoint(path), **fields})
    with pytest.raises(ValueError, match=".") as caught:
        resume(training_state(cfg), path)
    assert str(path) in str(caught.value)
    assert problem.format(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["weights", "moments"])
def test_a_diverged_checkpoint_is_not_resumed(cfg, tmp_path, where):
    state = training_state(cfg, seed=1)
    train_a_little(state, 0)
    save_training(state, tmp_path / "c.pth.tar")
    saved = load_checkpoint(tmp_path / "c.pth.tar")
    weights, moments = saved["state_dict"], saved["optimizer"]["state"][0]
    tensor = weights["first.2.weight"] if where == "weights" else moments["exp_avg"]
    tensor.view(-1)[0] = float("nan")
    save_checkpoint(tmp_path / "c.pth.tar", **saved)
    with pytest.raises(ValueError, match=r"not finite: .*diverged, use an earlier checkpoint"):
        resume(training_state(cfg), tmp_path / "c.pth.tar")
