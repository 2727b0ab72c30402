"""A damaged newest checkpoint, and a full disk."""

from __future__ import annotations

import logging
import resource
import shutil
from pathlib import Path

from lib.utils.checkpoint import load_checkpoint
from tests.faults.jobs import assert_same_jobs, random_faults
from tests.helpers import tiny_config
from tests.runs import FILES, assert_same_end, killed, train

STEPS = ["TRAIN.IMAGES_PER_GPU", "1", "TRAIN.END_EPOCH", "2", "TRAIN.SAVE_STEPS", "2"]
NEWEST = FILES[0]


def damage(path: Path, length: int | None) -> None:
    """Truncate to `length` bytes; None: flip one bit of one weight."""
    content = bytearray(path.read_bytes())
    largest = max(load_checkpoint(path)["state_dict"].values(), key=lambda t: t.numel())
    content[content.index(bytes(largest.untyped_storage())) + 50] ^= 1
    path.write_bytes(content if length is None else content[:length])


def test_a_damaged_checkpoint_costs_its_steps_and_nothing_else(coco_root, tmp_path, caplog):
    """Truncated anywhere, or with a flipped bit: it is named, and the previous one is used."""
    cfg = tiny_config(coco_root, tmp_path, *STEPS)
    train(cfg, tmp_path / "whole")
    killed(9, lambda: train(cfg, tmp_path / "killed"))
    size = (tmp_path / "killed" / NEWEST).stat().st_size
    lengths = [0, *random_faults().sample(range(1, size), 10)]
    print(f"truncated to {lengths} of {size} bytes")
    for length in (None, *lengths):
        part = tmp_path / f"truncated to {length}"
        shutil.copytree(tmp_path / "killed", part)
        damage(part / NEWEST, length)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            train(cfg, part)
        lines = [record.getMessage() for record in caplog.records]
        [warning] = [line for line in lines if "set aside as" in line]
        assert str(part / NEWEST) in warning
        assert f"resumed from {part / NEWEST}.1 after epoch 1" in lines
        assert (part / f"{NEWEST}.damaged").exists()
        assert_same_end(tmp_path / "whole", part)


def limit_files(size: int) -> None:
    """No file of this process grows beyond `size` bytes, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(job, whole, tmp_path):
    part = job(tmp_path)
    size = whole.job.checkpoint.stat().st_size
    assert part.run("TRAIN.END_EPOCH", "1") == 0
    before = part.output.stat().st_size
    assert part.run(first=lambda: limit_files(size // 2)) == 2
    lines = part.output.read_text()[before:].splitlines()
    assert lines[-1] == (
        f"error: cannot save {part.checkpoint}: File too large; earlier files are intact"
    )
    assert "Traceback" not in "\n".join(lines)
    assert part.steps() == 6
    assert not list(part.folder.glob("*.partial"))
    assert part.run() == 0, part.last_output()
    assert_same_jobs(whole.job, part)
