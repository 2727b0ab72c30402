"""SIGKILL at any moment, to a training or to a loader process."""

from __future__ import annotations

import signal

import pytest

from lib.dataset.pose_dataset import PoseDataset
from lib.utils.checkpoint import load_checkpoint
from tests.faults.jobs import assert_same_jobs, random_faults
from tests.helpers import tiny_config
from tests.runs import signal_me, train

KILLS = 10
STEPS = ["TRAIN.IMAGES_PER_GPU", "1", "TRAIN.END_EPOCH", "2"]


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_the_same(job, whole, tmp_path):
    """Bit for bit, and no kill loses saved steps: while starting, saving, evaluating."""
    rng, part, hits, finished = random_faults(), job(tmp_path / "0"), [], 0
    while len(hits) < KILLS or sum(steps > 0 for steps in hits) < 3:  # there must be steps to lose
        before = part.steps()
        process = part.start()
        process.join(timeout=rng.uniform(0, whole.seconds))
        process.kill()
        process.join()
        if process.exitcode == 0:
            assert_same_jobs(whole.job, part)
            finished += 1
            part = job(tmp_path / str(finished))
            continue
        assert process.exitcode == -signal.SIGKILL, part.last_output()
        hits.append(part.steps())
        assert hits[-1] >= before
    print(f"steps saved when killed: {hits}; runs finished meanwhile: {finished}")
    assert part.run() == 0, part.last_output()
    assert_same_jobs(whole.job, part)


def test_a_loader_process_that_dies_is_named_in_one_line(coco_root, tmp_path, monkeypatch):
    item = PoseDataset.__getitem__

    def die(self: PoseDataset, key: tuple[int, int]):
        if key[0] == 1:
            signal_me(signal.SIGKILL)()
        return item(self, key)

    monkeypatch.setattr(PoseDataset, "__getitem__", die)
    cfg = tiny_config(coco_root, tmp_path, *STEPS, "WORKERS", "1")
    with pytest.raises(ValueError, match=r"epoch 1, step 7: DataLoader worker \(pid.*WORKERS is 1"):
        train(cfg, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/checkpoint.pth.tar")["epoch"] == 1
