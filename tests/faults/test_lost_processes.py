"""One process of several that is killed, or hangs: the others end, and the job can go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from argparse import Namespace

import pytest

from lib.utils.dist import start_process
from tests.conftest import FORK
from tests.faults.jobs import Job, all_exited, assert_same_jobs, end, free_port, wait_until
from tests.helpers import ROOT, tiny_config
from tests.runs import at_step, signal_me, train

STEPS = ["TRAIN.IMAGES_PER_GPU", "1", "TRAIN.END_EPOCH", "2", "TRAIN.SAVE_STEPS", "2"]
SECONDS = 300  # on a machine with other work


@pytest.mark.parametrize("lost", [1, 0])
def test_a_process_that_is_killed_ends_the_other(job, tmp_path, lost):
    """With a nonzero exit code, and all loader processes exit too."""
    part, url = job(tmp_path), f"tcp://127.0.0.1:{free_port()}"
    more = ("--world-size", "2", "--dist-url", url, "TRAIN.END_EPOCH", "500", "WORKERS", "1")
    reader, writer = os.pipe()
    ranks = [part.start("--rank", str(rank), *more) for rank in range(2)]
    os.close(writer)
    try:
        wait_until(part.checkpoint.exists)
        ranks[lost].kill()
        ranks[1 - lost].join(timeout=SECONDS)
        assert ranks[1 - lost].exitcode not in (None, 0), part.last_output()
        assert all_exited(reader, SECONDS)
        assert part.steps() > 0
    finally:
        end(ranks)
        os.close(reader)


def test_a_process_that_hangs_ends_the_other(coco_root, tmp_path):
    """Within DIST_TIMEOUT; without it this test would take half an hour."""
    cfg = tiny_config(coco_root, tmp_path, *STEPS, "DIST_TIMEOUT", "3")

    def one(rank: int) -> None:
        place = f"file://{tmp_path}/meet"
        process = start_process(cfg, Namespace(gpu=None, world_size=2, rank=rank, dist_url=place))
        with at_step(2, signal_me(signal.SIGSTOP) if rank else lambda: None):
            train(cfg, tmp_path / "run", process)

    ranks = [FORK.Process(target=one, args=(rank,)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    ranks[0].join(timeout=SECONDS)
    ended = ranks[0].exitcode
    for rank in ranks:
        rank.kill()
        rank.join()
    assert ended not in (None, 0)


@pytest.fixture(scope="module")
def pair(job, tmp_path_factory) -> Job:
    """An uninterrupted training of two processes."""
    both, url = job(tmp_path_factory.mktemp("pair")), f"tcp://127.0.0.1:{free_port()}"
    ranks = [
        both.start("--world-size", "2", "--rank", str(rank), "--dist-url", url) for rank in range(2)
    ]
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0], both.last_output()
    return both


DYING = """
import os, signal
import dist_train
from lib.core.meter import Meter
from lib.utils import cli

update = Meter.update


def dying(self, *args, **kwargs):
    update(self, *args, **kwargs)
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if self.step == 3 and self.process.rank == 1 and first:
        os.kill(os.getpid(), signal.SIGKILL)


Meter.update = dying
cli.run(dist_train.main)
"""


@pytest.mark.slow
def test_a_job_on_two_nodes_that_lost_a_process_is_restarted(job, pair, tmp_path):
    """By torchrun, one launcher per node; it ends in the weights of an uninterrupted job."""
    part = job(tmp_path)
    (tmp_path / "dying.py").write_text(DYING)
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=1"]
    launcher = ["torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--max-restarts=1"]
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", *launcher, *meeting, str(tmp_path / "dying.py"), *part.args],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        outputs = [node.communicate(timeout=2 * SECONDS)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert "after epoch 0 and 2 steps" in "".join(outputs)
    assert_same_jobs(pair, part)
