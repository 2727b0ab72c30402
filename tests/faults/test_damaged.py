"""A newest checkpoint that is not whole, and a disk that takes no other."""

from __future__ import annotations

import logging
import resource
import shutil
from pathlib import Path

from lib.utils.checkpoint import load_checkpoint
from tests.faults.jobs import assert_same_jobs, draws
from tests.helpers import tiny_config
from tests.runs import FILES, assert_same_end, killed, train

STEPS = ["TRAIN.IMAGES_PER_GPU", "1", "TRAIN.END_EPOCH", "2", "TRAIN.SAVE_STEPS", "2"]
NEWEST = FILES[0]


def damage(path: Path, length: int | None) -> None:
    """Cut off after `length` bytes; None: one bit of one weight is another."""
    content = bytearray(path.read_bytes())
    largest = max(load_checkpoint(path)["state_dict"].values(), key=lambda t: t.numel())
    content[content.index(bytes(largest.untyped_storage())) + 50] ^= 1
    path.write_bytes(content if length is None else content[:length])


def test_a_damaged_checkpoint_costs_its_steps_and_nothing_else(coco_root, tmp_path, caplog):
    """Cut off anywhere, or changed by a bit: it is named, and the one before it is taken."""
    cfg = tiny_config(coco_root, tmp_path, *STEPS)
    train(cfg, tmp_path / "whole")
    killed(9, lambda: train(cfg, tmp_path / "cut off"))
    size = (tmp_path / "cut off" / NEWEST).stat().st_size
    lengths = [0, *draws().sample(range(1, size), 10)]
    print(f"cut off after {lengths} of {size} bytes")
    for length in (None, *lengths):
        part = tmp_path / f"cut off after {length}"
        shutil.copytree(tmp_path / "cut off", part)
        damage(part / NEWEST, length)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            train(cfg, part)
        said = [record.getMessage() for record in caplog.records]
        [warning] = [line for line in said if "set aside as" in line]
        assert str(part / NEWEST) in warning
        assert f"resumed from {part / NEWEST}.1 after epoch 1" in said
        assert (part / f"{NEWEST}.damaged").exists()
        assert_same_end(tmp_path / "whole", part)


def limit_files(size: int) -> None:
    """No file of this process grows beyond `size` bytes, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(job, whole, tmp_path):
    part = job(tmp_path)
    size = whole.job.checkpoint.stat().st_size
    assert part.run("TRAIN.END_EPOCH", "1") == 0
    before = part.said.stat().st_size
    assert part.run(first=lambda: limit_files(size // 2)) == 2
    said = part.said.read_text()[before:].splitlines()
    assert said[-1] == (
        f"error: cannot save {part.checkpoint}: File too large; what was saved before is whole"
    )
    assert "Traceback" not in "\n".join(said)
    assert part.steps() == 6
    assert not list(part.folder.glob("*.partial"))
    assert part.run() == 0, part.last_words()
    assert_same_jobs(whole.job, part)
