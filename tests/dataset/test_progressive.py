"""TRAIN.PROGRESSIVE: crops that grow with the epochs."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from lib.core import meter
from lib.core.trainer import StepResult
from lib.dataset.build import build_dataset, build_training_set, make_dataloader
from lib.dataset.progressive import Growing, InputSizes
from lib.training import run
from lib.utils.dist import ALONE
from tests.helpers import tiny_config
from tests.runs import SMALL, SUPERNET, assert_same_end, killed, train

HALF = ["TRAIN.PROGRESSIVE", "[[0.5, 32]]"]


def sizes_of(coco_root, tmp_path, progressive: str, *opts: str) -> InputSizes:
    cfg = tiny_config(coco_root, tmp_path, "TRAIN.PROGRESSIVE", progressive, *opts)
    return InputSizes.from_config(cfg)


@pytest.mark.parametrize(
    ("progressive", "begin", "end", "expected"),
    [
        ("[]", 0, 3, [128] * 3),
        ("[[0.5, 32]]", 0, 4, [32] * 2 + [128] * 2),
        ("[[0.1, 32], [0.2, 64], [0.3, 96]]", 0, 10, [32] + [64] * 2 + [96] * 3 + [128] * 4),
        ("[[0.5, 32]]", 10, 14, [32] * 2 + [128] * 2),
        ("[[0.3, 32], [0.3, 64]]", 0, 2, [64, 128]),
        ("[[0.999, 32]]", 0, 1, [128]),  # the last epoch is at the final size, however few
    ],
)
def test_shares_of_the_epochs(coco_root, tmp_path, progressive, begin, end, expected):
    epochs = ["TRAIN.BEGIN_EPOCH", str(begin), "TRAIN.END_EPOCH", str(end)]
    opts = [*epochs, "DATASET.INPUT_SIZE", "128"]
    sizes = sizes_of(coco_root, tmp_path, progressive, *opts)
    assert [sizes.at(epoch) for epoch in range(begin, end)] == expected
    assert sizes.at(end + 1000) == 128


@pytest.mark.parametrize(
    ("progressive", "message"),
    [
        ("[[0.5, 64]]", r"\[64\]; they must rise, up to DATASET.INPUT_SIZE 64"),
        ("[[0.3, 96], [0.3, 32]]", "must rise"),
        ("[[0.6, 32], [0.4, 48]]", "TRAIN.PROGRESSIVE .* in steps of 32"),
        ("[[1.0, 32]]", "TRAIN.PROGRESSIVE .* from 0.001 to 0.999"),
        ("[0.5, 32]", "TRAIN.PROGRESSIVE .*share of the epochs, input size"),
    ],
)
def test_what_makes_no_sense_is_refused(coco_root, tmp_path, progressive, message):
    with pytest.raises(ValueError, match=message):
        sizes_of(coco_root, tmp_path, progressive)


def test_shares_must_leave_epochs(coco_root, tmp_path):
    with pytest.raises(ValueError, match="are 1 together; they must leave epochs for"):
        sizes_of(coco_root, tmp_path, "[[0.7, 32], [0.3, 64]]", "DATASET.INPUT_SIZE", "128")


def test_a_supernet_samples_its_sizes_itself(coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path, *HALF, *SUPERNET)
    with pytest.raises(ValueError, match="TRAIN.PROGRESSIVE is not for a supernet"):
        train(cfg, tmp_path / "run", arch=SMALL)


def test_a_smaller_crop_shows_the_same(coco_root, tmp_path):
    """Joints in proportion, masks and image of that size; later epochs are as without the key."""
    cfg = tiny_config(coco_root, tmp_path, *HALF, "TRAIN.END_EPOCH", "2")
    dataset, crops = build_dataset(cfg), Growing(build_dataset(cfg), InputSizes.from_config(cfg))
    assert len(crops) == len(dataset)
    small, large = crops[0, 3], dataset[0, 3]
    assert small.image.shape == (32, 32, 3)
    assert [mask.shape for mask in small.masks] == [(8, 8), (16, 16)]
    assert small.flipped == large.flipped
    flip = small.flipped * np.array([0.5, 0, 0])  # x = size - 1 - ... where a crop is flipped
    np.testing.assert_allclose(small.joints + flip, large.joints * (0.5, 0.5, 1), atol=1e-4)
    np.testing.assert_array_equal(crops[1, 3].image, dataset[1, 3].image)


def test_the_epoch_decides_in_a_mix_too(coco_root, tmp_path):
    """Not the pass of a data set, which runs ahead of the epochs with a weight of 2."""
    mix = f"[{{ROOT: {coco_root}, DATASET: coco, TRAIN: train2017, WEIGHT: 2}}]"
    cfg = tiny_config(coco_root, tmp_path, *HALF, "DATASET.MIX", mix, "TRAIN.END_EPOCH", "4")
    crops = Growing(build_training_set(cfg), InputSizes.from_config(cfg))
    shapes = [crops[epoch, index].image.shape[0] for epoch in range(4) for index in (0, 11)]
    assert shapes == [32] * 4 + [64] * 4


def test_workers_that_persist_change_the_size(coco_root, tmp_path):
    def batches(workers: int) -> list:
        opts = [*HALF, "TRAIN.END_EPOCH", "2", "WORKERS", str(workers)]
        cfg = tiny_config(coco_root, tmp_path, *opts)
        loader = make_dataloader(cfg, Growing(build_dataset(cfg), InputSizes.from_config(cfg)))
        found = []
        for epoch in (0, 1, 0):
            loader.sampler.set_epoch(epoch)
            found.append(list(loader))
        return found

    alone, helped = batches(0), batches(2)
    assert [epoch[0].images.shape[1] for epoch in alone] == [32, 64, 32]
    for one, other in zip(sum(alone, []), sum(helped, []), strict=True):
        assert torch.equal(one.images, other.images)


def test_a_run_killed_at_a_small_size_ends_the_same(coco_root, tmp_path, caplog):
    opts = ["TRAIN.END_EPOCH", "2", "TRAIN.SAVE_STEPS", "1", "TRAIN.EMA", "0.9"]
    cfg = tiny_config(coco_root, tmp_path, *HALF, *opts)  # two steps an epoch
    with caplog.at_level(logging.INFO):
        train(cfg, tmp_path / "whole")
    assert "inputs of 32 px, 64 px from epoch 1" in caplog.messages
    for step in (2, 4):
        killed(step, lambda: train(cfg, tmp_path / "part"))
    train(cfg, tmp_path / "part")
    assert_same_end(tmp_path / "whole", tmp_path / "part")


def test_minutes_to_go_count_the_steps_at_the_larger_size(coco_root, tmp_path, monkeypatch):
    """16 times the pixels of the first two epochs; a resumed run knows what it has done itself."""
    cfg = tiny_config(coco_root, tmp_path, "TRAIN.BEGIN_EPOCH", "5", "TRAIN.END_EPOCH", "9")
    sizes = InputSizes(sizes=(32, 128), starts=(7,))
    monkeypatch.setattr(meter.time, "perf_counter", lambda: 0.0)
    minutes = {}
    for done, step in ((0, 1), (0, 10), (0, 20), (0, 30), (25, 30), (0, 40)):
        run_meter = run.start_meter(cfg, ALONE, None, None, sizes, steps=10, done=done)
        run_meter.begin, run_meter.step = -60.0, step
        minutes[done, step] = run_meter.minutes_to_go()
    expected = {
        (0, 1): 19 + 320,
        (0, 10): 1 + 32,
        (0, 20): 16,
        (0, 30): 160 / 180,
        (25, 30): 2,
        (0, 40): 0,
    }
    assert minutes == pytest.approx(expected)


def test_targets_have_the_size_of_the_crops(coco_root, tmp_path, monkeypatch):
    results: list[StepResult] = []
    monkeypatch.setattr(run.Meter, "update", lambda self, result, lr: results.append(result))
    cfg = tiny_config(coco_root, tmp_path, *HALF, "TRAIN.END_EPOCH", "2")
    train(cfg, tmp_path / "run")
    maps = [[target.shape[-1] for target in result.targets.heatmaps] for result in results]
    assert maps == [[8, 16]] * 2 + [[16, 32]] * 2
    for result in results:
        outputs = [output.shape[-1] for output in result.outputs]
        assert outputs == [target.shape[-1] for target in result.targets.heatmaps]
