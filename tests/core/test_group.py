"""Grouping equals the recorded people of the original; a scene may have nobody."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.config import load_config
from lib.core.group import HeatmapParser
from lib.core.maps import DeviceMaps, HostMaps
from tests.helpers import GOLDEN, ROOT

GROUPING = np.load(GOLDEN / "grouping.npz")
SCENES = range(sum(name.startswith("spec_") for name in GROUPING.files))


def parser(num_joints: int) -> HeatmapParser:
    data_set = "coco" if num_joints == 17 else "crowd_pose"
    return HeatmapParser(load_config(ROOT / "experiments" / data_set / "mobilenet/mobile.yaml"))


def scene(index: int):
    return tuple(torch.from_numpy(GROUPING[f"{name}_{index}"]) for name in ("det", "tag"))


@pytest.mark.parametrize("index", SCENES)
def test_people_equal_the_original(index):
    det, tag = scene(index)
    [people], _ = parser(det.shape[1]).parse(det, tag, adjust=False, refine=False)
    recorded = GROUPING[f"match_{index}"]
    np.testing.assert_array_equal(people, recorded.reshape(people.shape))


@pytest.mark.parametrize(("adjust", "refine"), [(0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize("index", SCENES)
def test_adjusted_and_refined_people_equal_the_original(index, adjust, refine):
    det, tag = scene(index)
    [people], scores = parser(det.shape[1]).parse(det, tag, bool(adjust), bool(refine))
    recorded = GROUPING[f"parse_{index}_{adjust}{refine}"].reshape(people.shape)
    np.testing.assert_allclose(people, recorded, atol=1e-5)
    np.testing.assert_allclose(scores, GROUPING[f"scores_{index}_{adjust}{refine}"], atol=1e-6)


def test_an_empty_scene_has_nobody():
    [people], scores = parser(17).parse(torch.zeros(1, 17, 32, 32), torch.zeros(1, 17, 32, 32, 1))
    assert people.shape == (0, 17, 4)
    assert scores == []


@pytest.mark.parametrize("kind", [HostMaps, DeviceMaps])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("empty", [True, False])
def test_heatmaps_that_are_not_finite_are_an_error(kind, value, empty):
    """Also where one pixel is not, or nobody would be found."""
    det, tag = scene(0)
    det = det.clone() * (not empty)
    det[0, 2, 5, 7] = value
    maps = kind(det[0].numpy(), tag[0].numpy()) if kind is HostMaps else kind(det[0], tag[0])
    with pytest.raises(ValueError, match="the network's maps are not finite"):
        parser(det.shape[1]).group(maps)


def test_tags_that_are_not_finite_are_an_error():
    det, tag = scene(0)
    with pytest.raises(ValueError, match="the network's maps are not finite"):
        parser(det.shape[1]).parse(det, tag * np.nan)
