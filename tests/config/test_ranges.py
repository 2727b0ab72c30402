"""Every key has a range; a value outside is one line with the key, any other can be used."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import yaml

from arch_manager import ArchManager
from lib.config import read_config
from lib.config.default import _C
from lib.config.ranges import RANGES
from lib.core.inference import InferenceSettings
from lib.core.loss import MultiLossFactory
from lib.core.pipeline import LoaderSettings
from lib.core.trainer import StepSettings
from lib.dataset.transforms.augment import build_transforms
from lib.keypoints import COCO
from lib.training.optim import get_optimizer, get_scheduler


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


DEFAULTS = dict(leaves(_C))
NUMBERS = [-1, 0, 1, 2, 7, 10**6, 10**30, 0.5, -0.5, 2.5, 1e-9, 1e20, math.nan, math.inf, -math.inf]
OTHERS = [None, True, "", "x", "a\0b", "a\nb", "x" * 5000, "-" * 3000, {}, {"a": 1}]


def test_every_key_has_a_range_that_holds_its_default():
    assert list(RANGES) == list(DEFAULTS)
    assert not [key for key, value in DEFAULTS.items() if not RANGES[key].accepts(value)]


def values_for(key: str, rng: random.Random) -> list[Any]:
    """Five values, few of which make sense for any key."""
    lists = [[], [rng.choice(NUMBERS)], [rng.choice(OTHERS)], [[1, 2]]]
    default = DEFAULTS[key]
    if isinstance(default, (list, tuple)):
        lists += [[*default[:-1], rng.choice(NUMBERS)], [rng.choice(NUMBERS)] * len(default)]
        return rng.sample(lists, 3) + [rng.choice(NUMBERS), rng.choice(OTHERS)]
    return rng.sample(NUMBERS, 3) + [rng.choice(OTHERS), rng.choice(lists)]


def use(cfg: Any) -> None:
    """Build what training and evaluation build from a config, except the network and the data."""
    InferenceSettings.from_config(cfg).geometry(640, 480)
    LoaderSettings.from_config(cfg)
    StepSettings.from_config(cfg)
    MultiLossFactory.from_config(cfg)
    ArchManager.from_config(cfg).sample(0)
    build_transforms(cfg, COCO)
    model = torch.nn.Linear(2, 2)
    optimizer = get_optimizer(cfg, model)
    scheduler = get_scheduler(cfg, optimizer, steps_per_epoch=3)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
    assert math.isfinite(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("seed", range(2))
def test_a_value_is_refused_with_its_key_or_can_be_used(seed):
    """Through YAML and as text of a command line; never another exception, never a second line."""
    rng = random.Random(seed)
    counts = {"refused": 0, "used": 0}
    for key in DEFAULTS:
        for value in values_for(key, rng):
            text = yaml.safe_dump({key: value})
            source = rng.choice(["yaml", "command line"])
            opts = [] if source == "yaml" else [key, str(value)]
            try:
                cfg = read_config(text if source == "yaml" else "{}", "the file", opts)
                use(cfg)
                counts["used"] += 1
            except ValueError as error:
                counts["refused"] += 1
                message = str(error)
                assert key in message, (key, value)
                assert message.isprintable(), (key, value)
                assert len(message) < 400, (key, value)
    assert counts["refused"] > 400
    assert counts["used"] > 50
