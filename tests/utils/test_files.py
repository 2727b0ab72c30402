"""A file is written whole or not at all; tables are Markdown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lib.utils.files import WriteError, atomic_write, check_outputs, versions_of, write_file
from lib.utils.tables import markdown


def test_text_and_bytes_are_written(tmp_path):
    path = tmp_path / "file"
    for data, content in (("gr\u00fcn", "gr\u00fcn".encode()), (b"\0\xff", b"\0\xff")):
        atomic_write(path, data)
        assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    atomic_write(path, "old")
    (tmp_path / "file.partial").mkdir()
    with pytest.raises(OSError, match="directory"):
        atomic_write(path, "new")
    assert path.read_text() == "old"


def test_a_pipe_is_written_directly(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_file(path, "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]
    if Path("/dev/full").exists():
        with pytest.raises(WriteError, match="cannot write /dev/full: No space left on device"):
            write_file("/dev/full", "text")


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_an_output_that_is_an_input_is_refused_also_through_a_link(tmp_path, link):
    weights, other = tmp_path / "weights", tmp_path / "other"
    weights.write_text("weights")
    other.write_text("other")
    link(tmp_path / "link", weights)
    check_outputs([other, tmp_path / "new", None], [weights, tmp_path / "none", None, ""])
    for output in (weights, tmp_path / "link"):
        with pytest.raises(ValueError, match=f"{output} is the file of the input {weights}"):
            check_outputs([other, output], [tmp_path / "none", weights])


def test_older_versions_stay_only_where_asked_for(tmp_path):
    path = tmp_path / "file"
    for text in "abcd":
        atomic_write(path, text, keep=3)
    assert [file.read_text() for file in versions_of(path)] == ["d", "c", "b"]
    atomic_write(path, "e")
    assert [file.read_text() for file in versions_of(path)] == ["e", "c", "b"]
    atomic_write(path, "f", sync=True, keep=1)
    assert versions_of(path) == [path]


def test_a_table_is_markdown():
    assert markdown(["AP", "px"], [[0.5, 64], ["-", 128]]) == (
        "| AP | px |\n|---|---|\n| 0.5 | 64 |\n| - | 128 |"
    )
