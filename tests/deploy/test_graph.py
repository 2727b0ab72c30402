"""What a device computes is what evaluation computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.codec import CODECS
from lib.core.group import find_candidates
from lib.core.inference import InferenceSettings, network_maps, prepare
from lib.core.maps import find_peaks, maps_of
from lib.deploy.graph import GRAPHS, is_first_of_equals, local_maxima, subpixel
from tests.helpers import fill, network, tiny_config


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 100, 3), np.uint8)


def graph_of(tmp_path, kind: str, *opts: str):
    """A graph with random weights."""
    cfg = tiny_config(tmp_path, tmp_path, *opts)
    model = network(cfg).eval()
    with torch.no_grad():
        fill(model, 3)
    return GRAPHS[kind](InferenceSettings.from_config(cfg), model).eval()


@pytest.mark.parametrize("codec", list(CODECS))
@pytest.mark.parametrize("flip", ["True", "False"])
@pytest.mark.parametrize(
    "tags",
    [(), ("MODEL.TAG_PER_JOINT", "False"), ("MODEL.AE_TAG_DIMS", "3")],
    ids=["per joint", "shared", "of three dimensions"],
)
@pytest.mark.parametrize("mask", ["True", "False"])
def test_its_candidates_are_those_of_the_evaluation(tmp_path, image, codec, flip, tags, mask):
    opts = ("MODEL.CODEC", codec, "TEST.FLIP_TEST", flip, *tags)
    graph = graph_of(tmp_path, "candidates", *opts, "TEST.MASK_BORDERS", mask)
    prepared = prepare(graph.settings, image)
    with torch.no_grad():
        outputs = [output[0].numpy() for output in graph(prepared.images[0][None])]
        heatmaps, tags = network_maps(graph.settings, graph.network, [prepared])
    params = graph.settings.group
    expected = find_candidates(maps_of(heatmaps[0], tags[0]), params, adjust=True)
    scale = prepared.images[0].shape[1] / heatmaps.shape[3]
    assert sum(map(len, expected)) > 50
    for rows, positions, values, peak_tags in zip(expected, *outputs, strict=True):
        assert (np.diff(values) <= 0).all()
        found = values > params.detection_threshold
        assert found.sum() == len(rows)
        np.testing.assert_array_equal(values[found], rows[:, 2])
        np.testing.assert_allclose(positions[found], rows[:, :2] * scale, atol=1e-4)
        np.testing.assert_array_equal(peak_tags[found], rows[:, 3:])


def test_pixels_follow_the_candidates(tmp_path, image):
    graph = graph_of(tmp_path, "pixels", "TEST.FLIP_TEST", "True")
    candidates = graph_of(tmp_path, "candidates", "TEST.FLIP_TEST", "True")
    prepared = prepare(graph.settings, image)
    with torch.no_grad():
        outputs = graph(prepared.images[0][None])
        few = candidates(prepared.images[0][None])
        heatmaps, tags = network_maps(graph.settings, graph.network, [prepared])
    for one, other in zip(outputs, few, strict=False):
        assert torch.equal(one, other)
    positions, values, peak_tags = outputs[3:]
    assert torch.equal(values, heatmaps.flatten(2))
    assert torch.equal(peak_tags, tags.flatten(2, 3))
    pixel = 7 * heatmaps.shape[3] + 5
    assert (positions[..., pixel, :] > torch.tensor([5, 7])).all()
    assert (positions[..., pixel, :] < torch.tensor([6, 8])).all()


@pytest.mark.parametrize("codec", list(CODECS))
def test_offsets_are_the_codecs(codec):
    windows = np.random.default_rng(1).uniform(-0.1, 1, (500, 3, 3)).astype(np.float32)
    windows[::2, 1, 1] = 1.1  # peaks, and any pixel
    windows[:20] = 0.5  # plateaus
    maps = torch.from_numpy(windows)[None]
    middle = torch.full((1, 500, 1), 4)
    found = subpixel(maps, middle, CODECS[codec])[0, :, 0].numpy() - 1
    np.testing.assert_allclose(found, CODECS[codec].offsets(windows), atol=1e-6)


@pytest.mark.parametrize("corner", [(0, 0), (0, 7), (7, 0), (7, 7)])
def test_where_there_is_one_peak_the_others_are_worth_nothing(corner):
    """Even where pixels that are no peaks come first and are strong."""
    maps = torch.zeros(1, 1, 8, 8)
    y, x = corner
    maps[0, 0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = 0.5
    maps[0, 0, y, x] = 0.9
    values, address = local_maxima(maps, 2).flatten(2).topk(5)
    assert values[0, 0].tolist() == pytest.approx([0.9, 0, 0, 0, 0])
    assert address[0, 0, 0] == 8 * y + x


@pytest.mark.parametrize("radius", [1, 2])
def test_of_equal_neighbors_the_first_is_a_peak(radius):
    """As in the evaluation; few different values make many equal neighbors, borders included."""
    maps = torch.randint(0, 5, (1, 2, 9, 11), generator=torch.Generator().manual_seed(0)).float()
    peaks = local_maxima(maps, radius).flatten(2)
    address = torch.arange(99).expand(1, 2, 99)
    first = is_first_of_equals(maps, address, radius) & (peaks > 0)
    host = maps_of(maps[0], maps[0, ..., None])
    pixels = find_peaks(host, 0, radius)
    assert len(pixels.y) < (peaks > 0).sum()
    _, joint, place = first.nonzero().T
    assert joint.tolist() == pixels.joint.tolist()
    assert place.tolist() == (pixels.y * 11 + pixels.x).tolist()


@pytest.mark.parametrize("codec", list(CODECS))
def test_half_precision_makes_no_twins(tmp_path, image, codec, monkeypatch):
    """Maps rounded to bfloat16, as some devices compute them: no two peaks in one window."""
    graph = graph_of(tmp_path, "candidates", "MODEL.CODEC", codec)
    maps, _ = graph.maps(torch.from_numpy(image[:64, :64])[None])
    rounded = maps.bfloat16().float()
    monkeypatch.setattr(graph, "maps", lambda _: (rounded, [rounded]))
    positions, values, _ = graph(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    strong = values > 0.1
    assert strong.sum() > 20
    for places, mask in zip(positions[0], strong[0], strict=True):
        distance = (places[mask, None] - places[mask]).abs().amax(dim=2)
        assert (distance.fill_diagonal_(99) >= 2).all()  # pixels of the input


@pytest.mark.parametrize(
    "opts", [("TEST.SCALE_FACTOR", "[1, 2]"), ("TEST.ADJUST", "False")], ids=lambda opts: opts[0]
)
def test_what_a_device_cannot_do_is_refused(tmp_path, opts):
    with pytest.raises(ValueError, match=r"TEST\.SCALE_FACTOR is \[1\], ADJUST on"):
        graph_of(tmp_path, "candidates", *opts)


def test_values_that_are_not_numbers_stay_so_that_they_are_reported(tmp_path):
    heatmaps = torch.full((1, 2, 8, 8), torch.nan)
    peaks = local_maxima(heatmaps, 2)
    assert peaks.isnan().all()
    assert is_first_of_equals(heatmaps, torch.arange(64).expand(1, 2, 64), 2).all()
