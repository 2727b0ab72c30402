"""The scripts as users call them: what they write and print, and their answers to mistakes."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import pytest
import torch

from lib.models import build_model
from lib.models.arch import uniform_arch
from lib.utils.checkpoint import load_checkpoint, save_weights
from tests.helpers import ROOT, TINY, YAMLS, Result, tiny_config, tiny_opts

FOLDERS = {
    "coco": "coco_kpt/pose_mobilenet/mobile",
    "crowd_pose": "crowd_pose_kpt/pose_mobilenet/mobile",
}


def command(data_set: str, arch: Path, data: Path, out: Path, *opts: str) -> list[str]:
    """Arguments of a script; `opts` are flags and keys in any order, and flags go first."""
    pairs = list(zip(opts[::2], opts[1::2], strict=True))
    flags = [part for pair in pairs if pair[0].startswith("--") for part in pair]
    keys = [part for pair in pairs if not pair[0].startswith("--") for part in pair]
    files = ["--cfg", str(YAMLS[data_set]), "--superconfig", str(arch)]
    return [*files, *flags, *tiny_opts(data, out), *keys]


def start(*command: str) -> Result:
    """Run `python COMMAND...` in a new process."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def arch(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("arch") / "tiny.json"
    TINY.to_json(path)
    return path


class Run(NamedTuple):
    """A finished training."""

    data_set: str
    data: Path
    out: Path
    result: Result

    @property
    def folder(self) -> Path:
        return self.out / "output" / FOLDERS[self.data_set]

    def args(self, arch: Path, *opts: str) -> list[str]:
        return command(self.data_set, arch, self.data, self.out, *opts)


@pytest.fixture(scope="module", params=["coco", "crowd_pose"])
def trained(request, arch, tmp_path_factory) -> Run:
    data = request.getfixturevalue(f"{request.param}_root")
    out = tmp_path_factory.mktemp(f"run_{request.param}")
    result = start("dist_train.py", *command(request.param, arch, data, out))
    return Run(request.param, data, out, result)


# --- output ------------------------------------------------------------------------------


def test_a_training_writes_where_the_readme_says(trained):
    assert trained.result.code == 0, trained.result.err
    assert trained.result.err == ""
    assert "epoch 0, step 1/" in trained.result.out
    names = {path.name for path in trained.folder.iterdir()}
    assert {"checkpoint.pth.tar", "final_state0.pth.tar"} <= names
    assert not [name for name in names if name.endswith(".partial")]
    [log] = trained.folder.glob("mobile_*_train.log")
    assert "epoch 0, step 1/" in log.read_text()
    assert list((trained.out / "log" / FOLDERS[trained.data_set]).glob("events.out.tfevents.*"))
    saved = load_checkpoint(trained.folder / "checkpoint.pth.tar")
    assert saved["epoch"] == 1
    assert saved["arch"] == TINY.to_dict()
    assert "OUTPUT_DIR" in saved["config"]


def test_an_evaluation_prints_a_table_and_keeps_the_results(trained, arch):
    done = start("valid.py", *trained.args(arch, "--vis", "2"))
    assert done.code == 0, done.err
    assert done.err == ""
    table = [line for line in done.out.splitlines() if line.startswith("|")]
    assert len(table) == 3
    assert table[0].startswith("| Arch | AP | Ap .5 | AP .75 |")
    assert ("AP (hard)" in table[0]) == (trained.data_set == "crowd_pose")
    assert table[2].startswith("| tiny |")
    split = "val2017" if trained.data_set == "coco" else "test"
    rows = json.loads((trained.folder / f"results/keypoints_{split}_results.json").read_text())
    assert isinstance(rows, list)
    assert cv2.imread(str(trained.folder / f"{split}_people.png")) is not None


def test_the_same_command_again_has_nothing_to_do(trained, arch, call):
    before = (trained.folder / "final_state0.pth.tar").read_bytes()
    done = call("dist_train", *trained.args(arch))
    assert (done.code, done.err) == (0, "")
    assert "nothing to do" in done.out
    assert (trained.folder / "final_state0.pth.tar").read_bytes() == before


def test_more_epochs_go_on_where_it_stopped(trained, arch, call, tmp_path):
    shutil.copytree(trained.out, tmp_path / "run")
    again = trained._replace(out=tmp_path / "run")
    done = call("dist_train", *again.args(arch, "TRAIN.END_EPOCH", "2"))
    assert (done.code, done.err) == (0, "")
    assert "resumed from" in done.out
    assert "after epoch 1" in done.out
    assert "epoch 0, step" not in done.out
    assert load_checkpoint(again.folder / "checkpoint.pth.tar")["epoch"] == 2


def test_any_file_of_a_training_can_be_evaluated(trained, arch, call):
    tables = []
    for name in ("checkpoint.pth.tar", "final_state0.pth.tar"):
        args = trained.args(arch, "TEST.MODEL_FILE", str(trained.folder / name))
        done = call("valid", *args)
        assert (done.code, done.err) == (0, "")
        assert f"weights from {trained.folder / name}" in done.out
        tables.append([line for line in done.out.splitlines() if line.startswith("|")])
    assert tables[0] == tables[1]


def test_a_student_learns_from_a_checkpoint(trained, arch, call, tmp_path):
    teacher = str(trained.folder / "checkpoint.pth.tar")
    student = trained._replace(out=tmp_path)
    for keys, size in (([], 64), (["TEACHER.INPUT_SIZE", "96", "AUTO_RESUME", "False"], 96)):
        done = call("dist_train", *student.args(arch, "--teacher", teacher, *keys))
        assert (done.code, done.err) == (0, "")
        assert f"teacher {teacher} at {size} px" in done.out


@pytest.mark.slow
def test_two_processes_train_and_evaluate_together(coco_root, arch, tmp_path, call):
    opts = ["TRAIN.IMAGES_PER_GPU", "2", "TRAIN.VALIDATE_EVERY", "1"]
    opts += ["TEST.DETECTION_THRESHOLD", "0", "DATASET.MAX_NUM_PEOPLE", "3"]
    args = command("coco", arch, coco_root, tmp_path, *opts)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = start(*launcher, "dist_train.py", *args)
    assert done.code == 0, done.err
    assert "on 2 x cpu" in done.out
    assert done.out.count("step 1/2") == 1  # only rank 0 logs
    folder = tmp_path / "output" / FOLDERS["coco"]
    saved = load_checkpoint(folder / "checkpoint.pth.tar")
    assert not [name for name in saved["state_dict"] if name.startswith("module.")]
    [log] = folder.glob("*_train.log")
    assert "trained" in log.read_text()
    # Both predicted with the statistics of rank 0, like one process with the saved weights.
    [results] = (folder / "results").iterdir()
    together = results.read_bytes()
    assert len(json.loads(together)) > 4
    results.unlink()
    assert call("valid", *args).code == 0
    assert results.read_bytes() == together


# --- mistakes ----------------------------------------------------------------------------


def assert_one_line(done: Result, *words: str) -> None:
    assert done.code == 2, done
    assert done.err.startswith("error: ")
    assert done.err.endswith("\n")
    assert done.err.count("\n") == 1, done.err
    assert "Traceback" not in done.out + done.err
    for word in words:
        assert word in done.err


@pytest.fixture
def args(coco_root, arch, tmp_path):
    def make(*opts: str, data: Path = coco_root, arch: Path = arch) -> list[str]:
        return command("coco", arch, data, tmp_path, *opts)

    return make


@pytest.fixture
def weights(coco_root, tmp_path) -> Path:
    """The weights of an untrained network."""
    path = tmp_path / "weights.pth.tar"
    save_weights(path, build_model(tiny_config(coco_root, tmp_path), TINY))
    return path


both = pytest.mark.parametrize("script", ["dist_train", "valid"])


@both
def test_a_misspelt_key_is_one_line(call, args, script):
    done = call(script, *args("TRAIN.LRATE", "1"))
    assert_one_line(done, "unknown key TRAIN.LRATE", "did you mean TRAIN.LR")


@both
def test_a_missing_data_folder_is_one_line(call, args, script, weights, tmp_path):
    done = call(script, *args("TEST.MODEL_FILE", str(weights), data=tmp_path / "nowhere"))
    assert_one_line(done, "DATASET.ROOT", "nowhere does not exist")


@both
def test_a_broken_annotation_file_is_one_line(call, args, script, weights, coco_root, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(coco_root, root)
    for path in (root / "annotations").iterdir():
        path.write_text(path.read_text()[:1000])
    done = call(script, *args("TEST.MODEL_FILE", str(weights), data=root))
    assert_one_line(done, "person_keypoints_", "is not JSON")


@both
def test_a_broken_architecture_is_one_line(call, args, script, tmp_path):
    path = tmp_path / "broken.json"
    tree = TINY.to_dict()
    tree["backbone_setting"][2]["num_blocks"] = 7
    path.write_text(json.dumps(tree))
    done = call(script, *args(arch=path))
    assert_one_line(done, f"{path}: stage 2 lists 1 blocks, num_blocks is 7")


def weight_key(script: str) -> str:
    return "MODEL.PRETRAINED" if script == "dist_train" else "TEST.MODEL_FILE"


@both
def test_weights_of_another_architecture_are_one_line(call, args, script, coco_root, tmp_path):
    other = uniform_arch(64, 16, (8, 8, 16, 16), (8, 8, 8), depths=(1, 1, 1, 1), block=(2, 3))
    path = tmp_path / "other.pth.tar"
    save_weights(path, build_model(tiny_config(coco_root, tmp_path), other))
    done = call(script, *args(weight_key(script), str(path)))
    if script == "valid":
        assert_one_line(done, f"{path} is of another architecture", "tiny.json")
    else:
        shapes = "(16, 1, 5, 5) for (8, 1, 5, 5)"
        assert_one_line(done, f"{path} does not fit this model", "of another shape", shapes)


@both
def test_truncated_weights_are_one_line(call, args, script, weights):
    weights.write_bytes(weights.read_bytes()[:2000])
    assert_one_line(call(script, *args(weight_key(script), str(weights))), str(weights))


class Malice:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("key", ["MODEL.PRETRAINED", "TRAIN.CHECKPOINT", "--teacher"])
def test_malice_is_one_line_in_training(call, args, key, tmp_path):
    path, marker = tmp_path / "evil.pth.tar", tmp_path / "executed"
    torch.save({"arch": Malice(marker)}, path)
    assert_one_line(call("dist_train", *args(key, str(path))), str(path), "refused")
    assert not marker.exists()


def test_malice_is_one_line_in_evaluation(call, args, tmp_path):
    path, marker = tmp_path / "evil.pth.tar", tmp_path / "executed"
    path.write_bytes(pickle.dumps(Malice(marker), protocol=2))
    assert_one_line(call("valid", *args("TEST.MODEL_FILE", str(path))), str(path), "refused")
    assert not marker.exists()


@pytest.fixture
def unreadable(coco_root, tmp_path) -> Path:
    """The data set with one damaged image in each split."""
    root = tmp_path / "unreadable"
    shutil.copytree(coco_root, root)
    for split in ("train2017", "val2017"):
        path = sorted((root / "images" / split).iterdir())[1]
        path.write_bytes(path.read_bytes()[:40])
    return root


@pytest.mark.parametrize("verbose", ["True", "False"])
def test_an_unreadable_image_is_one_line_in_training(call, args, verbose, unreadable):
    done = call("dist_train", *args("VERBOSE", verbose, data=unreadable))
    assert_one_line(done, "image ", ".jpg")


def test_an_unreadable_image_in_a_worker_is_one_line(args, unreadable):
    done = start("dist_train.py", *args("WORKERS", "1", data=unreadable))
    assert_one_line(done, "image ", "cannot read", ".jpg")


@pytest.mark.parametrize("verbose", ["True", "False"])
def test_an_unreadable_image_costs_an_evaluation_only_itself(
    call, args, verbose, weights, unreadable
):
    keys = ["TEST.MODEL_FILE", str(weights), "VERBOSE", verbose]
    done = call("valid", *args("--vis", "4", *keys, data=unreadable))
    assert done.code == 1
    bad = sorted((unreadable / "images/val2017").iterdir())[1]
    assert f"image {int(bad.stem)}: cannot read {bad}" in done.out
    assert "1 of 4 images were left out" in done.out
    assert "| Arch | AP |" in done.out


def test_unreadable_images_are_left_out_of_training_when_asked_for(call, args, unreadable):
    done = call("dist_train", *args("DATASET.UNREADABLE", "skip", data=unreadable))
    assert done.code == 0
    assert "the next image is used instead" in done.out


def test_weights_are_asked_for_where_nothing_was_trained(call, args):
    assert_one_line(call("valid", *args()), "no weights in", "TEST.MODEL_FILE")


def test_a_run_of_another_architecture_is_not_continued(call, args, arch, tmp_path):
    assert call("dist_train", *args()).code == 0
    other = uniform_arch(64, 8, (8, 8, 16, 24), (8, 8, 8), depths=(1, 1, 1, 1), block=(2, 3))
    other.to_json(tmp_path / "other.json")
    done = call("dist_train", *args(arch=tmp_path / "other.json"))
    assert_one_line(done, "another architecture", "OUTPUT_DIR", "AUTO_RESUME False")


def test_an_output_folder_that_cannot_be_is_one_line(call, args, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    done = call("valid", *args("OUTPUT_DIR", str(tmp_path / "file/output")))
    assert_one_line(done, "OUTPUT_DIR", "file/output")
