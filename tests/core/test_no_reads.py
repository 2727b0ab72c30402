"""A training step reads nothing from the device, so a GPU never waits for Python.

Tensors of PyTorch's `meta` device have shapes and no values: reading a value of one, or a shape
that depends on values, is an error.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

import dist_train
from lib.core.loss import MultiLossFactory
from lib.core.trainer import StepSettings, train_step
from lib.dataset.samples import Batch
from lib.dataset.target_generators import heatmap_targets
from lib.models import place
from lib.training.average import WeightAverage
from lib.utils.dist import ALONE
from tests.devices import META, Watch
from tests.helpers import TINY, network, tiny_config
from tests.runs import SMALL, SUPERNET, step_state


def fake_batch(size: int, maps: list[int]) -> Batch:
    return Batch(
        images=torch.zeros(2, size, size, 3, dtype=torch.uint8),
        joints=torch.zeros(2, 3, 17, 3),
        sigmas=torch.zeros(2, 3),
        flipped=torch.zeros(2, dtype=torch.bool),
        masks=[torch.zeros(2, side, side, dtype=torch.bool) for side in maps],
        image_ids=torch.zeros(2, dtype=torch.int64),
        largest_sigma=2.0,
        labelled=torch.zeros(2, 17, dtype=torch.bool),
    )


STEPS = {
    "adam": (TINY, []),
    "sgd, unbiased": (
        TINY,
        ["TRAIN.OPTIMIZER", "sgd", "DATASET.SIGMA", "-1", "MODEL.CODEC", "unbiased"],
    ),
    "one tag map, hinge": (TINY, ["MODEL.TAG_PER_JOINT", "False", "LOSS.AE_LOSS_TYPE", "max"]),
    "modern": (TINY, ["LOSS.WAHR", "True", "LOSS.FLIP_CONSISTENCY", "1", "LOSS.PUSH_START", "0.1"]),
    "tags of three dimensions": (
        TINY,
        "MODEL.AE_TAG_DIMS 3 LOSS.TAG_SIZE_FACTOR 0.1 LOSS.PUSH_START 0.1 "
        "LOSS.PUSH_EACH_DIM True".split(),
    ),
    "sandwich": (SMALL, SUPERNET),
}


@pytest.mark.parametrize(
    ("name", "clip_norm"), [("adam", "0.0"), *((name, "0.1") for name in STEPS)]
)
def test_a_step_reads_nothing_and_stays_on_its_device(coco_root, tmp_path, name, clip_norm):
    arch, opts = STEPS[name]
    cfg = tiny_config(coco_root, tmp_path, *opts, "TRAIN.CLIP_NORM", clip_norm)
    criterion, settings = dist_train.start_criterion(cfg, None, META), StepSettings.from_config(cfg)
    model = place(network(cfg, arch), META, cfg.MODEL.CHANNELS_LAST).train()
    plan = dist_train.supernet_plan(cfg, model)
    archs, imitate = (plan.archs(0), plan.imitate) if plan else ([None], None)
    batches = [fake_batch(cfg.DATASET.INPUT_SIZE, cfg.DATASET.OUTPUT_SIZE)] * 2
    state = step_state(cfg, model, ALONE._replace(device=META))
    average = WeightAverage(model, decay=0.9)
    with Watch():
        for _ in range(2):  # the second one has moments
            result = train_step(state, criterion, settings, batches, archs, imitate)
            average.update(model)
    assert {term.device for term in result.losses.values()} == {META}
    assert {one.device for one in average.network.state_dict().values()} == {META}


def test_the_check_sees_a_read_and_a_shape_that_follows_from_values():
    joints, sigmas = torch.zeros(1, 2, 17, 3, device=META), torch.zeros(1, 2, device=META)
    with pytest.raises(RuntimeError, match="item"):
        heatmap_targets(joints, sigmas, 64)
    with pytest.raises(NotImplementedError):
        joints.nonzero()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_a_gpu_never_waits_for_it(coco_root, tmp_path):
    half = ["FP16.ENABLED", "True", "FP16.DYNAMIC_LOSS_SCALE", "True"]
    cfg = tiny_config(coco_root, tmp_path, *half)
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    process = ALONE._replace(device=torch.device("cuda"))
    state = step_state(cfg, network(cfg).to(process.device).train(), process)
    batch = fake_batch(cfg.DATASET.INPUT_SIZE, cfg.DATASET.OUTPUT_SIZE)
    batch = tree_map_only(Tensor, Tensor.pin_memory, batch)
    for mode in ("default", "error"):  # the first step allocates
        torch.cuda.set_sync_debug_mode(mode)
        try:
            train_step(state, criterion, settings, [batch])
        finally:
            torch.cuda.set_sync_debug_mode("default")
