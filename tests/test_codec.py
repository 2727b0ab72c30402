"""A joint stays on its pixel, all the way from the image to the people and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.analysis.oracle import Oracle
from lib.codec import CODECS
from lib.config import load_config
from lib.core.inference import find_people, predict, prepare, settings_of
from lib.dataset.image_files import ImageRecord
from lib.dataset.samples import Sample
from lib.dataset.target_generators import heatmap_targets, make_targets
from lib.dataset.transforms import Affine, RandomFlip
from lib.utils.transforms import get_multi_scale_size, warp_matrix
from tests.helpers import YAMLS

UNBIASED = CODECS["unbiased"]
SIGMA = 6.0  # of the lights below, pixels of the image


def light(x: float, y: float, width: int = 320, height: int = 240) -> np.ndarray:
    """A image (H, W, 3) with one smooth light; pixel i of an annotation is pixel i here."""
    columns, rows = np.arange(width), np.arange(height)[:, None]
    value = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * SIGMA**2))
    return np.repeat(np.uint8(np.round(value))[..., None], 3, axis=2)


def centroid(image: np.ndarray) -> np.ndarray:
    """x, y of the light in an image (H, W, 3) as a place: pixel i covers [i, i + 1)."""
    weight = image[..., 0].astype(np.float64)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]] + 0.5
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


def sample_of(joints: np.ndarray, image: np.ndarray) -> Sample:
    size = (image.shape[1], image.shape[0])
    return Sample(image, joints, np.zeros(len(joints)), masks=[], image_id=1, size=size)


def flip(sample: Sample) -> Sample:
    """Flipped, joints keeping their slots."""
    same = range(sample.joints.shape[1])
    return RandomFlip(1.0, same, UNBIASED.pixel_center)(sample, np.random.default_rng(0))


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("degrees", [0.0, -27.0])
@pytest.mark.parametrize("side", [180.0, 256.0, 400.0])
@pytest.mark.parametrize("size", [64, 128, 256])
def test_augmentation_keeps_a_joint_on_what_it_marks(size, side, degrees, flipped):
    at = (150.3, 122.8)
    affine = Affine((160.0, 118.0), side, degrees, UNBIASED.pixel_center)
    sample = sample_of(affine.move(np.array([[[*at, 2.0]]]), size), affine.warp(light(*at), size))
    image, joints = flip(sample)[:2] if flipped else sample[:2]
    # 8-bit rounding and the interpolation of 1/32 pixel steps: far below a half pixel.
    np.testing.assert_allclose(centroid(image), joints[0, 0, :2], atol=0.06)


@pytest.mark.parametrize("size", [(320, 240), (240, 320), (201, 200), (640, 427)])
@pytest.mark.parametrize("input_size", [128, 256, 512])
def test_the_test_time_warp_keeps_a_joint_on_what_it_marks(input_size, size):
    width, height = size
    at = (width * 0.41, height * 0.57)
    cfg = load_config(
        YAMLS["coco"], ["MODEL.CODEC", "unbiased", "DATASET.INPUT_SIZE", str(input_size)]
    )
    inputs = prepare(settings_of(cfg), light(*at, width, height))
    matrix = warp_matrix(inputs.center, inputs.scale, inputs.base_size)
    expected = (np.array(at) + UNBIASED.pixel_center) @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(centroid(inputs.images[0].numpy()), expected, atol=0.06)


def test_resizing_a_step_keeps_a_joint_on_what_it_marks():
    """A supernet's images are resized on the device, its joints scaled by the same ratio."""
    at = (150.3, 122.8)
    image = torch.from_numpy(light(*at)[:224, :224]).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(image, size=(160, 160), mode="bilinear")
    place = (np.array(at) + 0.5) * 160 / 224
    np.testing.assert_allclose(centroid(small[0].permute(1, 2, 0).numpy()), place, atol=0.02)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_a_flipped_joint_has_the_flipped_heatmap(size):
    rng = np.random.default_rng(size)
    joints = np.concatenate([rng.uniform(8, 248, (3, 5, 2)), np.full((3, 5, 1), 2)], axis=2)
    joints[..., :2] += UNBIASED.pixel_center
    plain = sample_of(joints, np.zeros((256, 256, 3), np.uint8))
    maps = []
    for sample in (plain, flip(plain)):
        targets = make_targets(
            joints=torch.from_numpy(sample.joints)[None],
            flipped=torch.tensor([sample.flipped]),
            sigmas=torch.full((1, 3), 2.0),
            masks=[torch.ones(1, size, size)],
            crop_size=256,
            codec=UNBIASED,
        )
        maps.append(targets.heatmaps[0])
    # Gaussians end at whole pixels, so one may end a pixel sooner: exp(-3.5^2 / 2) at most.
    torch.testing.assert_close(maps[1].flip(3), maps[0], atol=3e-3, rtol=0)


@pytest.mark.parametrize("name", CODECS)
def test_a_peak_says_where_its_gaussian_stands(name):
    codec = CODECS[name]
    rng = np.random.default_rng(0)
    joints = torch.from_numpy(
        np.concatenate([rng.uniform(5, 27, (200, 1, 2)), np.full((200, 1, 1), 2)], axis=2)
    )
    maps = heatmap_targets(joints[:, None], torch.full((200, 1), 2.0), 32, codec)[:, 0].numpy()
    y, x = np.divmod(maps.reshape(200, -1).argmax(axis=1), 32)
    windows = np.stack(
        [m[v - 1 : v + 2, u - 1 : u + 2] for m, v, u in zip(maps, y, x, strict=True)]
    )
    error = np.abs(np.stack([x, y], axis=1) + codec.offsets(windows) - joints[:, 0, :2].numpy())
    # The reference knows the pixel alone and calls it a quarter from its corner.
    assert error.max() < (1e-4 if name == "unbiased" else 0.76)


@pytest.mark.parametrize("plateau", [0.0, 0.5, 1.0])
def test_a_flat_top_is_its_middle(plateau):
    np.testing.assert_array_equal(
        UNBIASED.offsets(np.full((1, 3, 3), plateau, np.float32)), [[0.5, 0.5]]
    )


@pytest.mark.parametrize("flip", ["True", "False"])
@pytest.mark.parametrize("size", [128, 256])
def test_ground_truth_maps_give_the_joints_back_to_a_tenth_of_a_pixel(size, flip):
    """Of the finest map, where no other person's joint is near; halves and wholes included."""
    joints = np.full((1, 17, 3), 2.0, np.float32)
    rng = np.random.default_rng(size)
    joints[0, :, 0] = rng.permutation(17) * 16 + rng.uniform(20, 24, 17)
    joints[0, :, 1] = rng.permutation(17) * 10 + rng.integers(20, 24, 17) / 2
    image = ImageRecord(1, "", 320, 240, joints, np.zeros((1, 4), np.float32), ())
    opts = ["MODEL.CODEC", "unbiased", "DATASET.INPUT_SIZE", str(size), "TEST.FLIP_TEST", flip]
    cfg = load_config(YAMLS["coco"], opts)
    oracle = Oracle.from_config(cfg)
    oracle.set_records([image])
    people, _ = predict(cfg, oracle, np.zeros((240, 320, 3), np.uint8))
    assert len(people) == 1
    pixels = 240 / size * 2  # of the image, in one of the finest map
    assert np.abs(people[0, :, :2] - joints[0, :, :2]).max() < 0.1 * pixels


def test_a_joint_between_two_pixels_is_one_joint():
    cfg = load_config(YAMLS["coco"], ["MODEL.CODEC", "unbiased"])
    joints = torch.tensor([[[[16.0, 12.0, 2.0]] * 17]])  # on the corner of four pixels
    heatmaps = heatmap_targets(joints, torch.tensor([[2.0]]), 32, UNBIASED)
    assert (heatmaps == heatmaps.max()).sum() == 4 * 17
    tags = torch.linspace(0, 0.2, 32 * 32).view(1, 1, 32, 32, 1).expand(1, 17, 32, 32, 1)
    inputs = prepare(settings_of(cfg), np.zeros((512, 512, 3), np.uint8))
    people = find_people(settings_of(cfg), heatmaps, tags, inputs).people
    assert len(people) == 1


def test_geometry_of_the_reference_is_the_originals():
    """Pixel i of a crop shows pixel i of the image where nothing is scaled; so do joints."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    size, center, scale = get_multi_scale_size(image, 64, 1.0, 1.0)
    assert size == (64, 64)
    np.testing.assert_array_equal(warp_matrix(center, scale, size), [[1, 0, 0], [0, 1, 0]])
    for name in CODECS:
        cfg = load_config(YAMLS["coco"], ["MODEL.CODEC", name, "DATASET.INPUT_SIZE", "64"])
        np.testing.assert_array_equal(prepare(settings_of(cfg), image).images[0].numpy(), image)
