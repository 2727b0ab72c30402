"""The batch size that a measured memory allows; the measurements are pretended."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch

import dist_train
from lib.dataset.build import build_training_set
from lib.training import batch_size
from lib.training.batch_size import GIB, SHARE, largest_batch
from lib.training.run import CHECKPOINT
from lib.utils.checkpoint import load_checkpoint, unwrap
from lib.utils.dist import ALONE, Process
from tests.helpers import TINY, YAMLS, tiny_config, tiny_opts
from tests.runs import CPU, SMALL, SUPERNET, train

AUTO = ("TRAIN.IMAGES_PER_GPU", "auto")


def step_of(fixed: float, each: float, limit: int = 10**6) -> Callable[[int], int]:
    """A step that takes so many GiB, and fails with more than `limit` images."""

    def measure(images: int) -> int:
        if images > limit:
            raise torch.cuda.OutOfMemoryError
        return int(GIB * (fixed + each * images))

    return measure


@pytest.mark.parametrize("total", [5, 10, 80])
def test_the_batch_fits_and_a_larger_one_does_not(total):
    images = largest_batch(step_of(1, 0.1), total * GIB, most=10**6)
    assert 1 + 0.1 * images <= SHARE * total < 1 + 0.1 * (images + 8)
    assert images % 8 == 0


@pytest.mark.parametrize(
    ("measure", "total", "most", "images"),
    [
        (step_of(1, 0.1), 80, 50, 48),  # as many as there are images, in eights
        (step_of(1, 0.1), 80, 5, 5),
        (step_of(1, 0.5, limit=8), 5, 100, 6),  # 32 do not fit: measured with fewer
        (step_of(1, 0.5, limit=3), 2, 100, 0),
        (step_of(9, 0.5), 4, 100, 0),
        (step_of(1, 0), 4, 100, 96),  # an image is too small to be measured
    ],
)
def test_few_images_little_memory_and_none(measure, total, most, images):
    assert largest_batch(measure, total * GIB, most) == images


@pytest.fixture
def pretended(monkeypatch) -> list[float]:
    """Free GiB of each process; a step takes 1 GiB and half a GiB an image."""
    free = [2.6, 2.6]
    monkeypatch.setattr(batch_size, "measure_on_gpu", lambda *_: step_of(1, 0.5))
    monkeypatch.setattr(batch_size, "free_memory", lambda _: int(free[0] * GIB))
    return free


def test_a_training_uses_it_and_so_does_its_resume(coco_root, tmp_path, pretended, caplog):
    cfg = tiny_config(coco_root, tmp_path, *AUTO, "TRAIN.SAVE_STEPS", "1")
    with caplog.at_level(logging.INFO):
        train(cfg, tmp_path / "run")
    path = tmp_path / "run" / CHECKPOINT
    assert load_checkpoint(path)["layout"] == [6, 1, 2, 1]
    assert "TRAIN.IMAGES_PER_GPU auto: 2" in caplog.messages
    assert "6 images, 3 steps an epoch, epochs 0 to 1 on 1 x cpu" in caplog.messages
    pretended[0] = 80
    train(tiny_config(coco_root, tmp_path, *AUTO, "TRAIN.END_EPOCH", "2"), tmp_path / "run")
    assert load_checkpoint(path)["layout"] == [6, 1, 2, 1]


def test_weights_do_not_depend_on_the_measurement(coco_root, tmp_path, pretended, monkeypatch):
    """Its steps are undone."""

    def steps(cfg, dataset, network, *_):
        def measure(images: int) -> int:
            for tensor in network.state_dict().values():
                tensor.add_(1)
            return step_of(1, 0.5)(images)

        return measure

    monkeypatch.setattr(batch_size, "measure_on_gpu", steps)
    finals = []
    for opts in (AUTO, ("TRAIN.IMAGES_PER_GPU", "2")):
        out = tmp_path / opts[1]
        train(tiny_config(coco_root, tmp_path, *opts), out)
        finals.append(load_checkpoint(out / "final_state0.pth.tar"))
    for name, tensor in finals[0].items():
        assert torch.equal(tensor, finals[1][name]), name


def test_processes_take_the_smallest_of_their_batches(coco_root, tmp_path, pretended, together):
    def one(process: Process) -> None:
        pretended[0] = 80 if process.rank == 0 else 2.0
        train(tiny_config(coco_root, tmp_path, *AUTO), tmp_path / "run", process)

    together(one, 2)
    assert load_checkpoint(tmp_path / "run" / CHECKPOINT)["layout"] == [6, 2, 1, 1]


def test_no_memory_on_one_gpu_is_one_line_in_all_processes(
    coco_root, tmp_path, pretended, together
):
    def one(process: Process) -> str:
        pretended[0] = 80 if process.rank == 0 else 0.5
        with pytest.raises(ValueError, match="holds no training step") as caught:
            train(tiny_config(coco_root, tmp_path, *AUTO), tmp_path / "run", process)
        return str(caught.value)

    assert len(set(together(one, 2))) == 1


def test_a_measured_step_is_a_training_step(coco_root, tmp_path, monkeypatch):
    """On the CPU, whose memory is not measured: networks, supernets, gradients of two batches."""
    for name in ("reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 7)
    for arch, opts in ((TINY, ()), (SMALL, SUPERNET)):
        cfg = tiny_config(coco_root, tmp_path, *AUTO, *opts, "TRAIN.ACCUMULATE", "3")
        model = dist_train.start_model(cfg, arch, ALONE)
        criterion = dist_train.start_criterion(cfg, None, CPU)
        plan = dist_train.supernet_plan(cfg, unwrap(model))
        dataset = build_training_set(cfg)
        before = [parameter.clone() for parameter in model.parameters()]
        measure = batch_size.measure_on_gpu(cfg, dataset, model, criterion, plan, CPU)
        assert measure(2) == 7
        changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        assert all(changed)


def test_without_a_gpu_it_is_one_line(coco_root, tmp_path, call):
    opts = [*tiny_opts(coco_root, tmp_path), *AUTO]
    done = call("dist_train", "--cfg", str(YAMLS["coco"]), *opts)
    assert done.code == 2
    assert done.err.startswith("error: TRAIN.IMAGES_PER_GPU is auto, which measures the memory of")
    assert len(done.err.splitlines()) == 1
