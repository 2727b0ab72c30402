"""The paper's tables come out as the paper has them, and each figure is in every output."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import cv2
import pytest

from tests.helpers import ROOT, Result, network, tiny_config
from tools.paper import model_table
from tools.paper import networks as paper_networks
from tools.paper.networks import Cost
from tools.paper.tables import PAIRS, TABLES

ROWS = [row for rows in TABLES.values() for row in rows]
MADE_UP = Cost(512, params=10**6, macs=2 * 10**9, paper_macs=3 * 10**9, activations=2**24)


@pytest.fixture
def call(call_tool, monkeypatch):
    """The tool in this process; all networks cost the same."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(model_table, "cost_of", lambda row: MADE_UP)
    return partial(call_tool, model_table.main)


@pytest.fixture
def measured(monkeypatch):
    """Each network takes 10 ms of its paper's GMACs here; twice as much where it is contiguous."""
    times = {
        name: {way: row.gmacs * (20 if way == "contiguous" else 10) for way in paper_networks.WAYS}
        for name, row in paper_networks.timed().items()
    }
    monkeypatch.setattr(model_table, "measure", lambda rounds, onnx: times)


@pytest.fixture
def page(tmp_path) -> Path:
    """A page with the marks, and words around them."""
    lines = ["# Title"]
    for name in ("costs", "latency"):
        lines += [*model_table.marks(name), f"words after {name}"]
    path = tmp_path / "page.md"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_costs_of_a_network_are_those_of_the_page(monkeypatch):
    """That all cost as much as in the paper, tests of the networks state."""
    monkeypatch.chdir(ROOT)
    row = next(row for row in ROWS if row.name == "LitePose-XS")
    cells = model_table.cost_cells(row, paper_networks.cost_of(row))
    assert cells == ["LitePose-XS", 256, "1.68", "-", "0.88", "1.20", 1.2, "14", 49.5]


def test_every_row_is_in_every_output(call, tmp_path):
    flags = ("--json", tmp_path / "b/t.json", "--figures", tmp_path / "c")
    done = call("--no-latency", *flags)
    assert (done.code, done.err) == (0, "")
    lines = [line for line in done.out.splitlines() if line.startswith("|")]
    assert len(lines) == len(ROWS) + 2 * len(TABLES)
    tree = json.loads((tmp_path / "b/t.json").read_text())
    assert [row["network"] for row in tree["rows"]] == [row.name for row in ROWS]
    assert [row["macs"] for row in tree["rows"]] == [MADE_UP.macs] * len(ROWS)
    assert tree["times_as_fast"] == []
    assert not [key for key in tree["rows"][0] if key.endswith("last ms")]
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["ap_macs.png"]


def test_measured_figures_stand_beside_the_papers(call, tmp_path, measured, page):
    flags = ("--json", tmp_path / "t.json", "--doc", page)
    done = call(*flags, "--figures", tmp_path)
    assert done.code == 0
    assert "| LitePose-S | 100 | 50 | 50 | 97 | 76 | 420 |" in done.out
    assert "| LitePose-L | 274 | 137 | 137 | - | - | - |" in done.out
    assert (
        "| LitePose-S : EfficientHRNet-H-1 | 2.8 x | 2.8 x | 2.8 x | 2.9 x | 3.5 x | 2.9 x |"
        in (done.out)
    )
    assert (
        "| LitePose-XS : EfficientHRNet-H-3 | 3.6 x | 3.6 x | 3.6 x | 5.0 x | 4.9 x | 5.0 x |"
        in (done.out)
    )
    tree = json.loads((tmp_path / "t.json").read_text())
    assert [(pair["slow"], pair["fast"]) for pair in tree["times_as_fast"]] == list(PAIRS)
    rows = {row["network"]: row for row in tree["rows"]}
    assert rows["LitePose-S"]["contiguous ms"] == 100.0
    assert rows["shrinking, step 1"]["contiguous ms"] is None
    for name in ("ap_macs", "ap_latency"):
        assert cv2.imread(str(tmp_path / f"{name}.png")) is not None
    assert all(line in page.read_text() for line in done.out.splitlines())


def test_only_its_parts_of_a_page_are_written(call, page, measured):
    before = page.read_text()
    assert call("--no-latency", "--doc", page).code == 0
    computed = page.read_text()
    first, last = model_table.marks("latency")
    assert f"{first}\n{last}" in computed  # as it was
    assert call("--doc", page).code == 0
    whole = page.read_text()
    assert call("--no-latency", "--doc", page).code == 0
    assert page.read_text() == whole != computed != before
    assert all(line in whole for line in before.splitlines())


def test_every_network_is_measured_in_every_way(monkeypatch):
    monkeypatch.chdir(ROOT)
    small = next(row for row in ROWS if row.name == "LitePose-XS")
    monkeypatch.setattr(paper_networks, "timed", lambda: {"slow": small, "quick": small})
    monkeypatch.setattr(paper_networks, "SLOW", ("slow",))
    monkeypatch.setattr(paper_networks, "onnx_call", lambda model, size: lambda: None)
    turns = []

    def median_times(calls, rounds, device):
        turns.append(rounds)
        for call in calls:
            call()
        return [float(place) for place, _ in enumerate(calls)]

    monkeypatch.setattr(paper_networks, "median_times", median_times)
    times = paper_networks.measure(rounds=20, onnx=True)
    ways = {"contiguous": 0.0, "channels last": 1.0, "bf16": 2.0, "ONNX Runtime": 3.0}
    assert times == {"quick": ways, "slow": ways}
    assert turns == [20, 5]


def test_a_network_runs_in_onnx_runtime(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    model = network(tiny_config(tmp_path, tmp_path), seed=1)
    coarse, fine = paper_networks.onnx_call(model, 64)()
    assert (coarse.shape, fine.shape) == ((1, 34, 16, 16), (1, 17, 32, 32))


def test_no_pair_has_a_network_of_few_turns():
    assert not set(paper_networks.SLOW) & {name for pair in PAIRS for name in pair}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read"),
        ("no marks", "must have one line <!-- costs"),
        ("\n".join(reversed(model_table.marks("costs"))), "must have one line <!-- costs"),
        ("\n".join(model_table.marks("costs")), "must have one line <!-- latency"),
    ],
)
def test_a_page_without_its_marks_is_one_line_before_any_work(
    call, tmp_path, monkeypatch, text, message
):
    monkeypatch.setattr(model_table, "cost_of", None)
    path = tmp_path / "page.md"
    if text is not None:
        path.write_text(text)
    done = call("--doc", path)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert message in done.err
    assert str(path) in done.err


def test_no_rounds_and_no_folder_are_one_line(call, tmp_path):
    assert call("--rounds", 0) == Result(2, "", "error: --rounds is 0; at least 1\n")
    (tmp_path / "file").write_text("")
    done = call("--no-latency", "--json", tmp_path / "file/t.json")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "t.json" in done.err
