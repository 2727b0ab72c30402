"""One process at a time holds a folder, and a dead one does not."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from lib.utils import lock as module
from lib.utils.dist import Process, barrier, end_with_parent
from lib.utils.lock import LOCK, holding, lock_file
from tests.conftest import FORK

ELSEWHERE = {"host": "node9", "pid": 42, "since": "2026-01-01 00:00:00", "id": "a"}
NAMED = "is in use by host node9, process 42, since 2026-01-01 00:00:00; stop"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.05)
    monkeypatch.setattr(module, "STALE", 2.0)


class Other:
    """A forked process that holds a folder until it is told to end."""

    def __init__(self, folder: Path, children: int = 0) -> None:
        self.ours, self.theirs = FORK.Pipe()
        self.process = FORK.Process(target=self._run, args=(folder, children))
        self.process.start()
        assert self.ours.recv() == "held"

    def _run(self, folder: Path, children: int) -> None:
        with holding(folder):
            for _ in range(children):  # as loader processes
                FORK.Process(target=time.sleep, args=(3,), daemon=True).start()
            self.theirs.send("held")
            self.theirs.recv()

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_) -> None:
        self.ours.send("enough")
        self.process.join()


def text_of(folder: Path) -> dict:
    return json.loads((folder / LOCK).read_text())


def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path):
    with Other(tmp_path) as other:
        entry = text_of(tmp_path)
        assert entry["pid"] == other.process.pid
        line = f"host {entry['host']}, process {entry['pid']}, since {entry['since']}; stop"
        for _ in range(2):
            with pytest.raises(ValueError, match=re.escape(f"{tmp_path} is in use by {line}")):
                holding(tmp_path).__enter__()
        assert text_of(tmp_path) == entry
    assert other.process.exitcode == 0
    assert not list(tmp_path.iterdir())
    with holding(tmp_path):
        assert text_of(tmp_path)["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_process_that_was_killed_holds_nothing_though_its_children_live(tmp_path):
    with Other(tmp_path, children=1) as other:
        os.kill(other.process.pid, signal.SIGKILL)
        other.process.join()
    assert text_of(tmp_path)["pid"] == other.process.pid
    with holding(tmp_path):
        assert text_of(tmp_path)["pid"] == os.getpid()


def leave_entry(folder: Path, age: float = 0) -> Path:
    path = folder / LOCK
    path.write_text(json.dumps(ELSEWHERE))
    touched = path.stat().st_mtime - age
    os.utime(path, (touched, touched))
    return path


@pytest.fixture
def beats():
    """Touch a file as a process of another host does."""
    ended, threads = threading.Event(), []

    def start(path: Path) -> None:
        def beat() -> None:
            while not ended.wait(0.05):
                os.utime(path)

        threads.append(threading.Thread(target=beat))
        threads[0].start()

    yield start
    ended.set()
    for thread in threads:
        thread.join()


def test_a_living_process_of_another_host_is_known_by_its_touches(tmp_path, beats):
    beats(leave_entry(tmp_path))
    with pytest.raises(ValueError, match=NAMED):
        holding(tmp_path).__enter__()
    assert text_of(tmp_path) == ELSEWHERE


def test_a_silent_process_of_another_host_is_waited_for(tmp_path):
    leave_entry(tmp_path)
    began = time.monotonic()
    with holding(tmp_path):
        assert text_of(tmp_path)["pid"] == os.getpid()
    assert time.monotonic() - began > 1.5


def test_an_entry_that_is_old_on_the_clock_of_the_file_system_is_not_waited_for(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "STALE", 1000)
    leave_entry(tmp_path, age=1001)
    with holding(tmp_path):
        assert text_of(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize("content", [b"", b'{"host": "no', b"[]", b"\xff\x00"])
def test_an_entry_that_nobody_finished_holds_nothing(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    with holding(tmp_path):
        assert text_of(tmp_path)["pid"] == os.getpid()


def test_on_a_file_system_without_locks_touches_count_on_one_host_too(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "lock_file", lambda _: False)
    with Other(tmp_path) as other:
        with pytest.raises(ValueError, match=f"process {other.process.pid}, since"):
            holding(tmp_path).__enter__()
        os.kill(other.process.pid, signal.SIGKILL)
        other.process.join()
    with holding(tmp_path):
        pass


def test_a_lock_that_the_system_lacks_is_no_error(tmp_path, monkeypatch):
    def missing(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(module.fcntl, "lockf", missing)
    with (tmp_path / "file").open("w") as file:
        assert not lock_file(file)


def test_a_process_whose_folder_was_taken_over_ends_and_leaves_the_entry(tmp_path):
    """As one that was paused for long, on a file system without locks."""
    with Other(tmp_path) as other:
        leave_entry(tmp_path)
        other.process.join(timeout=60)
    assert other.process.exitcode == 2
    assert text_of(tmp_path) == ELSEWHERE


def test_the_lock_is_not_written_through_a_link(tmp_path):
    (tmp_path / "photo").write_text("photo")
    (tmp_path / LOCK).symlink_to(tmp_path / "photo")
    with pytest.raises(ValueError, match=f"cannot write .*{LOCK}"):
        holding(tmp_path).__enter__()
    assert (tmp_path / "photo").read_text() == "photo"


def test_the_first_of_several_processes_holds_it_for_all(tmp_path, together):
    def one(process: Process) -> tuple[int, int]:
        with holding(tmp_path / "free", process):
            holder = text_of(tmp_path / "free")["pid"]
            barrier(process)
            return holder, os.getpid()

    def refused(process: Process) -> str:
        with pytest.raises(ValueError, match="in use") as caught:
            holding(tmp_path / "held", process).__enter__()
        return str(caught.value)

    for name in ("free", "held"):
        (tmp_path / name).mkdir()
    holders = together(one)
    assert [pid for pid, _ in holders] == [holders[0][1]] * 3
    with Other(tmp_path / "held") as other:
        lines = together(refused)
    assert len(set(lines)) == 1
    assert f"process {other.process.pid}" in lines[0]


def test_a_process_gets_sigterm_when_its_parent_was_killed(monkeypatch):
    reader, writer = multiprocessing.Pipe(duplex=False)

    def orphan() -> None:
        signal.signal(signal.SIGTERM, lambda *_: writer.send("ended") or os._exit(0))
        end_with_parent()
        writer.send("started")
        time.sleep(60)

    def parent() -> None:
        child = FORK.Process(target=orphan)
        child.start()
        child.join()

    process = FORK.Process(target=parent)
    process.start()
    assert reader.recv() == "started"
    assert not reader.poll(1.5)  # the parent lives
    process.kill()
    process.join()
    assert reader.poll(60)
    assert reader.recv() == "ended"
