"""The studies: the commands they run, the records they reuse, the tables they print."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from lib.config import load_config
from lib.models import build_model
from lib.models.arch import ArchSpec
from lib.utils import cli
from lib.utils.complexity import count_params
from tests.helpers import ROOT, TINY
from tools.study import __main__ as study
from tools.study import ablation, runs, supernet

QUICK = ["WORKERS", "0", "DEBUG.DEBUG", "False", "TRAIN.IMAGES_PER_GPU", "4"]
QUICK += ["DATASET.MAX_NUM_PEOPLE", "3", "TEST.FLIP_TEST", "False"]


@pytest.fixture
def started(monkeypatch, call) -> list[list[str]]:
    """The commands of the scripts that ran, here in this process."""
    commands = []

    def run(arguments: list[str], environment: Mapping[str, str]) -> CompletedProcess:
        commands.append(arguments)
        done = call(arguments[0].removesuffix(".py"), *arguments[1:])
        return CompletedProcess(arguments, done.code, done.out, done.err)

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(runs, "python", run)
    return commands


@pytest.fixture
def start(started, coco_root, tmp_path, capsys) -> Callable[..., tuple[int, str, str]]:
    """The tool with these flags: exit code, standard output, standard error."""
    TINY.to_json(tmp_path / "tiny.json")
    where = ["--data", str(coco_root), "--out", str(tmp_path / "out")]
    small = ["--arch", str(tmp_path / "tiny.json"), "--epochs", "1"]

    def run(*flags: str) -> tuple[int, str, str]:
        args = ["ablation", *small, *flags, *where, *QUICK]
        code = cli.code_of(lambda: study.main(args)) or 0
        return code, *capsys.readouterr()

    return run


def rows(printed: str) -> dict[str, list[str]]:
    """The table's cells by its first column."""
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_every_network_is_trained_and_scored_once_and_never_again(start, started, tmp_path):
    code, out, err = start("--kernels", "5", "3", "--seeds", "0", "1")
    assert code == 0, err
    assert [command[0] for command in started] == ["dist_train.py", "valid.py"] * 6
    found = rows(out)
    assert list(found) == ["network", "---", "5x5", "3x3", "5x5, no fusion"]
    assert found["network"][2:4] == ["seed 0", "seed 1"]
    [record] = (tmp_path / "out/seed1/tiny_3").glob("valid_*.json")
    assert found["3x3"][3] == f"{json.loads(record.read_text())['report']['table']['AP']:.3f}"
    code, again, err = start("--kernels", "5", "3", "--seeds", "0", "1")
    assert (code, again, err) == (0, out, "")
    assert len(started) == 12


def test_another_kernel_later_trains_only_that_one(start, started):
    start("--kernels", "5", "--seeds", "0")
    before = len(started)
    code, out, err = start("--kernels", "5", "3", "--seeds", "0")
    assert code == 0, err
    assert [Path(command[4]).stem for command in started[before:]] == ["tiny_3"] * 2


def test_kernel_and_head_are_the_only_differences(start, started, tmp_path):
    start("--kernels", "5", "3", "--seeds", "0")
    trained = [command for command in started if command[0] == "dist_train.py"]
    of = {Path(command[command.index("OUTPUT_DIR") + 1]).name: command for command in trained}
    assert list(of) == ["tiny_5", "tiny_3", "tiny_5_no_fusion"]
    plain, other, headless = (
        [part for part in command if str(tmp_path / "out") not in part] for command in of.values()
    )
    assert plain == other
    assert headless == [*plain, "MODEL.FUSION_HEAD", "False"]
    for kernel in (5, 3):
        arch = ArchSpec.from_json(tmp_path / f"out/tiny_{kernel}.json")
        blocks = {stage.blocks for stage in arch.stages}
        assert blocks == {((2, kernel),)}
        stages = zip(arch.stages, TINY.stages, strict=True)
        same = tuple(replace(stage, blocks=tiny.blocks) for stage, tiny in stages)
        assert replace(arch, stages=same) == TINY


def test_the_table_has_the_parameters_of_what_was_trained(start, tmp_path):
    found = rows(start("--kernels", "5", "--seeds", "0")[1])
    arch = ArchSpec.from_json(tmp_path / "out/tiny_5.json")
    yaml = ROOT / "experiments/synthetic/quickstart.yaml"
    for name, keys in (("5x5", []), ("5x5, no fusion", ["MODEL.FUSION_HEAD", "False"])):
        parameters = count_params(build_model(load_config(yaml, keys), arch))
        assert found[name][0] == f"{parameters:,}"


def test_a_run_with_other_settings_is_not_taken_for_this_one(start, started):
    start("--kernels", "5", "--seeds", "0")
    before = len(started)
    code, out, err = start("--kernels", "5", "--seeds", "0", "--epochs", "2")
    assert (code, out) == (2, "")
    assert "dist_train_quickstart_tiny_5.json is of another command; give another --out" in err
    assert len(started) == before


def test_a_failing_script_is_reported_in_one_line_and_run_again(start, monkeypatch):
    works = runs.python
    failed = CompletedProcess([], 2, "", "log\nerror: no such image\n")
    monkeypatch.setattr(runs, "python", lambda *args: failed)
    code, out, err = start("--kernels", "5", "--seeds", "0")
    assert (code, out) == (2, "")
    assert err.endswith("\nerror: dist_train.py ended with 2: error: no such image\n")
    monkeypatch.setattr(runs, "python", works)
    assert start("--kernels", "5", "--seeds", "0")[0] == 0


def test_an_architecture_that_is_not_there_is_reported_before_any_training(start, started):
    code, out, err = start("--arch", "nowhere.json")
    assert (code, started) == (2, [])
    assert err.startswith("error: ")
    assert "nowhere.json" in err


def test_differences_are_those_of_the_same_seed():
    """Two seeds that differ by .2 from one another: what differs by .1 does so for both."""
    aps = {"7x7": [0.5, 0.3], "3x3": [0.4, 0.2]}
    costs = {name: (1000, 0.01) for name in aps}
    cells = rows(ablation.ablation_table([0, 1], aps, costs))
    assert cells["7x7"] == ["1,000", "0.0100", "0.500", "0.300", "0.400 (0.200)", ""]
    assert cells["3x3"][4:] == ["0.300 (0.200)", "-0.100 (-0.100 to -0.100)"]


def test_one_seed_has_no_spread():
    assert runs.mean_and_spread([0.5]) == "0.500"
    assert runs.mean_and_spread([0.25, 0.75]) == "0.500 (0.500)"


def test_a_supernet_is_trained_once_and_its_sub_networks_are_scored(
    started, coco_root, tmp_path, monkeypatch
):
    """The commands alone: every script reports the same AP."""

    def pretend(arguments: list[str], environment: Mapping[str, str]) -> CompletedProcess:
        started.append(arguments)
        if "--json" in arguments:
            rows = [{"ap_before": 0.1, "ap_after": 0.4}]
            report = rows if arguments[0] == "weight_transfer.py" else {"table": {"AP": 0.5}}
            Path(arguments[-1]).write_text(json.dumps(report))
        return CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(runs, "python", pretend)
    out = tmp_path / "out"
    args = ["supernet", "--data", str(coco_root), "--out", str(out), "--seeds", "0"]
    printed = supernet.supernet_study(study.parse_args([*args, "--sampling", "sandwich"]))
    found = rows(printed)
    cells = ["wide", "0.100", "0.400", "0.500", "0.500", "80%", "100%"]
    assert f"| sandwich | {' | '.join(cells)} |" in printed
    assert found["from scratch, distilled from wide"] == ["0.500"]
    assert [command[0] for command in started].count("weight_transfer.py") == 3
    assert len([command for command in started if "--teacher" in command]) == 1
    assert json.loads((out / "study.json").read_text())["sandwich/wide"][0]["tuned"] == 0.5
