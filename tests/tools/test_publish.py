"""A published file is small and gives the network back; a wrong one is one line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lib.models.load import read_network
from lib.predictor import Predictor
from lib.utils import shipped
from lib.utils.checkpoint import load_checkpoint, save_checkpoint
from lib.utils.reading import hash_of
from tests.helpers import ROOT, TINY, network, tiny_config
from tools import publish

NAME = "tiny"


@pytest.fixture
def trained(tmp_path) -> Path:
    cfg = tiny_config(tmp_path, tmp_path, "MODEL.CODEC", "unbiased", "TEST.FLIP_TEST", "False")
    path = tmp_path / "checkpoint.pth.tar"
    state = network(cfg).state_dict()
    save_checkpoint(path, state_dict=state, arch=TINY.to_dict(), config=cfg.dump())
    return path


@pytest.fixture
def published(trained, tmp_path) -> Path:
    path = tmp_path / "weights" / f"{NAME}.safetensors"
    publish.main(["--model", str(trained), "--out", str(path)])
    return path


@pytest.fixture
def ours(published, monkeypatch) -> Path:
    """As if the folder of the published file were that of the project."""
    monkeypatch.setattr(shipped, "FOLDER", published.parent)
    return published


def test_matrices_are_rounded_to_half_precision_and_the_rest_is_exact(trained, published):
    before, after = (load_checkpoint(path) for path in (trained, published))
    assert after["arch"] == before["arch"]
    for name, tensor in before["state_dict"].items():
        expected = tensor.half().float() if tensor.dim() > 1 else tensor
        assert torch.equal(after["state_dict"][name], expected), name
    assert published.stat().st_size < 0.6 * trained.stat().st_size


def test_the_settings_to_run_it_are_kept_and_no_path_of_the_training(trained, published, tmp_path):
    file = read_network(published)
    assert (file.arch, file.codec, file.cfg.TEST.FLIP_TEST) == (TINY, "unbiased", False)
    assert str(tmp_path) in load_checkpoint(trained)["config"]
    assert str(tmp_path) not in load_checkpoint(published)["config"]


def test_another_input_size_is_that_of_the_architecture_too(trained, tmp_path):
    path = tmp_path / "larger.safetensors"
    publish.main(["--model", str(trained), "--out", str(path), "DATASET.INPUT_SIZE", "96"])
    file = read_network(path)
    assert file.arch is not None
    assert (file.input_size, file.arch.img_size) == (96, 96)


def test_the_card_keeps_what_was_written_by_hand(trained, published):
    card = published.with_suffix(".json")
    entries = json.loads(card.read_text(encoding="utf-8"))
    assert entries["sha256"] == hash_of(published)
    assert entries["bytes"] == published.stat().st_size
    assert (entries["input_size"], len(entries["joints"])) == (64, 17)
    card.write_text(json.dumps(entries | {"licence": "MIT", "bytes": 1}), encoding="utf-8")
    publish.main(["--model", str(trained), "--out", str(published)])
    assert json.loads(card.read_text(encoding="utf-8")) == entries | {"licence": "MIT"}


def test_the_same_network_gives_the_same_bytes(trained, published):
    before = published.read_bytes()
    publish.main(["--model", str(trained), "--out", str(published)])
    assert published.read_bytes() == before


def test_a_network_of_the_project_is_loaded_by_its_name(ours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()  # a folder of that name, of results for example, is in nobody's way
    assert Predictor.load(NAME, device="cpu").arch == TINY
    assert load_checkpoint(NAME).keys() == {"state_dict", "arch", "config"}
    (tmp_path / NAME).rmdir()
    (tmp_path / NAME).write_text("a file of that name comes first", encoding="utf-8")
    with pytest.raises(ValueError, match="tiny is damaged or no checkpoint"):
        Predictor.load(NAME)


def test_an_unknown_name_lists_the_known_ones(ours):
    with pytest.raises(ValueError, match=r"no checkpoint tinny; the project's own weights: tiny$"):
        Predictor.load("tinny")
    with pytest.raises(ValueError, match=r"no checkpoint tinny\.pth$"):
        Predictor.load("tinny.pth")


def test_another_sha256_than_the_card_says_is_one_line(ours):
    data = bytearray(ours.read_bytes())
    data[-1] ^= 1
    ours.write_bytes(data)
    with pytest.raises(ValueError, match=r"not the file that tiny\.json describes") as refused:
        Predictor.load(NAME)
    assert "\n" not in str(refused.value)
    ours.with_suffix(".json").unlink()
    assert Predictor.load(NAME, device="cpu").arch == TINY


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": 3}'])
def test_a_card_that_says_nothing_is_refused(ours, content):
    ours.with_suffix(".json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"tiny\.json"):
        Predictor.load(NAME)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 40)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _metadata(path: Path) -> None:
    save_file({"a": torch.zeros(2)}, path, {"litepose": "{"})


def _arch(path: Path) -> None:
    save_file({"a": torch.zeros(2)}, path, {"litepose": '{"arch": [3]}'})


def _other_tensors(path: Path) -> None:
    save_file({"a": torch.zeros(2)}, path, {"format": "pt"})


def _not_finite(path: Path) -> None:
    saved = load_checkpoint(path)
    next(iter(saved["state_dict"].values())).fill_(float("nan"))
    metadata = safe_open(path, "pt").metadata()
    save_file(saved["state_dict"], path, metadata)


FAULTS = (_cut, _empty, _noise, _folder, _pipe, _metadata, _arch, _other_tensors, _not_finite)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_holds_no_network_is_one_line(published, fault):
    published.with_suffix(".json").unlink()
    fault(published)
    with pytest.raises(ValueError, match=re.escape(NAME)) as refused:
        Predictor.load(published, device="cpu")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("out", "message"),
    [("weights.pth", "a name that ends with"), ("folder.safetensors", "cannot write")],
)
def test_a_name_that_cannot_be_written_is_one_line(trained, tmp_path, out, message):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ValueError, match=message):
        publish.main(["--model", str(trained), "--out", str(tmp_path / out)])


def test_the_weights_of_the_project_lie_in_its_folder():
    assert shipped.FOLDER == ROOT / "weights"
