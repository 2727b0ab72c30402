"""Evaluations from the command line: processes, interruptions, broken images, reports."""

from __future__ import annotations

import csv
import json
import multiprocessing
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

import valid
from lib.core import predictions
from lib.core.evaluate import three_digits
from lib.dataset import reader
from lib.keypoints import COCO
from lib.models import build_model
from lib.utils import cli
from lib.utils.checkpoint import save_checkpoint, save_weights
from lib.utils.reading import hash_of
from tests.helpers import EACH_RUNTIME, TINY, YAMLS, Result, fill, tiny_config, tiny_opts
from tests.test_scripts import FOLDERS, assert_one_line, command

KEYS = ("DATASET.MAX_NUM_PEOPLE", "3")  # random weights see many more


def table_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


@pytest.fixture(scope="module")
def arch(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("arch") / "tiny.json"
    TINY.to_json(path)
    return path


def random_weights(path: Path, data: Path, seed: int) -> Path:
    model = build_model(tiny_config(data, path.parent), TINY)
    with torch.no_grad():
        fill(model, seed)
    save_weights(path, model)
    return path


@pytest.fixture
def weights(coco_root, tmp_path) -> Path:
    return random_weights(tmp_path / "weights.pth.tar", coco_root, 3)


@pytest.fixture
def args(coco_root, arch, weights, tmp_path):
    """Flags and keys of an evaluation that writes below `out`."""

    def make(*opts: str, data: Path = coco_root, out: str = "out") -> list[str]:
        model = ("TEST.MODEL_FILE", str(weights))
        return command("coco", arch, data, tmp_path / out, *opts, *model, *KEYS)

    return make


@pytest.fixture
def folder(tmp_path):
    """Where an evaluation below `out` leaves its results."""
    return lambda out="out": tmp_path / out / "output" / FOLDERS["coco"] / "results"


def rows_of(folder: Path) -> bytes:
    """The result file, the only file in the folder."""
    [path] = folder.iterdir()
    assert path.name == "keypoints_val2017_results.json"
    return path.read_bytes()


@pytest.fixture
def watch(monkeypatch):
    """Ids of the predicted images; `watch(n)`: the process is interrupted after n of them."""
    each_outcome = predictions.each_outcome

    def start(stop: int = 1000) -> list[int]:
        seen = []

        def outcomes(*args):
            for outcome in each_outcome(*args):
                if len(seen) == stop:
                    raise KeyboardInterrupt
                seen.append(outcome.image_id)
                yield outcome

        monkeypatch.setattr(predictions, "each_outcome", outcomes)
        return seen

    return start


@pytest.fixture
def broken(coco_root, tmp_path):
    """The data set with so many of its four validation images broken, from the second on."""

    def make(count: int) -> tuple[Path, list[Path]]:
        root = tmp_path / "broken"
        shutil.copytree(coco_root, root)
        images = sorted((root / "images/val2017").iterdir())
        bad = (images[1:] + images[:1])[:count]
        for path in bad:
            path.write_bytes(path.read_bytes()[:40])
        return root, bad

    return make


# --- runtimes ---------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_another_runtime_finds_the_same_people(call, args, folder, runtime):
    assert call("valid", *args(out="eager")).code == 0
    assert call("valid", "--runtime", runtime, *args()).code == 0
    eager, other = (json.loads(rows_of(folder(out))) for out in ("eager", "out"))
    assert len(eager) > 3
    assert [row["image_id"] for row in other] == [row["image_id"] for row in eager]
    for ours, theirs in zip(other, eager, strict=True):
        np.testing.assert_allclose(ours["keypoints"], theirs["keypoints"], atol=0.05)


def test_an_evaluation_of_another_runtime_is_not_resumed(call, args, watch):
    watch(2)
    assert call("valid", *args()).code == 130
    seen = watch()
    assert call("valid", "--runtime", "onnxruntime", *args()).code == 0
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--runtime", "tensorrt"), "the runtime is 'tensorrt'; possible: onnxruntime"),
        (("--runtime", "openvino", "--oracle"), "ground-truth maps are not computed by a network"),
    ],
)
def test_a_runtime_that_does_not_fit_is_one_line(call, args, flags, message):
    assert_one_line(call("valid", *flags, *args()), message)


# --- several processes --------------------------------------------------------------------


def _run(argv: list[str], out: Path, err: Path) -> None:
    sys.argv = ["valid.py", *argv]
    with out.open("w") as sys.stdout, err.open("w") as sys.stderr:
        cli.run(valid.main)


def start_two(args: list[str], folder: Path) -> list[Result]:
    """The same command in two processes, by the original's flags; forked, which saves imports."""
    flags = ["--world-size", "2", "--dist-url", f"file://{folder / 'meeting'}"]
    files = [(folder / f"{rank}.out", folder / f"{rank}.err") for rank in range(2)]
    running = [
        multiprocessing.get_context("fork").Process(
            target=_run, args=([*flags, "--rank", str(rank), *args], *files[rank])
        )
        for rank in range(2)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join(timeout=600)
    pairs = zip(running, files, strict=True)
    return [Result(p.exitcode, out.read_text(), err.read_text()) for p, (out, err) in pairs]


def test_two_processes_resume_and_leave_what_one_leaves(
    call, args, watch, broken, folder, tmp_path
):
    """With a broken image, and after an interrupted run of one process."""
    root, [bad] = broken(1)
    alone = call("valid", *args(data=root, out="alone"), "--oracle")
    assert alone.code == 1
    assert " 0.000 " not in table_of(alone.out)[2].split("|")[2]  # some AP
    watch(stop=2)
    shared = [*args(data=root, out="shared"), "--oracle"]
    assert call("valid", *shared).code == 130
    watch()  # and now without an interruption
    first, second = start_two(shared, tmp_path)
    assert (first.code, second.code) == (1, 1), first.err + second.err
    assert "resuming: 1 of 4 images are finished" in first.out
    assert first.out.count(f"image {int(bad.stem)}: cannot read {bad}") == 1
    assert table_of(first.out) == table_of(alone.out)
    assert (second.out, second.err) == ("", "")
    assert len(json.loads(rows_of(folder("alone")))) > 3
    assert rows_of(folder("shared")) == rows_of(folder("alone"))


# --- interrupted runs ---------------------------------------------------------------------


def test_an_interrupted_evaluation_does_nothing_twice(call, args, watch, folder):
    whole = call("valid", *args(out="whole"))
    assert whole.code == 0
    first = watch(stop=3)
    assert call("valid", *args()).code == 130
    assert [path.name for path in folder().iterdir()] == [
        "keypoints_val2017_results.unfinished-0.jsonl"
    ]
    second = watch()
    done = call("valid", *args("WORKERS", "1"))
    assert (done.code, done.err) == (0, "")
    assert "resuming: 3 of 4 images are finished" in done.out
    assert (len(first), len(second)) == (3, 1)
    assert not set(first) & set(second)
    assert len(json.loads(rows_of(folder()))) > 3
    assert rows_of(folder()) == rows_of(folder("whole"))
    assert table_of(done.out) == table_of(whole.out)


@pytest.mark.parametrize("other", ["weights", "settings"])
def test_other_weights_or_settings_start_again(
    call, args, watch, folder, weights, coco_root, other
):
    watch(stop=3)
    assert call("valid", *args()).code == 130
    opts = []
    if other == "weights":
        random_weights(weights, coco_root, 4)
    else:
        opts = ["TEST.FLIP_TEST", "False"]
    seen = watch()
    done = call("valid", *args(*opts))
    assert (done.code, len(seen)) == (0, 4)
    assert "starting again" in done.out
    assert call("valid", *args(*opts, out="whole")).code == 0
    assert rows_of(folder()) == rows_of(folder("whole"))


# --- weights ------------------------------------------------------------------------------


def test_the_architecture_is_read_from_the_weights(call, args, weights, coco_root, tmp_path):
    expected = call("valid", *args(out="other"))
    keys = [*tiny_opts(coco_root, tmp_path), *KEYS, "DATASET.INPUT_SIZE", str(TINY.img_size)]
    done = call("valid", "--cfg", str(YAMLS["coco"]), "--model", str(weights), *keys)
    assert (done.code, done.err) == (0, "")
    assert table_of(done.out)[2].split("|")[2:] == table_of(expected.out)[2].split("|")[2:]


# --- broken images ------------------------------------------------------------------------


def test_when_every_image_fails_the_error_is_one_line(call, args, broken):
    root, bad = broken(4)
    done = call("valid", *args(data=root))
    assert_one_line(done, "none of 4 images could be evaluated", "cannot read")


def test_of_two_processes_one_reports_it(args, broken, tmp_path):
    root, _ = broken(4)
    first, second = start_two(args(data=root), tmp_path)
    assert_one_line(first, "none of 4 images could be evaluated")
    assert second == Result(2, "", "")


# --- reports ------------------------------------------------------------------------------


def test_the_table_is_written_with_its_circumstances(call, args, broken, weights, tmp_path):
    root, [bad] = broken(1)
    paths = tmp_path / "new/table.json", tmp_path / "new/table.csv"
    done = call("valid", "--json", str(paths[0]), "--csv", str(paths[1]), *args(data=root))
    assert done.code == 1
    names, _, values = ([c.strip() for c in line.split("|")[2:-1]] for line in table_of(done.out))
    tree = json.loads(paths[0].read_text())
    table = tree.pop("table")
    assert list(table) == names
    assert list(map(three_digits, table.values())) == values
    assert tree.pop("problems") == [
        f"image {int(bad.stem)}: cannot read {bad}: the file is no image"
    ]
    expected = {
        "arch": "tiny",
        "weights": str(weights),
        "sha256": hash_of(weights),
        "split": "val2017",
        "joints": list(COCO.joints),
        "pictures": 4,
    }
    assert tree == expected
    with paths[1].open(newline="") as file:
        [row] = csv.DictReader(file)
    expected_row = {**expected, "joints": " ".join(COCO.joints), "problems": 1, **table}
    assert row == {name: str(value) for name, value in expected_row.items()}


def test_annotations_are_parsed_once_for_all_reports(call, args, monkeypatch, tmp_path):
    files, read_tree = [], reader.read_tree
    monkeypatch.setattr(reader, "read_tree", lambda path: files.append(path) or read_tree(path))
    reports = ("--report", str(tmp_path / "page"), "--diagnose", "--vis", "2")
    assert call("valid", *reports, *args()).code == 0
    assert len(files) == 1


@pytest.mark.parametrize("flag", ["--json", "--csv"])
def test_a_table_that_cannot_be_written_is_an_early_error(call, args, watch, tmp_path, flag):
    seen = watch()
    assert_one_line(call("valid", flag, str(tmp_path), *args()), str(tmp_path), "is a folder")
    assert seen == []


@pytest.mark.parametrize("flag", ["--json", "--csv"])
def test_an_input_is_never_written_over(call, args, watch, weights, tmp_path, flag):
    seen, before = watch(), weights.read_bytes()
    (tmp_path / "link").symlink_to(weights)
    done = call("valid", flag, str(tmp_path / "link"), *args())
    assert_one_line(done, "link is the file of the input")
    assert seen == []
    assert weights.read_bytes() == before


def test_test_dev_is_for_the_server(call, args, folder, test_dev_root, tmp_path):
    table = tmp_path / "table.json"
    keys = ("DATASET.TEST", "test-dev2017")
    done = call("valid", "--json", str(table), *args(*keys, data=test_dev_root))
    assert (done.code, done.err) == (0, "")
    assert table_of(done.out) == []
    [path] = folder().iterdir()
    assert path.name == "person_keypoints_test-dev2017_litepose_results.json"
    assert f"submit {path} to the server that scores test-dev2017" in done.out
    rows = json.loads(path.read_text())
    split = json.loads((test_dev_root / "annotations/image_info_test-dev2017.json").read_text())
    assert {row["image_id"] for row in rows} <= {image["id"] for image in split["images"]}
    assert all(row["category_id"] == 1 and len(row["keypoints"]) == 51 for row in rows)
    assert json.loads(table.read_text())["table"] == {}


@pytest.mark.parametrize("trained_with", ["unbiased", "reference", None])
def test_weights_are_not_decoded_by_another_codec(args, call, coco_root, tmp_path, trained_with):
    """None: a checkpoint from before there were codecs is of the reference."""
    cfg = tiny_config(coco_root, tmp_path, "MODEL.CODEC", trained_with or "reference")
    path = tmp_path / "checkpoint.pth.tar"
    config = cfg.dump() if trained_with else cfg.dump().replace("CODEC", "CODEC_OF_OLD")
    save_checkpoint(path, state_dict=build_model(cfg, TINY).state_dict(), config=config)
    done = call("valid", *args("MODEL.CODEC", "reference"), "TEST.MODEL_FILE", str(path))
    if trained_with == "unbiased":
        assert_one_line(done, "MODEL.CODEC unbiased, not reference", str(path))
    else:
        assert done.code == 0, done


def test_the_codec_is_that_of_the_weights(args, call, coco_root, folder, tmp_path):
    """The yaml of the command does not name one."""
    cfg = tiny_config(coco_root, tmp_path, "MODEL.CODEC", "unbiased")
    path, model = tmp_path / "checkpoint.pth.tar", build_model(cfg, TINY)
    fill(model, 1)
    save_checkpoint(path, state_dict=model.state_dict(), arch=TINY.to_dict(), config=cfg.dump())
    runs = {"silent": (), "named": ("MODEL.CODEC", "unbiased")}
    for out, keys in runs.items():
        done = call("valid", *args(*keys, out=out), "TEST.MODEL_FILE", str(path))
        assert done.code == 0, done.err
    assert rows_of(folder("silent")) == rows_of(folder("named"))
    assert len(rows_of(folder("named"))) > 1000


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({}, "w16"),
        ({"superconfig": "mobile_configs/search-XS.json"}, "search-XS"),
        ({"oracle": "tags"}, "w16, ground-truth tags"),
        ({"oracle": "both"}, "oracle"),
        ({"joints": "shared"}, "w16, 17 shared joints"),
    ],
)
def test_a_network_has_the_name_of_the_file_that_describes_it(flags, name):
    defaults = {"cfg": "experiments/crowd_pose/higher_hrnet/w16.yaml", "superconfig": None}
    args = Namespace(**{**defaults, "oracle": None, "joints": "all", **flags})
    assert valid.name_of(args, COCO) == name
