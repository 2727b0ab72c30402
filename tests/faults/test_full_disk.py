"""A disk that is full or cannot be written: one line, and what was there stays.

A limit on the size of files stands for the full disk.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from lib.analysis.report import Report, make_folders, write_csv, write_json
from lib.core.results import write_results
from lib.dataset.build import build_evaluation_set
from lib.deploy import export
from lib.training.events import EventFile
from lib.utils import cli
from lib.utils.files import WriteError, replacing, write_file
from lib.utils.journal import Journal
from lib.utils.logger import LogFile
from lib.utils.plots import save_figure
from lib.utils.vis import save_image
from tests.helpers import ROOT, TINY, full_disk, tiny_config
from tools import draw_arch, plot_log, show_maps
from tools.demo.media import Timing, find_sources
from tools.demo.output import JsonList
from tools.demo.video import frame_count
from tools.demo.writer import VideoFile

NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
REPORT = Report("arch", "weights", "0" * 64, "val", ["nose"], 1, ["a problem"], OrderedDict(AP=0.5))


def write_video(path: Path) -> None:
    video = VideoFile(path.with_suffix(""), Timing.of(10), NOISE)
    for i in range(20):
        video.write(NOISE, i / 10)
    video.close()


def write_list(path: Path) -> None:
    entries = JsonList(path, "[", "]")
    for i in range(20):
        entries.add({"id": i})
    entries.close()


def write_piecewise(path: Path) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(bytes(1000))


WRITERS = {
    "text.txt": lambda path: write_file(path, "text" * 100),
    "image.png": lambda path: save_image(path, NOISE),
    "figure.svg": lambda path: save_figure(path, Figure()),
    "arch.json": lambda path: TINY.to_json(path),
    "report.json": lambda path: write_json(path, REPORT),
    "report.csv": lambda path: write_csv(path, REPORT),
    "clip.mp4": write_video,
    "list.json": write_list,
    "pieces.bin": write_piecewise,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_without_space_is_one_line_and_the_old_file_stays(tmp_path, name):
    path = tmp_path / name
    path.write_text("old")
    with full_disk(40), pytest.raises(WriteError, match=rf"cannot write .*{path}") as caught:
        WRITERS[name](path)
    assert "\n" not in str(caught.value)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "old")]
    WRITERS[name](path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert path.read_bytes() != b"old"


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_never_writes_through_a_link(tmp_path, name):
    photo, folder = tmp_path / "photo", tmp_path / "out"
    folder.mkdir()
    for link in (Path.symlink_to, Path.hardlink_to):
        for place in (name, f"{name}.partial", f"{Path(name).stem}.partial{Path(name).suffix}"):
            photo.write_text("photo")
            (folder / place).unlink(missing_ok=True)
            link(folder / place, photo)
        WRITERS[name](folder / name)
        assert photo.read_text() == "photo"
        assert not (folder / name).is_symlink()


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (show_maps.main, ["--model", "model", "--input", "{}"]),
        (show_maps.main, ["--model", "{}", "--input", "image"]),
        (plot_log.main, ["{}"]),
        (draw_arch.main, ["{}"]),
    ],
)
def test_a_tool_never_writes_over_its_input(tmp_path, main, flags):
    given = tmp_path / "input"
    given.write_text("input")
    (tmp_path / "out.png").hardlink_to(given)
    for out in ("input", "out.png"):
        with pytest.raises(ValueError, match=f"{out} is the file of the input {given}"):
            main(["--out", str(tmp_path / out), *(flag.format(given) for flag in flags)])
    assert given.read_text() == "input"


def test_an_exported_network_without_space_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "onnx_content", lambda *_: bytes(1000))
    program: Any = None
    with full_disk(40), pytest.raises(WriteError, match=r"model\.onnx: File too large"):
        export.write_onnx(tmp_path / "model.onnx", program, [])
    assert not list(tmp_path.iterdir())


def test_results_without_space_are_one_line(coco_root, tmp_path):
    data = build_evaluation_set(tiny_config(coco_root, tmp_path))
    with full_disk(1), pytest.raises(WriteError, match=r"cannot write .*results.json: File too"):
        write_results(data, [], tmp_path)


def test_a_journal_without_space_keeps_its_entries(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, {"run": 1})
    journal.add((1,), score=0.5)
    size = path.stat().st_size
    with full_disk(size + 5), pytest.raises(WriteError, match=r"cannot write .*journal.jsonl"):
        journal.add((2,), score=0.25)
    del journal
    again = Journal(path, {"run": 1})
    assert again.entries[1,] == {"key": [1], "score": 0.5}
    assert again.add((2,), score=0.25)["score"] == 0.25


def test_a_video_is_not_there_before_it_is_whole(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_text("old")
    video = VideoFile(tmp_path / "clip", Timing.of(10), NOISE)
    video.write(NOISE, 0)
    assert path.read_text() == "old"
    video.close()
    assert frame_count(find_sources([str(path)])[0]) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_full_disk_ends_a_log_file_and_no_run(tmp_path, capsys):
    log = logging.getLogger("tests.full_disk")
    handler = LogFile(tmp_path / "run.log")
    log.addHandler(handler)
    try:
        with full_disk(10):
            for i in range(3):
                log.warning("a line of some length, number %d", i)
    finally:
        log.removeHandler(handler)
        handler.close()
    shown = capsys.readouterr().err
    assert "run.log" in shown
    assert shown.count("File too large") == 1
    assert "Traceback" not in shown


def test_a_full_disk_ends_tensorboard_files_with_one_warning(tmp_path, caplog):
    events = EventFile(tmp_path / "log", 0)
    with full_disk(100):
        for step in range(5):
            events.scalars({"train/loss": 1.0, "val/AP": 0.5}, step)
    events.image("an/image", NOISE, 6)
    events.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"TensorBoard files in {tmp_path / 'log'} end here: File too large"
    ]


def test_a_folder_of_tensorboard_files_that_cannot_be_made_is_one_warning(tmp_path, caplog):
    (tmp_path / "log").write_text("a file")
    events = EventFile(tmp_path / "log" / "run", 0)
    events.text("a/text", "text", 1)
    events.close()
    assert len(caplog.records) == 1
    assert "Not a directory" in caplog.text


def test_a_folder_without_permission_is_named_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ValueError, match=r"a\.json: its folder is not writable"):
        make_folders(str(tmp_path / "a.json"))


@pytest.mark.parametrize("code", sorted(cli.DISK_ERRORS))
def test_an_error_of_the_disk_is_one_line_wherever_it_is_raised(capsys, code):
    def fail() -> None:
        raise OSError(code, os.strerror(code), "a/file")

    assert cli.code_of(fail) == cli.MISTAKE
    shown = capsys.readouterr().err
    assert shown == f"error: cannot write or read a/file: {os.strerror(code)}\n"


# --- standard output --------------------------------------------------------------------


def run_main(body: str, stdout, **environment: str) -> subprocess.CompletedProcess:
    """A program without PyTorch whose main is `body`."""
    code = f"from lib.utils import cli\ndef main():\n    {body}\ncli.run(main)"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, env=environment, check=False
    )


def test_standard_output_on_a_full_disk_is_one_line():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no device that is always full")
    for body in ("print('text')", "print('text', flush=True)"):
        with full.open("w") as stdout:
            done = run_main(body, stdout)
        assert done.returncode == cli.MISTAKE
        assert done.stderr.decode().count("\n") == 1
        assert b"standard output" in done.stderr
        assert b"No space left" in done.stderr


def test_a_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = run_main("print('text')", write)
    os.close(write)
    assert (done.returncode, done.stderr) == (cli.BROKEN_PIPE, b"")


def test_names_are_escaped_on_the_console_in_any_locale():
    body = r"print('a\x1b[31m\udcff\u00fc', end=''); raise ValueError('b\x01\nc\udcff\u00fc')"
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for environment, umlaut in ((locale, r"\xfc"), ({"PYTHONUTF8": "1"}, "\u00fc")):
        done = run_main(body, subprocess.PIPE, **environment)
        assert done.stdout.decode() == rf"a\x1b[31m\udcff{umlaut}"
        assert done.stderr.decode() == rf"error: b\x01\nc\udcff{umlaut}" + "\n"


def test_names_are_escaped_in_a_log(caplog):
    logging.setLogRecordFactory(cli._Record)
    try:
        logging.getLogger("tests").warning("%s, %d\n%s", "a\x1b\n\udcff", 3, Path("b\n"))
    finally:
        logging.setLogRecordFactory(logging.LogRecord)
    assert caplog.messages == [r"a\x1b\n\udcff, 3" + "\n" + r"b\n"]


def test_a_list_of_the_demo_is_json_at_any_time(tmp_path):
    """The old one while it is written, the new one once it is closed."""
    path = tmp_path / "results.json"
    path.write_text("[1]")
    entries = JsonList(path, "[", "]")
    entries.add({"name": "\udcff\u00fc"})
    assert json.loads(path.read_text()) == [1]
    entries.close()
    assert json.loads(path.read_text()) == [{"name": "\udcff\u00fc"}]
