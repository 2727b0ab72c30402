"""A checkpoint is whole, fits, and holds values only; else one line says what is wrong."""

from __future__ import annotations

import logging
import math
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch

from lib.utils import files
from lib.utils.checkpoint import (
    load_checkpoint,
    newest_whole,
    save_checkpoint,
    save_weights,
)
from lib.utils.files import versions_of
from lib.utils.reading import hash_of
from tests.helpers import OTHER, full_disk, load_weights, network, tiny_config


@pytest.fixture
def cfg(tmp_path):
    return tiny_config(tmp_path, tmp_path)


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


# --- weights ----------------------------------------------------------------------------


def test_saved_weights_come_back(cfg, tmp_path):
    model, again = network(cfg, seed=1), network(cfg, seed=2)
    save_weights(tmp_path / "w.pth.tar", model)
    load_weights(again, tmp_path / "w.pth.tar")
    assert_same(model, again)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth.tar"]


@pytest.mark.parametrize("prefix", ["module.", "1.", "module.1.", "1.module."])
def test_the_names_of_a_wrapped_network_fit(cfg, tmp_path, prefix):
    model, again = network(cfg, seed=1), network(cfg, seed=2)
    torch.save({prefix + k: v for k, v in model.state_dict().items()}, tmp_path / "w.pth")
    load_weights(again, tmp_path / "w.pth")
    assert_same(model, again)


def test_a_wrapped_network_is_saved_under_bare_names(cfg, tmp_path):
    model = network(cfg, seed=1)
    save_weights(tmp_path / "w.pth.tar", torch.nn.DataParallel(model))
    assert list(load_checkpoint(tmp_path / "w.pth.tar")) == list(model.state_dict())


def test_a_full_checkpoint_is_accepted_as_weights(cfg, tmp_path):
    model, again = network(cfg, seed=1), network(cfg, seed=2)
    save_checkpoint(tmp_path / "c.pth.tar", epoch=3, state_dict=model.state_dict())
    load_weights(again, tmp_path / "c.pth.tar")
    assert_same(model, again)


def test_weights_of_another_architecture_name_what_does_not_fit(cfg, tmp_path):
    save_weights(tmp_path / "w.pth.tar", network(cfg, OTHER))
    model = network(cfg, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"w\.pth\.tar does not fit this model") as caught:
        load_weights(model, tmp_path / "w.pth.tar")
    assert "6 of another shape (" in str(caught.value)
    assert "stage.3.0.point_conv.0.weight (24, 32, 1, 1) for (16, 32, 1, 1)" in str(caught.value)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_missing_and_unexpected_tensors_are_counted_and_named(cfg, tmp_path):
    weights = network(cfg).state_dict()
    del weights["first.2.weight"]
    torch.save(weights | {"extra.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"1 missing \(first.2.weight\); 1 unexpected \(extra.weight\)"
    ):
        load_weights(network(cfg), tmp_path / "w.pth")


def test_a_backbone_keeps_the_new_head(cfg, tmp_path):
    donor, model, before = network(cfg, seed=1), network(cfg, seed=2), network(cfg, seed=2)
    save_weights(tmp_path / "w.pth.tar", donor)
    load_weights(model, tmp_path / "w.pth.tar", skip=("deconv", "final"))
    for name, tensor in model.state_dict().items():
        source = before if name.startswith(("deconv", "final")) else donor
        assert torch.equal(tensor, source.state_dict()[name]), name


def test_a_backbone_of_another_data_set_fits(cfg, tmp_path):
    crowd_pose = tiny_config(tmp_path, tmp_path, data_set="crowd_pose")
    save_weights(tmp_path / "w.pth.tar", network(crowd_pose, seed=1))
    model = network(cfg, seed=2)
    load_weights(model, tmp_path / "w.pth.tar", skip=("deconv", "final"))
    with pytest.raises(ValueError, match=r"of another shape \(final_refined"):
        load_weights(model, tmp_path / "w.pth.tar")


def test_weights_without_counters_of_batches_load(cfg, tmp_path):
    """As torch's strict load_state_dict loads them: they are of PyTorch before 0.4.1."""
    state = network(cfg, seed=1).state_dict()
    weights = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert len(weights) < len(state)
    torch.save(weights, tmp_path / "w.pth")
    model = network(cfg, seed=2)
    load_weights(model, tmp_path / "w.pth")
    model.load_state_dict(weights)  # strict
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_named(cfg, tmp_path, value):
    weights = network(cfg, seed=1).state_dict()
    weights["first.2.weight"][1] = value
    weights["stage.0.0.depth_conv.1.running_var"][:] = value
    torch.save(weights, tmp_path / "w.pth")
    model, before = network(cfg, seed=2), network(cfg, seed=2)
    with pytest.raises(ValueError, match=r"not finite: first\.2\.weight, 2 of"):
        load_weights(model, tmp_path / "w.pth")
    assert_same(model, before)
    load_weights(model, tmp_path / "w.pth", skip=("first", "stage"))


def test_large_weights_in_half_precision_are_finite(cfg, tmp_path):
    """Their sum is not: 64 values of 30,000 in float16."""
    weights = network(cfg, seed=1).state_dict()
    weights["first.2.weight"] = torch.full_like(weights["first.2.weight"], 3e4).half()
    torch.save(weights, tmp_path / "w.pth")
    model = network(cfg)
    load_weights(model, tmp_path / "w.pth")
    assert (model.state_dict()["first.2.weight"] == 3e4).all()


def test_integers_are_no_weights(cfg, tmp_path):
    weights = network(cfg, seed=1).state_dict()
    weights["first.2.weight"] = weights["first.2.weight"].int()
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"1 of another type \(first\.2\.weight torch\.int32\)"):
        load_weights(network(cfg), tmp_path / "w.pth")


# --- files that are none ----------------------------------------------------------------


def message_of(path: Path) -> str:
    with pytest.raises(ValueError, match=".") as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_truncated_checkpoint_is_told_to_be_damaged(cfg, tmp_path, legacy):
    torch.save(
        {"state_dict": network(cfg).state_dict(), "epoch": 3},
        tmp_path / "whole.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    whole = (tmp_path / "whole.pth").read_bytes()
    for length in (1, 2, 10, 100, 1000, 5000, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path = tmp_path / "cut.pth"
        path.write_bytes(whole[:length])
        assert "damaged" in message_of(path) or "not a checkpoint" in message_of(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n", b"PK\x03\x04", b"{}"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    assert "checkpoint" in message_of(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    assert message_of(tmp_path / "none.pth") == f"there is no checkpoint {tmp_path / 'none.pth'}"


def test_a_folder_is_no_checkpoint(tmp_path):
    assert "checkpoint" in message_of(tmp_path)


def test_a_checkpoint_without_weights_lists_its_keys(cfg, tmp_path):
    save_checkpoint(tmp_path / "c.pth", epoch=3, best_ap=0.5)
    with pytest.raises(ValueError, match=r"c\.pth holds no state dict; its keys: epoch, best_ap"):
        load_weights(network(cfg), tmp_path / "c.pth")


def test_a_tensor_is_no_checkpoint(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "t.pth")
    assert "holds a Tensor" in message_of(tmp_path / "t.pth")


class Malice:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("legacy", [False, True, None], ids=["zip", "legacy", "bare pickle"])
def test_a_malicious_checkpoint_is_refused_and_not_executed(tmp_path, legacy):
    path, marker = tmp_path / "evil.pth", tmp_path / "executed"
    state = {"state_dict": {"w": torch.zeros(1)}, "extra": Malice(marker)}
    if legacy is None:
        path.write_bytes(pickle.dumps(state["extra"]))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    assert "refused" in message_of(path)
    assert not marker.exists()
    with path.open("rb") as file:  # the file is as malicious as it looks
        pickle.load(file) if legacy is None else torch.load(file, weights_only=False)
    assert marker.exists()


# --- files that cost more than their size -----------------------------------------------


def rewrite(path: Path, change=lambda name, data: data, method: int = zipfile.ZIP_STORED) -> Path:
    """Write the archive at `path` again, with each record as `change` returns it."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in records.items():
            archive.writestr(name, change(name, data))
    return path


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    """20 kB that torch.load makes 20 MB of."""
    torch.save({"weight": torch.zeros(5_000_000)}, tmp_path / "w.pth")
    path = rewrite(tmp_path / "w.pth", method=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 50_000
    assert torch.load(path, weights_only=True)["weight"].numel() == 5_000_000
    assert "its records are compressed" in message_of(path)


def test_records_that_overlap_are_refused(tmp_path):
    """As in archives whose entries all name the same bytes."""
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    sizes = b"\xa0\x0f\0\0"  # 4000 bytes, compressed and not, in the central directory
    at = content.rindex(sizes + sizes)
    (tmp_path / "w.pth").write_bytes(content[:at] + b"\xff\xff\xff\x7f" * 2 + content[at + 8 :])
    assert "larger than the file" in message_of(tmp_path / "w.pth")


def test_a_file_of_a_terabyte_is_refused_unread(tmp_path):
    with (tmp_path / "w.pth").open("wb") as file:
        file.truncate(2**40)  # takes no space
    assert "more than 8589934592 bytes" in message_of(tmp_path / "w.pth")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickle_may_call_nothing_that_takes_memory(tmp_path, legacy):
    """torch.load(weights_only=True) calls bytearray; here it is refused by its name."""
    path = tmp_path / "w.pth"
    call = b"\x80\x02cbuiltins\nbytearray\n" + pickle.dumps(10**12, 2)[2:-1] + b"\x85R."
    path.write_bytes(call)
    if not legacy:
        torch.save({}, path)
        rewrite(path, lambda name, data: call if name.endswith("data.pkl") else data)
    assert "refused to unpickle 'builtins bytearray'" in message_of(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 2, dtype=torch.complex64),
        torch.eye(3).to_sparse(),
        torch.zeros(3, device="meta"),
    ],
    ids=["complex", "sparse", "meta"],
)
def test_other_kinds_of_tensors_are_refused(tmp_path, tensor):
    torch.save({"weight": tensor}, tmp_path / "w.pth")
    assert "refused to unpickle" in message_of(tmp_path / "w.pth")


def nested(levels: int) -> list:
    """A list of `levels` lists that refers to 2 ** levels values."""
    value: list = [0]
    for _ in range(levels):
        value = [value, value]
    return value


def deep(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (nested(25), "more than 32 levels or 100000 values"),
        (deep(100), "more than 32 levels"),
        (2**70, "an integer of more than 64 bits"),
        ({1, 2}, "a call of"),
        ({"two\nlines": 1}, r"a key that is no name: 'two\nlines'"),
        ({(1, 2): 1}, "a key that is no name: (1, 2)"),
        (torch.zeros(1).expand(1000, 1000), "a tensor of more values than are stored"),
    ],
)
def test_values_that_no_checkpoint_holds_are_refused(tmp_path, value, message):
    torch.save({"arch": value}, tmp_path / "c.pth")
    message = message.replace("a call of", "refused to unpickle")
    assert message in message_of(tmp_path / "c.pth")


@pytest.mark.parametrize("read", [load_checkpoint, hash_of, newest_whole])
def test_a_pipe_and_a_device_are_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"{path} is no regular file"):
            read(path)


# --- saving -----------------------------------------------------------------------------


def saved(path: Path, *epochs: int, keep: int = 1) -> None:
    for epoch in epochs:
        save_checkpoint(path, keep, epoch=epoch, weight=torch.full((100,), float(epoch)))


def test_an_interrupted_save_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pth.tar"
    saved(path, 1)

    def killed(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        saved(path, 2)
    assert path.with_name("checkpoint.pth.tar.partial").exists()
    assert load_checkpoint(path)["epoch"] == 1


def test_a_full_disk_is_one_line_and_costs_nothing_saved_before(tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    saved(path, 1, 2, keep=2)
    with (
        full_disk(100),
        pytest.raises(ValueError, match=r"cannot save .*checkpoint\.pth\.tar: File too") as caught,
    ):
        saved(path, 3, keep=2)
    assert "\n" not in str(caught.value)
    assert [load_checkpoint(file)["epoch"] for file in versions_of(path)] == [2, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, f"{path.name}.1"]


def test_the_last_few_checkpoints_stay(tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    for keep, epochs in ((1, [5]), (3, [5, 4, 3]), (9, [5, 4, 3, 2, 1])):
        for file in tmp_path.iterdir():
            file.unlink()
        saved(path, *range(1, 6), keep=keep)
        assert [load_checkpoint(file)["epoch"] for file in versions_of(path)] == epochs
        assert versions_of(path)[0] == path
    saved(path, 6, keep=2)
    assert [load_checkpoint(file)["epoch"] for file in versions_of(path)] == [6, 5]


def test_a_rotation_may_be_cut_off_anywhere(tmp_path):
    """After every number of renames, the newest whole file is the last or the one before it."""
    path = tmp_path / "checkpoint.pth.tar"
    rename = Path.replace
    for allowed in range(5):
        for file in tmp_path.iterdir():
            file.unlink()
        saved(path, 1, 2, 3, keep=3)
        left = iter(range(allowed))

        def cut_off(self: Path, target: Path, left=left) -> Path:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return rename(self, target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "replace", cut_off)
            if allowed < 3:
                with pytest.raises(KeyboardInterrupt):
                    saved(path, 4, keep=3)
            else:
                saved(path, 4, keep=3)
        assert load_checkpoint(newest_whole(path))["epoch"] == (3 if allowed < 3 else 4)
        saved(path, 5, keep=3)  # and the next save is an ordinary one
        assert load_checkpoint(path)["epoch"] == 5


# --- damage -----------------------------------------------------------------------------


def test_no_flipped_byte_becomes_a_weight(tmp_path):
    """It is told, or is of no consequence: of padding and times between the records."""
    path = tmp_path / "w.pth"
    weights = torch.randn(300, generator=torch.Generator().manual_seed(0))
    save_checkpoint(path, epoch=1, weight=weights)
    whole = bytearray(path.read_bytes())
    start = bytes(whole).index(weights.numpy().tobytes())
    places = [start, start + 599, start + 1199, *random.Random(0).sample(range(len(whole)), 100)]
    problems = []
    for place in places:
        whole[place] ^= 0x10
        path.write_bytes(whole)
        whole[place] ^= 0x10
        try:
            state = load_checkpoint(path)
        except ValueError as error:
            problems.append(str(error))
        else:
            assert not start <= place < start + 1200
            assert torch.equal(state["weight"], weights)
    assert len(problems) > 30
    assert all(str(path) in problem for problem in problems)


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[content.index(torch.full((100,), 3.0).numpy().tobytes()) + 50] ^= 1
    path.write_bytes(content[: len(content) // 2] if how == "cut off" else content)


@pytest.mark.parametrize("how", ["flipped", "cut off"])
def test_the_one_before_a_damaged_checkpoint_is_taken(tmp_path, caplog, how):
    path = tmp_path / "checkpoint.pth.tar"
    saved(path, 1, 2, 3, keep=3)
    damage(path, how)
    with caplog.at_level(logging.WARNING):
        found = newest_whole(path)
    assert load_checkpoint(found)["epoch"] == 2
    [line] = [record.getMessage() for record in caplog.records]
    assert str(path) in line
    assert f"taking {found}" in line
    assert (tmp_path / "checkpoint.pth.tar.damaged").exists()
    saved(path, 4, keep=2)  # the damaged one has pushed out nothing
    assert [load_checkpoint(file)["epoch"] for file in versions_of(path)] == [4, 2]


def test_where_all_are_damaged_the_newest_is_named_and_all_stay(tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    saved(path, 1, 2, keep=2)
    for file in versions_of(path):
        damage(file, "cut off")
    with pytest.raises(ValueError, match=r"checkpoint\.pth\.tar (is damaged|is not)"):
        newest_whole(path)
    assert len(versions_of(path)) == 2
