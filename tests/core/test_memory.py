"""A training holds nothing of a step beyond the next print."""

from __future__ import annotations

import contextlib
import gc

import pytest
import torch

from tests.helpers import TINY, tiny_config
from tests.runs import SMALL, SUPERNET, at_step, train


@pytest.mark.parametrize(("arch", "opts"), [(TINY, []), (SMALL, SUPERNET)], ids=["one", "supernet"])
def test_there_are_no_more_tensors_after_many_steps(coco_root, tmp_path, arch, opts):
    """At steps that are equally far from a print."""
    counts = {}

    def count(step: int) -> None:
        gc.collect()
        counts[step] = sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    keys = ["PRINT_FREQ", "4", "TRAIN.IMAGES_PER_GPU", "1", "TRAIN.END_EPOCH", "8"]
    cfg = tiny_config(coco_root, tmp_path, *opts, *keys, "TRAIN.EMA", "0.9")
    with contextlib.ExitStack() as stack:
        for step in (14, 26, 38):
            stack.enter_context(at_step(step, lambda step=step: count(step)))
        train(cfg, tmp_path / "run", arch=arch)
    assert counts[14] == counts[26] == counts[38]
