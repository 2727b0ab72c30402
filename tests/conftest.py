"""Fixtures that several tests share, and the settings of the test process."""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import dist_train
import valid
import weight_transfer
from lib.dataset.synthetic.animals import ANIMAL
from lib.dataset.synthetic.layout import make_dataset
from lib.dataset.synthetic.scene import SceneParams
from lib.keypoints import COCO, CROWD_POSE
from lib.utils import cli
from lib.utils.dist import Process, leave
from tests.helpers import Result

# Networks are tiny: threads that wait for one another are slower. Child processes inherit it.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# A shell ignores SIGINT in what a script starts in the background; tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

SCRIPTS = {"dist_train": dist_train, "valid": valid, "weight_transfer": weight_transfer}
FEW = {"train": 6, "val": 4, "test": 4}
SMALL = SceneParams(width=128, height=96, min_people=1, max_people=3, min_labelled=16)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real images and annotations."""
    if "LITEPOSE_DATA" not in os.environ:
        pytest.skip("LITEPOSE_DATA does not name the folder of the real images")
    return Path(os.environ["LITEPOSE_DATA"])


@pytest.fixture(scope="session")
def published_weights(data_root: Path) -> Path:
    """The published LitePose-Auto-M, next to the folder of the real images."""
    path = data_root.parent / "weights/LitePose-Auto-M-CrowdPose.pth.tar"
    if not path.exists():
        pytest.skip("the published weights are not next to LITEPOSE_DATA")
    return path


@pytest.fixture(scope="session")
def coco_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rendered images in COCO's layout; read only."""
    root = tmp_path_factory.mktemp("data") / "coco"
    make_dataset(root, COCO, FEW, SMALL, seed=1)
    return root


@pytest.fixture
def test_dev_root(coco_root: Path, tmp_path: Path) -> Path:
    """The val images of `coco_root` as COCO's test-dev: without annotations."""
    root = tmp_path / "test_dev"
    whole = json.loads((coco_root / "annotations/person_keypoints_val2017.json").read_text())
    del whole["annotations"]
    (root / "annotations").mkdir(parents=True)
    (root / "annotations/image_info_test-dev2017.json").write_text(json.dumps(whole))
    (root / "images").mkdir()
    (root / "images/test2017").symlink_to(coco_root / "images/val2017")
    return root


@pytest.fixture(scope="session")
def crowd_pose_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rendered images in CrowdPose's layout; read only."""
    root = tmp_path_factory.mktemp("data") / "crowd_pose"
    make_dataset(root, CROWD_POSE, FEW, SMALL, seed=1)
    return root


@pytest.fixture(scope="session")
def animal_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rendered animals with custom keypoints; read only."""
    root = tmp_path_factory.mktemp("data") / "animal"
    make_dataset(root, ANIMAL, FEW | {"test": 0}, SMALL, seed=1)
    return root


@pytest.fixture
def call(capsys, monkeypatch):
    """Run a script in this process: a new one takes three seconds to import."""

    def run(script: str, *args: str) -> Result:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *args])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.run(SCRIPTS[script].main)
        return Result(stopped.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def call_tool(capsys):
    """Run the `main` of a tool with arguments; its exit code and output."""

    def run(main: Callable, *args: object) -> Result:
        capsys.readouterr()
        code = cli.code_of(lambda: main([str(arg) for arg in args]))
        return Result(code or 0, *capsys.readouterr())

    return run


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Remove the log handlers of a script: they write to the captured output of its test."""
    root, lib = logging.getLogger(), logging.getLogger("lib")
    before = root.handlers[:], root.level, lib.level
    yield
    for handler in set(root.handlers) - set(before[0]):
        handler.close()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    lib.setLevel(before[2])


FORK = multiprocessing.get_context("fork")


def _run_rank(work: Callable, rank: int, world_size: int, store: Path, queue) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    process = Process(rank, world_size, torch.device("cpu"))
    try:
        queue.put((rank, work(process)))
    except BaseException as error:
        queue.put((rank, error))
        raise
    leave(process)


@pytest.fixture
def together(tmp_path):
    """Run `work(process)` in `count` processes; the list of what each returns."""

    numbers = itertools.count()

    def run(work: Callable[[Process], Any], count: int = 3) -> list[Any]:
        queue = FORK.Queue()
        store = tmp_path / f"store{next(numbers)}"
        processes = [
            FORK.Process(target=_run_rank, args=(work, rank, count, store, queue))
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        results = dict(queue.get(timeout=600) for _ in processes)
        for process in processes:
            process.join()
        assert not [result for result in results.values() if isinstance(result, BaseException)]
        return [results[rank] for rank in range(count)]

    return run
