"""What the benchmarks compare with does the same work."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.core.trainer import StepSettings
from lib.core.views import make_view
from lib.dataset.build import build_dataset
from lib.dataset.samples import collate
from tests.helpers import tiny_config
from tools.benchmark.plain_targets import plain_batch, plain_sample


@pytest.mark.parametrize("sigma", ["2", "-1"])
def test_one_sample_at_a_time_gives_the_same_batch(coco_root, tmp_path, sigma):
    """Mirrored samples, and joints beyond the crop, among them."""
    opts = ["DATASET.INPUT_SIZE", "128", "DATASET.OUTPUT_SIZE", "[32, 64]", "DATASET.SIGMA", sigma]
    cfg = tiny_config(coco_root, tmp_path, *opts)
    data = build_dataset(cfg)
    samples = [data[epoch, index] for epoch in range(3) for index in range(len(data))]
    assert {sample.flipped for sample in samples} == {True, False}
    view = make_view(collate(samples), 128, StepSettings.from_config(cfg))
    people = view.targets.nodes[0].shape[1]
    images, targets = plain_batch([plain_sample(sample, people) for sample in samples])
    assert images.is_contiguous()  # as PyTorch has it, not channels last
    torch.testing.assert_close(images, view.images, atol=1e-6, rtol=0)
    for stage in range(2):
        torch.testing.assert_close(
            targets.heatmaps[stage], view.targets.heatmaps[stage], atol=1e-6, rtol=0
        )
        assert torch.equal(targets.masks[stage], view.targets.masks[stage])
        np.testing.assert_array_equal(targets.nodes[stage], view.targets.nodes[stage])
