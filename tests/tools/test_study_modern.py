"""The study of options beyond the paper: its commands, pairs, tables, and what a failure leaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from lib.config import load_config
from lib.utils import cli
from lib.utils.shipped import find_weights
from tests.helpers import ROOT
from tools.study import __main__ as study
from tools.study import comparison, modern, runs, score

AP = {"paper": 0.5, "wahr": 0.6, "blur": 0.4, "recipe": 0.7}  # of seed 0; + .01 for each seed
YAML = ROOT / "experiments/crowd_pose/mobilenet"


def word_after(command: list[str], word: str) -> str:
    return command[command.index(word) + 1]


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """The commands that ran; none does anything but write its files."""
    commands, lock = [], threading.Lock()

    def run(arguments: list[str], environment: Mapping[str, str]) -> CompletedProcess:
        with lock:
            commands.append(arguments)
        if arguments[0] == "dist_train.py":
            name = Path(word_after(arguments, "--cfg")).stem
            weights = Path(word_after(arguments, "OUTPUT_DIR"), "joints", "model", name)
            weights.mkdir(parents=True)
            (weights / "final_state0.pth.tar").touch()
        elif "tools.study.score" in arguments:
            seed, part = Path(word_after(arguments, "--json")).parts[-3:-1]
            ap = AP[part] + 0.01 * int(seed.removeprefix("seed"))
            table = {"one pass": ap, "flip test": ap + 0.05}
            sets = [arguments[i + 1] for i, word in enumerate(arguments) if word == "--set"]
            Path(word_after(arguments, "--json")).write_text(json.dumps(dict.fromkeys(sets, table)))
        return CompletedProcess(arguments, 0, "", "")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(runs, "python", run)
    return commands


@pytest.fixture
def start(started, tmp_path, capsys) -> Callable[..., tuple[int, str, str]]:
    """The study of two parts with these flags: exit code, standard output, standard error."""

    def run(*flags: str) -> tuple[int, str, str]:
        args = ["modern", "--parts", "wahr", "blur", *flags, "--out", str(tmp_path / "out")]
        code = cli.code_of(lambda: study.main(args)) or 0
        return code, *capsys.readouterr()

    return run


def trainings(commands: list[list[str]]) -> dict[tuple[str, str], list[str]]:
    """The commands of dist_train.py by (seed, part), without folders."""
    result = {}
    for command in commands:
        if command[0] == "dist_train.py":
            seed, part = Path(word_after(command, "OUTPUT_DIR")).parts[-2:]
            places = [command.index(key) + 1 for key in ("OUTPUT_DIR", "LOG_DIR")]
            result[seed, part] = [word for i, word in enumerate(command) if i not in places]
    return result


def test_trainings_differ_in_the_keys_of_the_part_alone(start, started):
    code, _, err = start("--people", "real", "--seeds", "0", "1", "--recipe", "wahr", "blur")
    assert code == 0, err
    found = trainings(started)
    for seed in ("seed0", "seed1"):
        plain = found[seed, "paper"]
        assert found[seed, "wahr"] == [*plain, *modern.PARTS["wahr"].split()]
        assert found[seed, "blur"] == [*plain, *modern.PARTS["blur"].split()]
        both = f"{modern.PARTS['wahr']} {modern.PARTS['blur']}".split()
        assert found[seed, "recipe"] == [*plain, *both]
    assert word_after(found["seed1", "paper"], "SEED") == "1"


def test_no_part_changes_images_or_steps(start):
    keys = " ".join(modern.PARTS.values()).split()[::2]
    steps = {"DATASET.ROOT", "DATASET.MIX", "DATASET.MAX_IMAGES", "DATASET.TRAIN", "SEED"}
    steps |= {"TRAIN.END_EPOCH", "TRAIN.IMAGES_PER_GPU", "TRAIN.ACCUMULATE", "MODEL.PRETRAINED"}
    assert not steps & set(keys)
    for name, people in modern.PEOPLE.items():
        args = study.parse_args(["modern", "--people", name, "--teacher", "M.pth.tar"])
        for part in modern.keys_of_trainings(args).values():
            cfg = load_config(ROOT / people.yaml, part.split())  # keys and values are accepted
            assert cfg.TEACHER.INPUT_SIZE in (0, cfg.DATASET.INPUT_SIZE)


def test_the_recipe_is_modern_yaml():
    """The same keys, and the same values where they do not depend on the length of a training."""
    keys = " ".join(modern.PARTS[name] for name in modern.RECIPE).replace("{size}", "256").split()
    cfg = load_config(YAML / "modern.yaml", [], img_size=256)
    studied, plain = (load_config(YAML / "mobile.yaml", opts, 256) for opts in (keys, []))
    for key in set(keys[::2]) - {"TRAIN.WARMUP_EPOCHS", "TRAIN.EMA", "TEACHER.INPUT_SIZE"}:
        node, name = key.split(".")
        assert cfg[node][name] == studied[node][name], key
    for node in ("DATASET", "LOSS", "MODEL", "TEACHER", "TRAIN"):
        changed = {f"{node}.{name}" for name in plain[node] if cfg[node][name] != plain[node][name]}
        assert changed <= set(keys), node


def test_tables_compare_runs_of_one_seed(start, tmp_path):
    code, out, err = start("--seeds", "0", "1")
    assert code == 0, err
    rows = {line.split("|")[1].strip(): line for line in out.splitlines() if line.startswith("| ")}
    assert list(rows) == ["training", "paper", "wahr", "blur", "recipe"]
    assert "| 0.605 (0.010) | +0.100 (+0.100 to +0.100) |" in rows["wahr"]
    assert "| 0.405 (0.010) | -0.100 (-0.100 to -0.100) |" in rows["blur"]
    assert rows["recipe"].endswith("| +0.050 |")
    written = tmp_path / "out/rendered"
    assert written.joinpath("study.md").read_text(encoding="utf-8") == out
    assert (
        json.loads((written / "study.json").read_text())["paper"]["1"]["rendered"]["one pass"]
        == 0.51
    )
    assert (written / "study.png").read_bytes()[:4] == b"\x89PNG"


def test_several_sets_have_a_table_each_and_one_of_their_mean(start):
    out = start("--people", "real", "--seeds", "0")[1]
    titles = [line for line in out.splitlines() if line.endswith(":")]
    assert titles == [
        "Mean of MPII val, COCO val2017, COCO val2017, more:",
        "MPII val:",
        "COCO val2017:",
        "COCO val2017, more:",
    ]


def test_finished_runs_are_not_repeated_and_can_be_shown_alone(start, started, tmp_path):
    first = start("--seeds", "0")
    count = len(trainings(started))
    assert start("--seeds", "0")[:2] == first[:2]
    assert len(trainings(started)) == count == 4
    started.clear()
    code, out, _ = start("--seeds", "0", "1", "--finished")
    assert (code, out, started) == (0, first[1], [])


def test_a_failing_training_leaves_the_others(start, monkeypatch):
    works = runs.python

    def fail(arguments: list[str], environment: Mapping[str, str]) -> CompletedProcess:
        if "LOSS.WAHR" in arguments and "DATASET.BLUR" not in arguments:
            return CompletedProcess(arguments, 2, "", "error: non-finite loss\n")
        return works(arguments, environment)

    monkeypatch.setattr(runs, "python", fail)
    code, out, err = start("--seeds", "0", "--jobs", "2", "--recipe", "wahr", "blur")
    assert code == 2
    assert "error: wahr, seed 0: dist_train.py ended with 2: error: non-finite loss" in err
    assert "| blur | 1 | 0.400 |" in out
    assert "| wahr |" not in out


def test_without_the_run_that_all_are_compared_with_there_is_one_line(start):
    code, out, err = start("--finished")
    assert (code, out) == (2, "")
    assert "no finished run of 'paper'" in err


def test_branches_are_left_out_where_weights_are_loaded(started):
    args = study.parse_args(["modern", "MODEL.PRETRAINED", "a.pth.tar"])
    assert "branches" not in modern.keys_of_trainings(args)
    assert "branches" in modern.keys_of_trainings(study.parse_args(["modern"]))


def test_a_teacher_teaches_in_trainings_with_its_keys_alone(start, started, tmp_path):
    teacher = tmp_path / "M.pth.tar"
    teacher.touch()
    flags = ("--teacher", str(teacher), "--seeds", "0", "--recipe", "wahr", "teacher")
    code, _, err = start("--people", "real", *flags)
    assert code == 0, err
    found = trainings(started)
    keys = modern.PARTS["teacher"].replace("{size}", "256").split()
    expected = [*found["seed0", "wahr"], *keys, "--teacher", str(teacher)]
    assert found["seed0", "recipe"] == expected
    assert "--teacher" not in found["seed0", "wahr"]


def test_a_teacher_is_a_part_where_it_is_given(started):
    args = study.parse_args(["modern", "--teacher", "M.pth.tar", "DATASET.INPUT_SIZE", "192"])
    keys = modern.keys_of_trainings(args)["teacher"]
    assert keys == modern.PARTS["teacher"].replace("{size}", "192")  # as the crops
    assert "teacher" not in modern.keys_of_trainings(study.parse_args(["modern"]))


def test_the_default_recipe_has_a_teacher_where_it_is_given(started):
    """Without one the codec alone is left of it, which is a part already."""
    args = study.parse_args(["modern", "--teacher", "M.pth.tar", "--parts", "unbiased"])
    found = modern.keys_of_trainings(args)
    assert list(found) == ["paper", "unbiased", "recipe"]
    assert found["recipe"].startswith("MODEL.CODEC unbiased TEACHER.INPUT_SIZE 128 ")
    alone = modern.keys_of_trainings(study.parse_args(["modern", "--parts", "unbiased"]))
    assert list(alone) == ["paper", "unbiased"]


@pytest.mark.parametrize(
    "flags", [("--recipe", "teacher"), ("--with", "both", "TEACHER.FLIP_TEST True")]
)
def test_keys_of_a_teacher_without_one_are_one_line(start, started, flags):
    code, out, err = start(*flags)
    assert (code, out, started) == (2, "", [])
    assert "keys TEACHER.* need the weights of a teacher: give --teacher FILE" in err


def test_a_teacher_that_does_not_exist_is_one_line_before_any_training(start, started, tmp_path):
    code, out, err = start("--teacher", str(tmp_path / "M.pth.tar"))
    assert (code, out, started) == (2, "", [])
    assert "M.pth.tar does not exist" in err


def test_parts_and_recipe_may_be_none(started):
    only = study.parse_args(["modern", "--parts", "--recipe", "wahr", "blur"])
    assert list(modern.keys_of_trainings(only)) == ["paper", "recipe"]
    without = study.parse_args(["modern", "--parts", "wahr", "--recipe"])
    assert list(modern.keys_of_trainings(without)) == ["paper", "wahr"]


def test_other_keys_are_compared_like_a_part(start, started):
    code, out, err = start("--seeds", "0", "--with", "blur", "DATASET.BLUR 1", "--recipe")
    assert code == 0, err
    found = trainings(started)
    assert list(found) == [("seed0", "paper"), ("seed0", "wahr"), ("seed0", "blur")]
    assert found["seed0", "blur"] == [*found["seed0", "paper"], "DATASET.BLUR", "1"]


def test_keys_may_follow_flags_of_several_words(start, started):
    code, _, err = start(
        "--recipe", "wahr", "TRAIN.LR", "1e-4", "--seeds", "0", "1", "WORKERS", "0"
    )
    assert code == 0, err
    for command in trainings(started).values():
        assert (word_after(command, "TRAIN.LR"), word_after(command, "WORKERS")) == ("1e-4", "0")
    parsed = study.parse_args(["modern", "--with", "more", "DATASET.BLUR 1", "--parts", "SEED"])
    assert (parsed.others, parsed.parts) == ([["more", "DATASET.BLUR 1"]], [])
    assert parsed.opts == ["SEED"]  # without a value: `load_config` says so


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--recipe", "TRAIN.NOTHING", "3"], "unknown key TRAIN.NOTHING"),
        (["--with", "more", "DATASET.BLUR 7"], "DATASET.BLUR is 7"),
    ],
)
def test_a_mistake_in_a_key_is_one_line_before_any_training(start, started, flags, problem):
    code, out, err = start("--people", "real", *flags)
    assert (code, out, started) == (2, "", [])
    assert problem in err
    assert err.count("\n") == 1


def test_an_unknown_part_is_one_line(start, started):
    code, out, err = start("--recipe", "sharpness")
    assert (code, out, started) == (2, "", [])
    assert "there is no part 'sharpness'; parts: schedule, wahr" in err


@pytest.mark.parametrize("name", ["paper", "recipe", "a/b", ""])
def test_other_keys_need_a_name_of_their_own(start, started, name):
    code, out, err = start("--with", name, "DATASET.BLUR 1")
    assert (code, out, started) == (2, "", [])
    assert f"--with: {name!r} cannot be the name" in err


def test_seeds_that_one_of_two_lacks_are_not_compared():
    one = {"images": {"one pass": 0.25, "flip test": 0.5}}
    other = {"images": {"one pass": 0.75, "flip test": 0.75}}
    results = {"paper": {0: one, 1: one}, "wahr": {0: other, 2: one}}
    ap = comparison.mean_ap(results, ["images"], "one pass")
    assert comparison.paired_seeds(ap, "wahr") == [(0.75, 0.25)]


def test_scores_are_those_of_valid_py(call, call_tool, coco_root, tmp_path):
    model = str(find_weights("litepose-xs-crowdpose"))
    small = ["DATASET.INPUT_SIZE", "64", "DATASET.MAX_IMAGES", "2", "WORKERS", "0"]
    reports = {}
    for passes, flip in score.PASSES.items():
        json_file = tmp_path / f"{flip}.json"
        keys = ["DATASET.ROOT", str(coco_root), "OUTPUT_DIR", str(tmp_path), *small]
        flags = ["--joints", "shared", "--json", str(json_file), "TEST.FLIP_TEST", str(flip)]
        cfg = str(ROOT / "experiments/coco/mobilenet/mobile.yaml")
        done = call("valid", "--cfg", cfg, "--model", model, *flags, *keys)
        assert done.code == 0, done.err
        reports[passes] = json.loads(json_file.read_text())["table"]["AP"]
    json_file = tmp_path / "ap.json"
    flags = ["--model", model, "--set", "rendered", coco_root, "coco", "val2017"]
    done = call_tool(score.main, *flags, "--json", json_file, *small)
    assert done.code == 0, done.err
    assert json.loads(json_file.read_text()) == {"rendered": reports}
