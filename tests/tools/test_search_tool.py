"""The search as users start it: its files, its continuation, its messages."""

from __future__ import annotations

import csv
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from lib.config import load_config
from lib.core.calibrate import Calibration
from lib.dataset import build
from lib.dataset.build import build_search_sets, make_dataloader
from lib.dataset.synthetic.layout import make_dataset
from lib.dataset.synthetic.scene import SceneParams
from lib.keypoints import COCO
from lib.models import build_model
from lib.models.arch import ArchSpec, uniform_arch
from lib.models.pieces import Piece, arch_macs, pieces_from_config
from lib.search import accuracy
from lib.search.latency import LatencyTable
from lib.utils import cli
from lib.utils.checkpoint import save_checkpoint
from lib.utils.lock import holding
from tests.conftest import FORK
from tests.helpers import ROOT, YAMLS, Result, needs_openvino
from tools.benchmark import __main__ as benchmark
from tools.benchmark import pieces
from tools.search.__main__ import accuracy_of, main

CFG = str(ROOT / "experiments/coco/mobilenet/supermobile.yaml")
LARGEST = uniform_arch(128, 16, (16, 16, 32, 32), (16, 16, 16), depths=(1, 1, 1, 1), block=(2, 7))
DEEP = uniform_arch(128, 16, (16, 16, 32, 32), (16, 16, 16), depths=(1, 4, 4, 2), block=(2, 7))
SPACE = ["SUPERNET.RESOLUTIONS", "[64, 128]", "SUPERNET.EXPANSIONS", "[2]"]
SPACE += ["SUPERNET.RATIOS", "[1.0, 0.75, 0.5]"]
QUICK = ["SUPERNET.RESOLUTIONS", "[64]", "TEST.FLIP_TEST", "False", "TEST.REFINE", "False"]
SHORT = ["--generations", "2", "--population", "4", "--calibrate", "4", "--search-images", "3"]
IMAGES = 10


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("search") / "data"
    scene = SceneParams(width=128, height=96, min_people=1, max_people=2, min_labelled=16)
    make_dataset(root, COCO, {"train": IMAGES}, scene, seed=2)
    return root


def keys(data: Path) -> list[str]:
    return ["DATASET.ROOT", str(data), "WORKERS", "0", "VERBOSE", "False", *SPACE]


@pytest.fixture(scope="module")
def supernet(data, tmp_path_factory) -> Path:
    """Untrained, with the settings of a training that left 3 images to search on."""
    cfg = load_config(CFG, [*keys(data), "DATASET.MAX_IMAGES", "7"])
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("supernet") / "checkpoint.pth.tar"
    weights = build_model(cfg, LARGEST).state_dict()
    save_checkpoint(path, arch=LARGEST.to_dict(), config=cfg.dump(), state_dict=weights)
    return path


@pytest.fixture
def args(data, supernet, tmp_path):
    """The command line; flags given override those of SHORT."""

    def make(*flags: str, out: str = "out", limit: str = "0.008", opts=()) -> list[str]:
        limits = ["--max-gmacs", limit] if limit else []
        where = ["--supernet", str(supernet), "--out", str(tmp_path / out)]
        return ["--cfg", CFG, *where, *SHORT, *limits, *flags, *keys(data), *opts]

    return make


@pytest.fixture
def call(capsys):
    """A tool in this process; what it prints is caught, its logging taken back."""

    def run(argv: list[str], tool: Callable = main) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.run(lambda: tool(argv))
        return Result(stopped.value.code or 0, *capsys.readouterr())

    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield run
    root.handlers[:], root.level = before


@pytest.fixture
def scored(monkeypatch) -> list[ArchSpec]:
    """Architectures whose accuracy was asked for; the wider, the better."""
    asked = []

    def score(self: accuracy.SubnetAccuracy, arch: ArchSpec) -> float:
        asked.append(arch)
        return sum(stage.channel for stage in arch.stages) / 100 + arch.img_size / 1000

    monkeypatch.setattr(accuracy.SubnetAccuracy, "__call__", score)
    return asked


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((path / "candidates.csv").read_text().splitlines()))


# --- what comes out ---------------------------------------------------------------------


FILES = ("winner.json", "candidates.csv", "journal.jsonl", "pareto.png")
FEW = ("--population", "3", "--search-images", "2")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(line: list[str], launcher: Sequence[str] = (), **files: Any) -> subprocess.Popen:
    """The search in a process of its own."""
    command = [sys.executable, *launcher, "-m", "tools.search", *line]
    return subprocess.Popen(command, cwd=ROOT, text=True, **files)


def wait_for_lines(journal: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_same_files(one: Path, other: Path) -> None:
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_killed_search_goes_on_and_ends_as_another_would(args, call, tmp_path):
    journal = tmp_path / "killed" / "journal.jsonl"
    process = start(args(*FEW, out="killed", opts=QUICK), stdout=subprocess.DEVNULL)
    wait_for_lines(journal, 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "winner.json").exists()
    known = journal.read_bytes().splitlines(keepends=True)
    known = [line for line in known if line.endswith(b"\n")]
    again, whole = (call(args(*FEW, out=o, opts=QUICK)) for o in ("killed", "whole"))
    assert (again.code, whole.code) == (0, 0), again.err + whole.err
    assert f"{len(known) - 1} candidates are known" in again.out
    assert journal.read_bytes().startswith(b"".join(known))
    assert_same_files(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_a_search_that_loses_a_process_ends_and_two_processes_complete_it(args, call, tmp_path):
    """The files are those of one process, which `torchrun` writes from the start, too."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    line = args(*FEW, out="killed", opts=QUICK)
    address = ["--world-size", "2", "--dist-url", f"file://{tmp_path}/store"]
    first, second = (start([*line, *address, "--rank", str(rank)], **pipes) for rank in (0, 1))
    wait_for_lines(tmp_path / "killed" / "journal.jsonl", 3, first)
    second.kill()
    assert second.communicate()[0] == ""
    error = "error: another process has ended; the same command resumes the search\n"
    assert (first.communicate()[1], first.returncode) == (error, 2)
    for out in ("killed", "together"):
        process = start(args(*FEW, out=out, opts=QUICK), TORCHRUN, **pipes)
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert ("candidates are known" in output) == (out == "killed")
    assert call(args(*FEW, out="whole", opts=QUICK)).code == 0
    assert_same_files(tmp_path / "killed", tmp_path / "whole")
    assert_same_files(tmp_path / "together", tmp_path / "whole")


@pytest.mark.slow
def test_a_mistake_of_the_search_is_one_line_of_one_process(args, tmp_path):
    address = ["--world-size", "2", "--dist-url", f"file://{tmp_path}/store"]
    line = args("--max-gmacs", "0.0001", *address)
    processes = [start([*line, "--rank", rank], stderr=subprocess.PIPE) for rank in ("0", "1")]
    (first, second) = (process.communicate()[1] for process in processes)
    assert [process.returncode for process in processes] == [2, 0]
    assert first.startswith("error: no architecture is small enough")
    assert (first.count("\n"), second) == (1, "")


@pytest.mark.parametrize("rule", ["true", "paper"])
def test_the_files_hold_every_candidate(args, call, scored, data, tmp_path, rule):
    done = call(args("--rule", rule, limit="0.012"))
    assert (done.code, done.err) == (0, "")
    table = rows(tmp_path / "out")
    assert len(table) == len(scored) == 8
    assert [row["generation"] for row in table] == ["0"] * 4 + ["1"] * 4
    assert all(float(row[f"gmacs_{rule}"]) <= 0.012 for row in table)
    assert list(table[0])[:6] == "generation AP gmacs_true gmacs_paper ms img_size".split()
    assert list(table[0])[6:9] == "input_channel stages.0.channel stages.1.channel".split()
    assert len(table[0]) == 5 + 9  # each choice of the space
    winner = ArchSpec.from_json(tmp_path / "out" / "winner.json")
    top = max(table, key=lambda row: float(row["AP"]))
    assert int(top["img_size"]) == winner.img_size
    assert [int(top[f"stages.{i}.channel"]) for i in range(4)] == [
        stage.channel for stage in winner.stages
    ]
    macs = arch_macs(pieces_from_config(load_config(CFG, keys(data)))(winner))
    assert float(top["gmacs_paper"]) == macs["paper"] / 1e9
    assert cv2.imread(str(tmp_path / "out" / "pareto.png")).shape == (480, 720, 3)


def test_a_finished_search_scores_nothing_again_and_more_generations_do(args, call, scored):
    call(args())
    assert len(scored) == 8
    call(args())
    assert len(scored) == 8
    done = call(args("--generations", "3"))
    assert "8 candidates are known" in done.out
    assert len(scored) == 12


def test_a_random_search_scores_as_many(args, call, scored):
    assert call(args("--random")).code == 0
    assert len(scored) == 8


def test_depths_and_kernels_are_searched(args, call, scored, data, tmp_path):
    cfg = load_config(CFG, keys(data))
    largest, path = replace(LARGEST, stages=DEEP.stages), tmp_path / "deep.pth.tar"
    weights = build_model(cfg, largest).state_dict()
    save_checkpoint(path, arch=largest.to_dict(), config=cfg.dump(), state_dict=weights)
    opts = ["SUPERNET.DEPTHS", "[1.0, 0.5]", "SUPERNET.KERNELS", "[7, 3]"]
    done = call(args("--supernet", str(path), limit="0.02", opts=opts))
    assert (done.code, done.err) == (0, "")
    table = rows(tmp_path / "out")
    names = ["stages.1.depth", "stages.1.blocks.3.kernel"]
    assert all({row[name] for row in table} <= {"4", "2", "7", "3"} for name in names)
    assert len({row["stages.1.depth"] for row in table}) == 2
    assert {len(arch.stages[1].blocks) for arch in scored} == {4, 2}
    winner = ArchSpec.from_json(tmp_path / "out" / "winner.json")
    macs = arch_macs(pieces_from_config(cfg)(winner))["true"]
    top = max(table, key=lambda row: float(row["AP"]))
    assert float(top["gmacs_true"]) == macs / 1e9 < 0.02


@pytest.mark.parametrize("keep", ["SUPERNET.IMPORTANCE activation SUPERNET.SORTING_IMAGES 2", ""])
def test_slices_of_a_network_that_was_trained_alone_are_searched(args, call, data, tmp_path, keep):
    cfg = load_config(str(YAMLS["coco"]), ["DATASET.ROOT", str(data)])
    path = tmp_path / "alone.pth.tar"
    weights = build_model(cfg, LARGEST).state_dict()
    save_checkpoint(path, arch=LARGEST.to_dict(), config=cfg.dump(), state_dict=weights)
    opts = ["SUPERNET.REFIT", "True", *keep.split(), *QUICK]
    line = args("--supernet", str(path), "--population", "3", opts=opts)
    done = call(line[line.index("--supernet") :])
    assert (done.code, done.err) == (0, "")
    assert len(rows(tmp_path / "out")) == 6


def test_a_folder_belongs_to_one_search(args, call, scored, tmp_path):
    (tmp_path / "out").mkdir()
    lock = FORK.Event(), FORK.Event()

    def other() -> None:
        with holding(tmp_path / "out"):
            lock[0].set()
            lock[1].wait(60)

    process = FORK.Process(target=other)
    process.start()
    assert lock[0].wait(60)
    assert_one_line(call(args()), "out")
    lock[1].set()
    process.join()
    assert call(args()).code == 0


def test_the_checkpoint_alone_describes_the_supernet(args, call, scored, tmp_path):
    line = args()
    assert call(line).code == 0
    del line[: line.index("--supernet")]
    line[line.index("--out") + 1] = str(tmp_path / "alone")
    done = call(line)
    assert (done.code, done.err) == (0, "")
    assert rows(tmp_path / "alone") == rows(tmp_path / "out")


def test_a_sub_network_is_recalibrated_and_scored(data):
    cfg = load_config(CFG, keys(data))
    model = build_model(cfg, LARGEST).eval()
    training, held_out = build_search_sets(cfg, 3)
    calibration = Calibration(training, partial(make_dataloader, cfg), 4)
    score = replace(accuracy_of(cfg, model, calibration, held_out), extract=lambda arch: model)
    before = model.first[0][1].running_mean.clone()
    assert 0 <= score(LARGEST) <= 1
    assert not torch.equal(model.first[0][1].running_mean, before)


def test_annotations_are_read_once(args, call, monkeypatch):
    read = []
    original = build.read_annotations
    monkeypatch.setattr(build, "read_annotations", lambda *a: read.append(a) or original(*a))
    assert call(args("--population", "3", opts=QUICK)).code == 0
    assert len(read) == 1


def test_latency_comes_from_a_measured_table(args, call, scored, data, tmp_path):
    table, largest = tmp_path / "table.json", tmp_path / "largest.json"
    LARGEST.to_json(largest)
    flags = ["pieces", "--cfg", CFG, "--superconfig", str(largest), "--out", str(table)]
    done = call([*flags, "--rounds", "1", "--check", str(largest), *keys(data)], benchmark.main)
    assert (done.code, done.err) == (0, "")
    assert "whole" in done.out
    flags = ["--max-ms", "1e6", "--latency-table", str(table)]
    assert call(args(*flags, limit="")).code == 0
    cfg = load_config(CFG, keys(data))
    expected = LatencyTable.read(table).total(pieces_from_config(cfg)(scored[0]))
    assert float(rows(tmp_path / "out")[0]["ms"]) == pytest.approx(expected, abs=1e-3)


@needs_openvino
def test_openvino_measures_the_layers_of_pieces(call, monkeypatch, tmp_path):
    wanted = [Piece("block", 8, 8, 8, kernel=7, expansion=2), Piece("deconv", 8, 16, 8, kernel=4)]
    monkeypatch.setattr(pieces, "space_pieces", lambda *_: wanted)
    path = tmp_path / "table.json"
    flags = ["--cfg", CFG, "--out", str(path), "--rounds", "1", "--runtime", "openvino"]
    done = call(["pieces", *flags], benchmark.main)
    assert (done.code, done.err) == (0, "")
    table = LatencyTable.read(path)
    assert table.machine.startswith("openvino 20")
    assert table.total(wanted) > table.total(wanted[:1]) > 0


# --- the held-out images ----------------------------------------------------------------


def test_the_images_to_search_on_are_the_last_and_not_calibrated_on(data):
    training, held_out = build_search_sets(load_config(CFG, keys(data)), 3)
    ids = [record.id for record in training.records]
    last = [record.id for record in held_out.records]
    assert ids + last == sorted(ids + last)
    assert (len(ids), len(last)) == (IMAGES - 3, 3)
    assert held_out.has_people


def test_a_supernet_trained_on_them_gets_a_warning(args, call, scored):
    assert "was trained on the images" not in call(args()).out
    seen = call(args("--search-images", "4", out="seen"))
    assert "for a fair AP, train it with DATASET.MAX_IMAGES 6" in seen.out


# --- mistakes ---------------------------------------------------------------------------


def assert_one_line(done: Result, *words: str) -> None:
    assert done.code == 2, done
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    for word in words:
        assert word in done.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max-gmacs", "0.0001"], ["limit on gmacs is 0.0001, the smallest found 0.00"]),
        (["--max-gmacs", "0"], ["limit on gmacs is 0; it must be above 0"]),
        (["--max-ms", "5"], ["--max-ms needs --latency-table"]),
        (["--max-ms", "5", "--latency-table", "nowhere.json"], ["nowhere.json"]),
        (["--population", "0"], ["population is 0; at least 1"]),
        (["--search-images", "10"], ["has 10 annotated", "1 to 9 are possible"]),
        (["--supernet", "nowhere.pth.tar"], ["nowhere.pth.tar"]),
    ],
    ids=lambda value: value[0],
)
def test_a_mistake_is_one_line(args, call, scored, flags, words):
    assert_one_line(call(args(*flags)), *words)
    assert scored == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("SUPERNET.REFIT", "True", "is a supernet, whose sub-networks were trained"),
        ("SUPERNET.EXPANSIONS", "[6]", "SUPERNET.EXPANSIONS is [6]; 1 to 2"),
    ],
)
def test_a_mistaken_key_is_one_line(args, call, key, value, words):
    assert_one_line(call(args(opts=[key, value])), words)


def test_no_limit_is_a_mistake(args, call):
    assert_one_line(call(args(limit="")), "give --max-gmacs, --max-ms, or both")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seed", "1"], "its seed is 0, not 1"),
        (["--max-gmacs", "0.009"], "its limits.gmacs is 0.008, not 0.009"),
        (["--calibrate", "5"], "its calibrate is 4, not 5"),
        (["--random"], "its random is false, not true"),
    ],
)
def test_another_search_is_not_continued(args, call, scored, flags, words):
    call(args())
    done = call(args(*flags))
    assert_one_line(done, "journal.jsonl is of another run", words, "another folder")


def test_a_journal_from_before_a_config_key_is_continued(args, call, scored, tmp_path):
    """A key that came with an update counts as its default, and as nothing else."""
    call(args())
    journal = tmp_path / "out" / "journal.jsonl"
    content = journal.read_text()
    assert '"AE_TAG_DIMS": 1, ' in content
    journal.write_text(content.replace('"AE_TAG_DIMS": 1, ', ""))
    assert call(args()).code == 0
    journal.write_text(content.replace('"WITH_CENTER": false, ', '"WITH_CENTER": true, '))
    assert_one_line(call(args()), "its config.DATASET.WITH_CENTER is true, not false")


def test_a_journal_of_positions_is_refused(args, call, scored, tmp_path):
    """Earlier searches wrote positions of options in place of names."""
    call(args())
    journal = tmp_path / "out" / "journal.jsonl"
    header, *entries = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([header.replace('"keys": "names", ', ""), *entries]))
    assert_one_line(call(args()), "of another run: its keys is null", '"names"', "another folder")


def test_another_supernet_is_another_search(args, call, scored, supernet, tmp_path):
    call(args())
    other = tmp_path / "other.pth.tar"
    state = torch.load(supernet, weights_only=True)
    save_checkpoint(other, **{**state, "epoch": 1})
    assert_one_line(call(args("--supernet", str(other))), "its supernet is")


def test_a_table_of_another_space_is_refused(args, call, scored, tmp_path):
    path = tmp_path / "table.json"
    LatencyTable("here", {("stem", 3, 8, 64, 0, 1, 0): 1.0}).write(path)
    assert json.loads(path.read_text())["machine"] == "here"
    done = call(args("--max-ms", "5", "--latency-table", str(path)))
    assert_one_line(done, "the latency table has no", "python -m tools.benchmark pieces")
    path.write_text("[]")
    assert_one_line(
        call(args("--max-ms", "5", "--latency-table", str(path))), "is no latency table"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-gmacs", "inf"], "--max-gmacs is inf; wanted a number of at least 0"),
        (["--max-gmacs", "nan"], "--max-gmacs is nan; wanted a number of at least 0"),
        (["--calibrate", "0"], "--calibrate is 0; wanted a number of at least 1"),
        (["--search-images", "-1"], "--search-images is -1; wanted a number of at least 1"),
        (["--seed", "-1"], "--seed is -1; wanted a number of at least 0"),
    ],
)
def test_a_number_that_no_search_can_use_is_one_line(args, call, flags, message):
    assert_one_line(call(args(*flags)), message)
