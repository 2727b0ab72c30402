"""The decoder equals its readable specification on random scenes, for CPU and device maps."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib.codec import CODECS
from lib.config import load_config
from lib.core.group import GroupParams, HeatmapParser, assign, find_candidates
from lib.core.images import resize_maps
from lib.core.maps import DeviceMaps, HostMaps, ProjectedMaps, can_enlarge, maps_of
from tests.helpers import YAMLS
from tools.benchmark.decoder_specification import decode
from tools.benchmark.scene import Scene

SCENES = 250
TILES = 5  # tests; each decodes its share of the scenes


def random_scene(seed: int) -> tuple[np.ndarray, np.ndarray, list[str], str]:
    """det, tag, settings and data set of a rendered scene: 0 to 40 people, K 14 or 17, L 1 to 4."""
    rng = np.random.default_rng(seed)
    data_set = rng.choice(["coco", "crowd_pose"])
    people = int(rng.choice([0, 1, 2, 5, 12, 30, 40]))
    height, width = rng.integers(17, 65, 2)
    shared = bool(rng.random() < 0.2)
    scene = Scene(
        people,
        num_joints=17 if data_set == "coco" else 14,
        height=int(height),
        width=int(width),
        tag_dims=int(rng.integers(1, 5)),
        seed=seed,
        visible=rng.choice([0.3, 0.85, 1.0]),
        tag_step=rng.choice([0.4, 1.0, 3.0]),
        noise=rng.choice([0.0, 0.01, 0.2], p=[0.45, 0.45, 0.1]),
        sigma=rng.choice([1.0, 2.0, 4.0]),
        shared_tags=shared,
    )
    det, tag = scene.render()
    if rng.random() < 0.3:  # plateaus and equal peaks
        det, tag = np.round(det, 1), np.round(tag)
    settings = {
        "MODEL.TAG_PER_JOINT": not shared,
        "MODEL.CODEC": rng.choice(list(CODECS)),
        "TEST.USE_DETECTION_VAL": rng.random() < 0.8,
        "TEST.IGNORE_TOO_MUCH": rng.random() < 0.2,
        "DATASET.MAX_NUM_PEOPLE": int(rng.choice([3, 30])),
    }
    return det, tag, [str(part) for pair in settings.items() for part in pair], str(data_set)


@pytest.mark.parametrize("tile", range(TILES))
def test_people_are_those_of_the_specification(tile):
    """By both kinds of maps: the one for the CPU and the one for other devices."""
    people_in_all = 0
    for seed in range(tile, SCENES, TILES):
        det, tag, settings, data_set = random_scene(seed)
        adjust, refine = seed % 3 > 0, seed % 2 > 0
        parser = HeatmapParser(load_config(YAMLS[data_set], settings))
        expected, expected_scores = decode(det, tag, parser.params, adjust, refine)
        for maps in (HostMaps(det, tag), DeviceMaps(torch.from_numpy(det), torch.from_numpy(tag))):
            people, scores, _ = parser.group(maps, adjust, refine)
            np.testing.assert_array_equal(people[..., 2:], expected[..., 2:], f"scene {seed}")
            # Coordinates are sums of a whole and a fraction, rounded to float32 once or twice.
            np.testing.assert_allclose(people, expected, atol=1e-5, err_msg=f"scene {seed}")
            np.testing.assert_allclose(scores, expected_scores, rtol=1e-6)
        people_in_all += len(people)
    assert people_in_all > 100


def test_as_many_candidates_of_a_joint_as_people_are_allowed_may_be_too_few():
    det, tag, settings, data_set = random_scene(seed=1)
    cfg = load_config(YAMLS[data_set], [*settings, "DATASET.MAX_NUM_PEOPLE", "99"])
    maps = HostMaps(det, tag)
    most = max(map(len, find_candidates(maps, GroupParams.from_config(cfg), adjust=False)))
    assert 0 < most < 99
    for allowed in (most - 1, most, most + 1):
        params = replace(GroupParams.from_config(cfg), max_people=allowed)
        parser = HeatmapParser(SimpleNamespace(group=params))
        assert parser.group(maps, min_score=9).is_full == (allowed <= most)


def as_batch(maps: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(maps)[None]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 40), (16, 16), (33, 17), (64, 96)])
def test_the_best_pixel_is_that_of_the_whole_map(height, width):
    rng = np.random.default_rng(height * width)
    for case in range(20):
        det = rng.normal(0, 0.3, (2, height, width)).astype(np.float32)
        tag = rng.normal(0, 2, (2, height, width, 2)).astype(np.float32)
        if case % 4 == 0:  # ties everywhere
            det, tag = np.round(det), np.round(tag)
        if case % 4 == 1:
            det, tag = np.zeros_like(det), np.ones_like(tag)
        joint = np.array([0, 1, 1])
        means = rng.normal(0, 2, (3, 2)).astype(np.float32)
        expected = [
            np.argmax(det[k] - np.round(np.sqrt(((tag[k] - mean) ** 2).sum(axis=-1))))
            for k, mean in zip(joint, means, strict=True)
        ]
        for maps in (HostMaps(det, tag), DeviceMaps(torch.from_numpy(det), torch.from_numpy(tag))):
            best = maps.best_pixels(joint, means)
            np.testing.assert_array_equal(best.y * width + best.x, expected)


PARAMS = GroupParams(joint_order=tuple(range(14)))


@pytest.mark.parametrize("people", [1, 2, 5, 12, 30])
def test_of_equal_distances_stronger_joints_go_to_earlier_people(people):
    """All candidates are within half a unit of all people: every assignment costs the same."""
    rng = np.random.default_rng(people)
    for candidates in (people, max(people - 1, 1), people + 3):
        distance = rng.uniform(0, 0.5, (candidates, people))
        values = np.sort(rng.uniform(0.1, 1, candidates))[::-1]
        expected = [row if row < people else -1 for row in range(candidates)]
        assert assign(distance, values, PARAMS).tolist() == expected


def test_a_nearer_person_wins_by_a_unit_of_distance():
    crossed = np.array([[0.9, 0.1], [0.1, 0.9]])
    assert assign(crossed, np.array([0.9, 0.8]), PARAMS).tolist() == [1, 0]


def test_a_joint_too_far_in_tag_is_not_assigned():
    assert assign(np.array([[1.0]]), np.array([0.9]), PARAMS).tolist() == [-1]
    assert assign(np.array([[0.99]]), np.array([0.9]), PARAMS).tolist() == [0]


def test_people_do_not_depend_on_the_order_of_peaks():
    """A flipped scene has the flipped people, although peaks come in another order."""
    scene = Scene(8, 17, height=64, width=96, tag_dims=2, seed=3, visible=1.0, tag_step=0.5)
    det, tag = scene.render()
    parser = HeatmapParser(load_config(YAMLS["coco"]))
    [people], _ = parser.parse(as_batch(det), as_batch(tag), adjust=False, refine=False)
    flipped = [np.ascontiguousarray(maps[:, :, ::-1]) for maps in (det, tag)]
    [again], _ = parser.parse(*map(as_batch, flipped), adjust=False, refine=False)
    again[..., 0] = np.where(again[..., 2] > 0, 95 - again[..., 0], 0)
    key = [np.argsort(p.sum(axis=(1, 2))) for p in (people, again)]
    np.testing.assert_array_equal(people[key[0]], again[key[1]])


@pytest.mark.parametrize("step", [2, 4, 16])
def test_maps_that_are_not_enlarged_yet_give_the_people_of_enlarged_ones(step):
    people_in_all = 0
    for seed in range(15):
        rng = np.random.default_rng(1000 + seed)
        height, width = map(int, 16 // step * rng.integers(1, 9, 2) * 2)
        count = int(rng.choice([0, 1, 3, 12, 40]))
        noise, dims = rng.choice([0.01, 0.2]), int(rng.integers(1, 3))
        det, tag = Scene(count, 17, height, width, dims, seed=seed, noise=noise).render()
        if seed % 3 == 0:  # plateaus and equal peaks
            det, tag = np.round(det, 1), np.round(tag)
        small = ProjectedMaps(det, tag, step)
        large = np.stack([small.projection.all(one) for one in det])
        tags = [[small.projection.all(one) for one in plane] for plane in small.planes]
        assert can_enlarge((height, width), large.shape[1:])
        parser = HeatmapParser(load_config(YAMLS["coco"]))
        expected, expected_scores, _ = parser.group(HostMaps(large, np.stack(tags, axis=3)))
        people, scores, _ = parser.group(small)
        np.testing.assert_array_equal(people, expected, f"scene {seed}")
        assert scores == expected_scores
        people_in_all += len(people)
    assert people_in_all > 30


@pytest.mark.parametrize("step", [2, 4])
def test_pixels_are_those_of_resized_maps(step):
    maps = torch.randn(3, 8, 12)
    size = (step * 8, step * 12)
    expected = resize_maps(maps[None], size)[0].numpy()
    projection = ProjectedMaps(maps.numpy(), maps.numpy()[..., None], step).projection
    y, x = np.indices(size)
    found = projection.at(maps.numpy(), np.arange(3)[:, None, None], y, x)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for one, whole in zip(found, maps.numpy(), strict=True):
        np.testing.assert_array_equal(projection.all(whole), one)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 24), (32, 48)])
def test_the_best_pixel_of_maps_that_are_not_enlarged_yet(height, width):
    rng = np.random.default_rng(height * width)
    for case in range(20):
        det = rng.normal(0, 0.3, (2, height, width)).astype(np.float32)
        tag = rng.normal(0, 2, (2, height, width, 2)).astype(np.float32)
        if case % 4 == 1:
            det, tag = np.zeros_like(det), np.ones_like(tag)
        joint, means = np.array([0, 1, 1]), rng.normal(0, 2, (3, 2)).astype(np.float32)
        small = ProjectedMaps(det, tag, 2)
        best = small.best_pixels(joint, means)
        for k, mean, y, x in zip(joint, means, best.y, best.x, strict=True):
            planes = [small.projection.all(plane[k]) for plane in small.planes]
            distance = np.sqrt(((np.stack(planes, axis=2) - mean) ** 2).sum(axis=2))
            fits = small.projection.all(det[k]) - np.round(distance)
            assert (y, x) == divmod(fits.argmax(), 2 * width)


def test_only_maps_that_fit_into_whole_blocks_are_left_small():
    assert can_enlarge((24, 32), (48, 64))
    assert not can_enlarge((48, 64), (48, 64))
    assert not can_enlarge((24, 32), (48, 128))
    assert not can_enlarge((20, 32), (40, 64))
    assert not can_enlarge((16, 16), (48, 48))


def test_values_that_are_not_finite_are_found_in_maps_that_are_not_enlarged_yet():
    det, tag = torch.zeros(17, 8, 8), torch.zeros(17, 8, 8, 1)
    det[3, 5, 5] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        HeatmapParser(load_config(YAMLS["coco"])).group(maps_of(det, tag, enlarge=2))
