"""A training on cached images sees what it would see of the files, but smoother."""

from __future__ import annotations

import pickle
import shutil

import cv2
import numpy as np
import pytest

from lib.dataset.build import build_dataset
from lib.dataset.cache import cache_path, cache_side, shrink, shrunk_size
from lib.dataset.image_files import ImageRecord, ReadError
from lib.dataset.transforms import RandomAffine
from lib.utils.files import WriteError
from tests.helpers import YAMLS, full_disk, tiny_config, tiny_opts
from tools import cache_images

SMALL = ["DATASET.INPUT_SIZE", "64", "DATASET.OUTPUT_SIZE", "[16, 32]"]


@pytest.fixture
def fill(coco_root, tmp_path):
    """Runs the tool on the synthetic images; the config of a training on its cache."""

    def run(*opts: str, root=coco_root):
        args = [*tiny_opts(root, tmp_path), *SMALL, "DATASET.CACHE", str(tmp_path / "cache"), *opts]
        code = cache_images.main(["--cfg", str(YAMLS["coco"]), *args])
        return code, tiny_config(root, tmp_path, *SMALL, *args[-2 - len(opts) :])

    return run


@pytest.mark.parametrize(
    ("size", "kind", "expected"),
    [
        ((640, 480), "short", (456, 342)),
        ((480, 640), "long", (256, 342)),
        ((300, 200), "short", (300, 200)),
        ((9000, 2), "long", (342, 1)),
    ],
)
def test_the_side_leaves_a_pixel_for_each_of_the_input(tmp_path, size, kind, expected):
    opts = ("DATASET.INPUT_SIZE", "256", "DATASET.OUTPUT_SIZE", "[64, 128]")
    cfg = tiny_config(tmp_path, tmp_path, *opts, "DATASET.SCALE_TYPE", kind)
    assert cache_side(cfg) == 342
    nobody = np.zeros((0, 17, 3))
    assert shrunk_size(ImageRecord(1, "1.jpg", *size, nobody, nobody, ()), cfg) == expected


@pytest.mark.parametrize("codec_center", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(8))
def test_a_joint_stays_on_its_pixel_in_a_shrunk_image(seed, codec_center):
    """Also where width and height shrink by different ratios, as rounding makes them."""
    rng = np.random.default_rng(seed)
    affine = RandomAffine(128, [], pixel_center=codec_center).sample(rng, 200, 160)
    x, y = rng.uniform(70, 130), rng.uniform(60, 100)
    rows, columns = np.mgrid[:160, :200]
    image = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6.0**2))
    crops = [
        affine.warp(shrink(image, size), 128, (200, 160))
        for size in ((200, 160), (101, 80), (100, 79), (67, 53))
    ]
    rows, columns = np.mgrid[:128, :128]
    centers = [
        np.array([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum() for crop in crops
    ]
    joint = affine.move(np.array([x, y, 2.0]), 128)[:2] - codec_center
    if not ((joint > 30) & (joint < 98)).all():
        return  # the spot is cut off by the border of the crop
    for center in centers:
        np.testing.assert_allclose(center, joint, atol=0.06)


def test_a_cached_sample_has_the_same_joints_and_masks_and_nearly_the_same_image(fill):
    code, cfg = fill()
    plain = cfg.clone()
    plain.defrost()
    plain.DATASET.CACHE = ""
    cached, read = build_dataset(cfg), build_dataset(plain)
    assert code == 0
    for index in range(len(read)):
        ours, theirs = cached[1, index], read[1, index]
        np.testing.assert_array_equal(ours.joints, theirs.joints)
        for a, b in zip(ours.masks, theirs.masks, strict=True):
            np.testing.assert_array_equal(a, b)
        blurred = (cv2.blur(sample.image, (5, 5)).astype(float) for sample in (ours, theirs))
        assert np.abs(next(blurred) - next(blurred)).mean() < 3


def test_images_no_larger_than_the_side_are_the_files(fill, coco_root):
    _, cfg = fill("DATASET.INPUT_SIZE", "512", "DATASET.OUTPUT_SIZE", "[128, 256]")
    data = build_dataset(cfg)
    for image in data.records:
        np.testing.assert_array_equal(data.cache.read(image), data.files.read(image))


def test_a_second_run_leaves_a_whole_cache_as_it_is(fill, capsys):
    _, cfg = fill()
    before = cache_path(cfg).stat()
    assert fill()[0] == 0
    assert cache_path(cfg).stat().st_mtime_ns == before.st_mtime_ns
    assert "is complete" in capsys.readouterr().out


def test_an_interrupted_run_begins_again(fill):
    _, cfg = fill()
    path = cache_path(cfg)
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    path.with_suffix(".json").unlink()
    fill()
    assert path.read_bytes() == whole


def test_a_loader_process_gets_the_map_and_not_the_pixels(fill):
    _, cfg = fill()
    cache = build_dataset(cfg).cache
    assert len(pickle.dumps(cache)) < 1000


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"there is no .*pixels; python -m tools\.cache_images"),
        (lambda path: path.with_suffix(".json").unlink(), "there is no"),
        (lambda path: path.write_bytes(b"short"), "has another size"),
        (lambda path: path.with_suffix(".json").write_text("[]"), "is no index of a cache"),
        (lambda path: path.with_suffix(".json").write_text('{"version": 2}'), "is no index"),
        (lambda path: path.with_suffix(".json").write_text('{"pictures": []}'), "EXIF orientation"),
        (lambda path: path.with_suffix(".json").write_text("nonsense"), "is no index"),
    ],
)
def test_a_damaged_cache_is_one_line(fill, damage, message):
    _, cfg = fill()
    damage(cache_path(cfg))
    with pytest.raises(ValueError, match=message):
        build_dataset(cfg)


@pytest.mark.parametrize("change", [{"width": 64}, {"file_name": "other.jpg"}])
def test_an_image_that_is_no_longer_the_cached_one_is_named(fill, change):
    """Annotations with other ids, or of images that were resized, do not fit a cache."""
    _, cfg = fill()
    data = build_dataset(cfg)
    record = data.records[0]._replace(**change)
    with pytest.raises(ReadError, match=r"image \d+: .*; delete the cache and run tools\.cache"):
        data.cache.read(record)


def test_a_cache_of_another_size_is_another_cache(fill, coco_root, tmp_path):
    fill()
    other = tiny_config(coco_root, tmp_path, "DATASET.CACHE", str(tmp_path / "cache"))
    other = other.clone()
    other.defrost()
    other.DATASET.MIN_SCALE = 0.5
    with pytest.raises(ValueError, match="short128"):
        build_dataset(other)


def test_an_unreadable_image_is_named_or_left_out(fill, coco_root, tmp_path, capsys):
    root = shutil.copytree(coco_root, tmp_path / "broken")
    (root / "images/train2017/000000000003.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="image 3: cannot read"):
        fill(root=root)
    code, cfg = fill("DATASET.UNREADABLE", "skip", root=root)
    data = build_dataset(cfg)
    assert code == 1
    assert data[0, 2].image_id == data.records[3].id
    assert "000000000003.jpg is not in" in capsys.readouterr().out


def test_a_full_disk_is_told_before_anything_is_written(fill, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ValueError, match=r"needs 0\.0 GB, there are 0\.0 GB free"):
        fill()
    assert not list((tmp_path / "cache").iterdir())


def test_a_disk_that_becomes_full_is_one_line_and_leaves_no_cache(fill, tmp_path):
    with (
        full_disk(1000),
        pytest.raises(WriteError, match=r"cannot write .*\.pixels: File too large"),
    ):
        fill()
    assert not list((tmp_path / "cache").iterdir())


def test_without_the_key_the_tool_says_what_it_needs(coco_root, tmp_path, capsys):
    args = ["--cfg", str(YAMLS["coco"]), *tiny_opts(coco_root, tmp_path)]
    with pytest.raises(ValueError, match=r"DATASET\.CACHE names no folder"):
        cache_images.main(args)
