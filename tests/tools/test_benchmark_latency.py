"""The latency of exported networks: what is compared does the same, and is all there is."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.deploy.session import installed_runtimes
from lib.models.arch import ArchSpec
from lib.utils import cli
from lib.utils.checkpoint import save_checkpoint
from tests.helpers import TINY, network, tiny_config
from tools.benchmark import __main__ as benchmark
from tools.benchmark import latency
from tools.benchmark.latency import PROGRAM, cost_of, export_again, input_size
from tools.export import __main__ as export
from tools.export.forms import eager_graph, forms_in, noise_image, open_form

FILES = ("model.onnx", "model-int8.onnx")
RUNS = [f"{name}, {runtime}" for name in FILES for runtime in installed_runtimes()]
NAMES = ["PyTorch eager", *RUNS, PROGRAM]


@pytest.fixture(scope="module")
def exported(coco_root, tmp_path_factory) -> Path:
    """A tiny network in all forms, for inputs of one size: exporting for any takes far longer."""
    folder = tmp_path_factory.mktemp("latency")
    cfg = tiny_config(coco_root, folder)
    state = {"state_dict": network(cfg).state_dict(), "arch": TINY.to_dict(), "config": cfg.dump()}
    save_checkpoint(folder / "checkpoint.pth.tar", epoch=1, **state)
    args = ["--model", str(folder / "checkpoint.pth.tar"), "--out", str(folder / "exported")]
    export.main([*args, "--int8", "2", "--size", "64x64"])
    return folder / "exported"


@pytest.fixture
def card(exported) -> dict:
    return json.loads((exported / "card.json").read_text())


def test_every_form_is_timed_on_every_number_of_threads(exported, capsys):
    benchmark.main(["latency", str(exported), "--json", "--threads", "1", "--rounds", "1"])
    report = json.loads(capsys.readouterr().out)
    assert list(report["milliseconds"]) == NAMES
    assert all(own["1"] > 0 for own in report["milliseconds"].values())
    assert set(report["bound_ms"]) == {"1"}
    assert report["bound_ms"]["1"] > 0
    for libraries, opened, running in report["process_mb"].values():
        assert 0 < libraries <= opened <= running
    assert report["input"] == "64 x 64"
    assert set(report["file_mib"]) == set(NAMES[1:-1])


def test_the_table_has_a_row_for_each_form(exported, capsys, monkeypatch):
    monkeypatch.setattr(latency, "memory_of", lambda *_: [1.0, 2.0, 3.0])
    benchmark.main(["latency", str(exported), "--threads", "1", "--rounds", "1"])
    out = capsys.readouterr().out
    assert all(f"| {name} |" in out for name in NAMES)
    assert "GMACs" in out
    assert "as many multiply-adds in a float32 matrix product" in out


class Malice:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_program_in_the_folder_is_never_loaded(exported, tmp_path, capsys, monkeypatch):
    """torch.export.load unpickles the sample inputs in it, whatever they are."""
    folder, marker = tmp_path / "exported", tmp_path / "executed"
    shutil.copytree(exported, folder)
    pickled = io.BytesIO()
    torch.save(Malice(marker), pickled)
    with zipfile.ZipFile(exported / "model.pt2") as whole:
        with zipfile.ZipFile(folder / "model.pt2", "w") as evil:
            for name in whole.namelist():
                is_inputs = "sample_inputs" in name
                evil.writestr(name, pickled.getvalue() if is_inputs else whole.read(name))
    monkeypatch.setattr(latency, "memory_of", lambda *_: [1.0, 2.0, 3.0])
    benchmark.main(["latency", str(folder), "--threads", "1", "--rounds", "1"])
    with pytest.raises(ValueError, match=r"model\.pt2 is not opened: .* can execute code"):
        open_form(folder / "model.pt2", threads=1)
    assert not marker.exists()
    with contextlib.suppress(Exception):  # the file is as malicious as it looks
        torch.export.load(folder / "model.pt2")
    assert marker.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"input": {"side": 10**9, "size": None}},
        {"input": {"side": 64, "size": [64]}},
        {"input": 3},
        {"outputs": ["stage0"]},
        {"outputs": 3},
        {"provenance": []},
        {"provenance": {"config": "MODEL: [", "arch": None}},
        {"provenance": {"config": "{}", "arch": [1]}},
        None,
    ],
)
def test_a_card_that_is_none_is_one_line(exported, card, tmp_path, capsys, monkeypatch, changes):
    (tmp_path / "model.onnx").write_bytes((exported / "model.onnx").read_bytes())
    text = "no JSON" if changes is None else json.dumps(card | changes)
    (tmp_path / "card.json").write_text(text)
    monkeypatch.setattr(sys, "argv", ["benchmark", "latency", str(tmp_path)])
    assert refused(capsys, "card")


def test_all_forms_give_outputs_of_the_same_shapes(exported, card):
    """So what is timed is the same work; weights of the eager one are at random."""
    images = noise_image((64, 64))
    shapes = [
        [tuple(np.shape(output)) for output in open_form(path, threads=1)(images)]
        for path in (*forms_in(exported).values(), export_again(card))
    ]
    assert all(own == shapes[0] for own in shapes)
    torch.set_num_threads(1)


def test_the_cost_is_of_the_network_in_the_card(card):
    cost = cost_of(card, (64, 64))
    graph = eager_graph(card)
    assert graph.outputs == tuple(card["outputs"])
    assert ArchSpec.from_dict(card["provenance"]["arch"]) == TINY
    assert cost["weights_bytes"] == 4 * cost["parameters"]
    assert cost_of({**card, "flip_test": True}, (64, 64))["macs"] == 2 * cost["macs"]
    assert cost_of(card, (128, 64))["macs"] == 2 * cost["macs"]


def test_the_input_is_as_reported_or_as_exported(card):
    assert input_size(card, None) == (64, 64)
    with pytest.raises(ValueError, match="exported for 64x64 alone"):
        input_size(card, "128x64")
    any_size = {"input": {"side": 128, "size": None}}
    assert input_size(any_size, None) == (128, 128)
    assert input_size(any_size, "128x64") == (128, 64)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "100x64"], "multiples of 64"),
        (["--size", "64"], "width x height"),
        (["--size", "0x64"], "multiples of 64"),
        (["--threads", "0"], "from 1"),
        (["--rounds", "0"], "from 1"),
    ],
)
def test_mistakes_are_one_line(exported, capsys, monkeypatch, flags, message):
    monkeypatch.setattr(sys, "argv", ["benchmark", "latency", str(exported), *flags])
    assert refused(capsys, message)


def test_a_folder_without_an_export_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark", "latency", str(tmp_path)])
    assert refused(capsys, "tools.export")


def refused(capsys, message: str) -> bool:
    with pytest.raises(SystemExit) as stopped:
        cli.run(benchmark.main)
    lines = capsys.readouterr().err.strip().splitlines()
    return stopped.value.code == cli.MISTAKE and len(lines) == 1 and message in lines[0]
