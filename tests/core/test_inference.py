"""Maps, sizes and coordinates of the test equal the original's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.config import load_config
from lib.core.inference import (
    InferenceSettings,
    aggregate_results,
    find_people,
    get_multi_stage_outputs,
    network_maps,
    predict,
    prepare,
    settings_of,
)
from lib.utils.transforms import (
    get_final_preds,
    get_multi_scale_size,
    resize_align_multi_scale,
    warp_matrix,
)
from tests.helpers import GOLDEN, ROOT

GEOMETRY = np.load(GOLDEN / "geometry.npz")
SIZES = sorted(name.removeprefix("size_") for name in GEOMETRY.files if name.startswith("size_"))
AGGREGATION = np.load(GOLDEN / "aggregation.npz")
MAPS = sorted(
    name.removeprefix("shape_") for name in AGGREGATION.files if name.startswith("shape_")
)


@pytest.mark.parametrize("case", SIZES)
def test_sizes_and_coordinates_equal_the_original(case):
    wh, input_size, scale, min_scale = case.split("_")
    width, height = map(int, wh.split("x"))
    image = np.zeros((height, width, 3), np.uint8)
    size, center, warp = get_multi_scale_size(
        image, int(input_size), float(scale), float(min_scale)
    )
    np.testing.assert_array_equal(size, GEOMETRY[f"size_{case}"])
    np.testing.assert_array_equal(center, GEOMETRY[f"center_{case}"])
    np.testing.assert_allclose(warp, GEOMETRY[f"scale_{case}"], rtol=1e-12)
    preds = get_final_preds([GEOMETRY[f"in_{case}"]], center, warp, size)
    np.testing.assert_allclose(preds, GEOMETRY[f"preds_{case}"], atol=1e-6)


class LinearModel(nn.Module):
    """The fixed model behind the recorded maps."""

    def __init__(self, num_joints: int) -> None:
        super().__init__()
        rng = np.random.default_rng(5)
        for name, channels in (("a", 2 * num_joints), ("b", num_joints)):
            weight = (rng.standard_normal((channels, 3, 3, 3)) * 0.2).astype(np.float32)
            self.register_parameter(name, nn.Parameter(torch.from_numpy(weight)))

    def forward(self, x):
        return [
            F.conv2d(F.avg_pool2d(x, 4), self.a, padding=1),
            F.conv2d(F.avg_pool2d(x, 2), self.b, padding=1),
        ]


@pytest.mark.parametrize("case", MAPS)
@torch.no_grad()
def test_aggregated_maps_equal_the_original(case):
    seed, data_set, project, scales = case.replace("crowd_pose", "crowd-pose").split("_")
    data_set = data_set.replace("-", "_")
    factors = [1.0] if scales == "1" else [0.5, 1.0, 2.0]
    cfg = load_config(
        ROOT / "experiments" / data_set / "mobilenet/mobile.yaml",
        ["TEST.PROJECT2IMAGE", str(project == "1"), "TEST.SCALE_FACTOR", str(factors)]
        + ["DATASET.INPUT_SIZE", "128", "DATASET.OUTPUT_SIZE", "[32, 64]"],
    )
    image = AGGREGATION[f"image_{seed}"]
    model = LinearModel(cfg.MODEL.NUM_JOINTS)
    base, _, _ = get_multi_scale_size(image, 128, 1.0, min(factors))
    heatmaps, tags = None, []
    for factor in sorted(factors, reverse=True):
        resized, _, _ = resize_align_multi_scale(image, 128, factor, min(factors))
        inputs = torch.from_numpy(resized).permute(2, 0, 1)[None] / 255
        _, scale_heatmaps, scale_tags = get_multi_stage_outputs(
            cfg, model, inputs, True, cfg.TEST.PROJECT2IMAGE, base
        )
        heatmaps, tags = aggregate_results(cfg, factor, heatmaps, tags, scale_heatmaps, scale_tags)
    heatmaps, tags = heatmaps / len(factors), torch.cat(tags, dim=4)
    assert tuple(heatmaps.shape) == tuple(AGGREGATION[f"shape_{case}"])
    np.testing.assert_allclose(heatmaps[..., ::4, ::4], AGGREGATION[f"heatmaps_{case}"], atol=1e-5)
    np.testing.assert_allclose(tags[:, :, ::4, ::4], AGGREGATION[f"tags_{case}"], atol=1e-5)


@pytest.mark.parametrize(("width", "height"), [(320, 240), (240, 320), (201, 200), (64, 64)])
def test_a_pixel_comes_back_where_it_was(width, height):
    image = np.zeros((height, width, 3), np.uint8)
    size, center, scale = get_multi_scale_size(image, 128, 1.0, 1.0)
    there = warp_matrix(center, scale, size)
    people = np.random.default_rng(0).uniform(0, 60, (2, 17, 4))
    moved = people.copy()
    moved[..., :2] = people[..., :2] @ there[:, :2].T + there[:, 2]
    np.testing.assert_allclose(get_final_preds([moved], center, scale, size), people, atol=1e-9)


def test_an_image_without_people_is_an_ordinary_image():
    cfg = load_config(
        ROOT / "experiments/coco/mobilenet/mobile.yaml",
        ["DATASET.INPUT_SIZE", "64", "DATASET.OUTPUT_SIZE", "[16, 32]"],
    )
    model = LinearModel(17)
    for parameter in model.parameters():
        parameter.data.zero_()
    people, scores = predict(cfg, model, np.zeros((90, 70, 3), np.uint8))
    assert people.shape == (0, 17, 5)
    assert scores == []


def small_config(*opts: str):
    size = ["DATASET.INPUT_SIZE", "64", "DATASET.OUTPUT_SIZE", "[16, 32]"]
    return load_config(ROOT / "experiments/coco/mobilenet/mobile.yaml", [*size, *opts])


def noise(count: int, height: int = 90, width: int = 70) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (count, height, width, 3), np.uint8))


@pytest.mark.parametrize("scales", ["[1]", "[0.5, 1, 2]"])
@pytest.mark.parametrize("flip", ["True", "False"])
def test_maps_do_not_depend_on_the_batch(scales, flip):
    cfg = small_config("TEST.SCALE_FACTOR", scales, "TEST.FLIP_TEST", flip)
    model = LinearModel(17)
    inputs = [prepare(settings_of(cfg), image) for image in noise(3)]
    heatmaps, tags = network_maps(settings_of(cfg), model, inputs)
    for i, one in enumerate(inputs):
        single_heatmaps, scale_tags = network_maps(settings_of(cfg), model, [one])
        # Convolutions of a batch may add in another order.
        torch.testing.assert_close(heatmaps[i : i + 1], single_heatmaps, rtol=0, atol=1e-5)
        torch.testing.assert_close(tags[i : i + 1], scale_tags, rtol=0, atol=1e-5)


@pytest.mark.parametrize("project", ["True", "False"])
def test_every_map_is_a_plane_in_memory(project):
    cfg = small_config("TEST.PROJECT2IMAGE", project)
    model = LinearModel(17).to(memory_format=torch.channels_last)
    [image] = noise(1)
    heatmaps, tags = network_maps(settings_of(cfg), model, [prepare(settings_of(cfg), image)])
    assert heatmaps.is_contiguous()
    assert tags.shape == (*heatmaps.shape, 2)  # the image's tag and that of the flip
    assert tags.movedim(4, 1).is_contiguous()


@pytest.mark.parametrize(
    ("opts", "is_small"),
    [
        ((), True),
        (("TEST.MASK_BORDERS", "True"), False),
        (("TEST.SCALE_FACTOR", "[0.5, 1]"), False),
        (("TEST.PROJECT2IMAGE", "False"), True),
    ],
    ids=["one scale", "borders", "scales", "never projected"],
)
def test_people_do_not_depend_on_when_maps_are_projected(opts, is_small):
    cfg, model = small_config(*opts), LinearModel(17)
    settings = settings_of(cfg)
    [image] = noise(1)
    inputs = prepare(settings, image)
    heatmaps, tags = network_maps(settings, model, [inputs], project=False)
    assert (heatmaps.shape[3] < inputs.base_size[0]) == is_small
    people, scores, is_full = find_people(settings, heatmaps, tags, inputs)
    maps = network_maps(settings, model, [inputs])
    expected, expected_scores, expected_full = find_people(settings, *maps, inputs)
    assert is_full == expected_full
    assert len(people) > 3
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-4)
    # The codec's quarter of a pixel may go either way between equal neighbors.
    np.testing.assert_allclose(people, expected, atol=1.1 * inputs.scale[0] * 200 / 2 / 64)
    assert (np.abs(people - expected) > 1e-3).mean() < 1e-3


def test_half_precision_is_for_gpus():
    full, half = small_config(), small_config("FP16.ENABLED", "True")
    model = LinearModel(17)
    prepared = prepare(settings_of(full), noise(1)[0])
    expected, _ = network_maps(settings_of(full), model, [prepared])
    heatmaps, _ = network_maps(settings_of(half), model, [prepared])
    assert torch.equal(heatmaps, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_half_precision_gives_the_maps_but_for_rounding():
    full, half = small_config(), small_config("FP16.ENABLED", "True")
    model = LinearModel(17).to("cuda")
    prepared = prepare(settings_of(full), noise(1)[0])
    expected, _ = network_maps(settings_of(full), model, [prepared])
    heatmaps, tags = network_maps(settings_of(half), model, [prepared])
    assert heatmaps.dtype == tags.dtype == torch.float32
    assert not torch.equal(heatmaps, expected)
    torch.testing.assert_close(heatmaps, expected, rtol=0, atol=1e-2 * expected.abs().max().item())


def test_a_sliver_of_a_image_is_refused():
    with pytest.raises(ValueError, match="2 x 4000 pixels become an input of 64 x 128000"):
        prepare(settings_of(small_config()), np.zeros((4000, 2, 3), np.uint8))


def test_inputs_of_all_scales_have_the_sides_that_the_scales_say():
    """0.3 / 0.1 is a little below 3, but three times 64 pixels are 192."""
    settings = InferenceSettings.from_config(
        small_config("TEST.SCALE_FACTOR", "[0.1, 0.3, 0.7, 1]")
    )
    scales = {0.1: 1, 0.3: 3, 0.7: 7}
    sizes = [settings.geometry(64 * k, 64, scale)[0] for k in (1, 3, 7) for scale in scales]
    assert sizes == [(64 * k * times, 64 * times) for k in (1, 3, 7) for times in scales.values()]
