"""Synthetic animals: eight joints of a joints file, in the layout of custom keypoints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lib.config import load_config
from lib.dataset.synthetic.animals import ANIMAL, ANIMALS, LEGS, ROW, sample_animal
from lib.dataset.synthetic.layout import make_dataset
from lib.dataset.synthetic.scene import Scene, SceneParams, draw_scene
from lib.keypoints import keypoints_of
from tests.helpers import YAMLS
from tools import make_synthetic

SMALL = SceneParams(width=128, height=96, tiny=0, crowd=0, min_labelled=16)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Crowded ones: occlusion and truncation happen."""
    params = SceneParams(truncation=0.5, occlusion=0.5, overlap=0.8, tiny=0, crowd=0)
    return [draw_scene(seed, params, ANIMALS) for seed in range(40)]


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_file_of_the_experiment_describes_the_animals_drawn():
    cfg = load_config(YAMLS["animal"])
    assert keypoints_of(cfg, is_train=True) == keypoints_of(cfg, is_train=False) == ANIMAL


def test_a_seed_is_an_image():
    one, again, other = (draw_scene(seed, SMALL, ANIMALS) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one.image, other.image)


def test_every_visible_joint_shows_on_its_animal(scenes):
    visible = 0
    for scene in scenes:
        for animal, keypoints in enumerate(scene.keypoints):
            for x, y, _ in keypoints[keypoints[:, 2] == 2]:
                assert scene.people[round(y), round(x)] == animal + 1
                visible += 1
    assert visible > 400


def test_labelled_joints_are_in_the_image_and_hidden_ones_occur(scenes):
    keypoints = np.concatenate([scene.keypoints for scene in scenes])
    xy = keypoints[keypoints[..., 2] > 0, :2]
    assert ((np.rint(xy) >= 0) & (np.rint(xy) < scenes[0].image.shape[1::-1])).all()
    assert (keypoints[..., 2] == 1).any(axis=0).all()
    assert (keypoints[keypoints[..., 2] == 0] == 0).all()


def test_the_left_legs_are_the_near_ones_of_who_looks_to_the_left():
    """Near is lower in the image too, so left and right can be distinguished."""
    rng = np.random.default_rng(0)
    lower = 0
    for _ in range(200):
        at = {name: point for name, point in zip(ROW, sample_animal(rng), strict=True)}
        near = "left" if at["withers"][0] < at["hip"][0] else "right"
        far = {"left": "right", "right": "left"}[near]
        for end in ("front", "hind"):
            (_, y, z), (_, far_y, far_z) = at[f"{near}_{end}_top"], at[f"{far}_{end}_top"]
            assert z > far_z
            lower += y > far_y
    assert lower > 0.95 * 400  # all but those that roll


def test_legs_keep_their_length_whatever_the_gait():
    rng = np.random.default_rng(1)
    lengths = []
    for _ in range(100):
        points = sample_animal(rng)
        for leg in LEGS:
            top, knee, paw = (points[ROW[f"{leg}_{part}"]] for part in ("top", "knee", "paw"))
            lengths.append((np.linalg.norm(top - knee), np.linalg.norm(knee - paw)))
    np.testing.assert_allclose(lengths, [(0.19, 0.2)] * len(lengths))


def test_the_files_lie_where_own_data_sets_have_them(animal_root):
    names = {name for name in contents(animal_root) if not name.endswith(".jpg")}
    assert names == {"annotations/train.json", "annotations/val.json", "synthetic.json"}
    tree = json.loads((animal_root / "annotations/val.json").read_text())
    [category] = tree["categories"]
    assert (category["name"], category["keypoints"]) == ("animal", list(ANIMAL.joints))
    assert all((animal_root / "images/val" / one["file_name"]).is_file() for one in tree["images"])
    for one in tree["annotations"]:
        x, y, w, h = one["bbox"]
        assert 0 < one["area"] <= (w + 1) * (h + 1)
        assert len(one["keypoints"]) == 24


def test_the_command_draws_the_same_bytes_again(tmp_path, call_tool):
    flags = "--format animal --train 3 --val 2 --size 96x64 --people 1-2 --workers 1".split()
    for name in ("one", "other"):
        done = call_tool(make_synthetic.main, "--root", tmp_path / name, *flags)
        assert (done.code, done.err) == (0, "")
    assert "5 images rendered" in done.out
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    counts, params = {"train": 3, "val": 2}, SceneParams(96, 64, 1, 2, 0.35, 0.95)
    assert make_dataset(tmp_path / "other", ANIMAL, counts, params) == 0  # already there
