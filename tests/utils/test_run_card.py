"""The run card tells of every start, and never ends one."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lib.utils.run_card import add_start, git_state, read_starts


@pytest.fixture
def card(tmp_path) -> Path:
    return tmp_path / "run_card.json"


def git(folder: Path, *command: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", folder, *identity, *command], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "file").write_text("one")
    for command in (["init"], ["add", "file"], ["commit", "-m", "first"]):
        git(folder, *command)
    return folder


def test_a_second_start_is_added_to_the_first(card):
    add_start(card, {"seed": 1})
    add_start(card, {"seed": 2, "resumed_from": {"step": 5}})
    first, second = json.loads(card.read_text())["starts"]
    assert (first["seed"], second["seed"]) == (1, 2)
    assert second["resumed_from"] == {"step": 5}
    assert [path.name for path in card.parent.iterdir()] == [card.name]


def test_a_start_names_code_machine_and_command(card):
    add_start(card, {})
    [start] = read_starts(card)
    assert start["command"] == shlex.join(sys.orig_argv)
    assert start["date"][:2] == "20"
    assert start["versions"]["torch"].startswith("2.")
    assert start["hardware"]["cores"] == os.cpu_count()
    assert start["hardware"]["cpu"]
    assert start["hardware"]["memory_gib"] > 0


def test_a_commit_is_named_and_whether_files_differ_from_it(repository):
    before = git_state(repository)
    assert len(before["commit"]) == 40
    assert before["dirty"] is False
    (repository / "output").write_text("not of the code")
    assert git_state(repository) == before
    (repository / "file").write_text("two")
    assert git_state(repository) == {**before, "dirty": True}


def test_without_a_repository_a_commit_or_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    git(tmp_path, "init")
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__).parent) is None


def test_looking_changes_nothing_in_the_repository(repository):
    """Where it may only be read, too."""
    os.utime(repository / "file", (1, 1))  # the index now remembers another time
    index = repository / ".git" / "index"
    before = index.read_bytes()
    assert git_state(repository)["dirty"] is False
    assert index.read_bytes() == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"starts": 3}', "null"])
def test_a_damaged_card_is_set_aside(card, caplog, text):
    card.write_text(text)
    add_start(card, {"seed": 1})
    assert [start["seed"] for start in read_starts(card)] == [1]
    assert (card.parent / "run_card.json.damaged").read_text() == text
    assert "is no run card" in caplog.text


def test_a_card_that_cannot_be_written_is_told_and_stops_nothing(tmp_path, caplog):
    (tmp_path / "run_card.json.partial").mkdir()
    add_start(tmp_path / "run_card.json", {})
    [line] = [record.getMessage() for record in caplog.records]
    assert "cannot write" in line
