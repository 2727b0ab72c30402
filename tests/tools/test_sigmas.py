"""Sigmas are recovered from annotations that are apart by a known spread."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from lib.config.joints import read_joints
from tests.test_scripts import assert_one_line
from tools import sigmas

TRUE = {"nose": 0.02, "hip": 0.06, "tail": 0.11}
JOINTS_FILE = """# three joints
name: mouse
joints: [nose, hip, tail]
sigmas:
  nose: 0.5  # a guess
  hip: 0.5
  tail: 0.5
limbs: [[nose, hip]]  # the spine
"""


@pytest.fixture
def annotate(tmp_path) -> Callable[..., Path]:
    """A pass over 100 images of two mice: each joint is off by Gaussian noise of its sigma."""

    def run(seed: int, unlabelled: int = 0, mice: int = 100) -> Path:
        rng, where = np.random.default_rng(seed), np.random.default_rng(99)
        annotations = []
        for number in range(2 * mice):
            box = np.array([40 + 150 * (number % 2), 50, where.uniform(50, 100), 80])
            area = 0.5 * box[2] * box[3]
            joints = box[:2] + where.uniform(0, 1, (3, 2)) * box[2:]
            # E[d^2] of two axes is twice the variance of one.
            spread = np.array([*TRUE.values()])[:, None] * np.sqrt(area / 2)
            joints += rng.normal(size=(3, 2)) * spread
            visible = np.full((3, 1), 2.0)
            visible[:unlabelled] = 0
            one = {"image_id": 1000 * seed + number // 2, "bbox": box.tolist(), "area": area}
            annotations.append(one | {"keypoints": np.hstack([joints, visible]).ravel().tolist()})
        images = [
            {"id": 1000 * seed + n, "file_name": f"{n}.jpg", "width": 320, "height": 200}
            for n in range(mice)
        ]
        annotations = [annotations[i] for i in rng.permutation(len(annotations))]
        path = tmp_path / f"pass{seed}.json"
        path.write_text(json.dumps({"images": images[::-1], "annotations": annotations}))
        return path

    return run


@pytest.fixture
def joints(tmp_path) -> Path:
    path = tmp_path / "joints.yaml"
    path.write_text(JOINTS_FILE)
    return path


def sigmas_of(path: Path) -> dict[str, float]:
    spec = read_joints(str(path), "DATASET.DATASET")
    return dict(zip(spec.joints, spec.sigmas, strict=True))


@pytest.mark.parametrize("passes", [2, 3])
def test_the_spread_of_annotations_is_found_within_its_sampling_error(
    passes, annotate, joints, call_tool
):
    files = [annotate(seed) for seed in range(1, passes + 1)]
    done = call_tool(sigmas.main, *files, "--joints", joints, "--write")
    assert (done.code, done.err) == (0, "")
    assert "200 of 200 objects in 100 images are annotated several times" in done.out
    error = 1 / (2 * np.sqrt(200 * (passes - 1)))  # relative, one standard deviation
    for joint, sigma in sigmas_of(joints).items():
        assert sigma == pytest.approx(TRUE[joint], rel=3 * error)


def test_the_rest_of_the_joints_file_stays_as_it_is(annotate, joints, call_tool):
    assert call_tool(sigmas.main, annotate(1), annotate(2), "--joints", joints).code == 0
    assert joints.read_text() == JOINTS_FILE
    assert call_tool(sigmas.main, annotate(1), annotate(2), "--joints", joints, "--write").code == 0
    text = joints.read_text()
    assert text.startswith(
        "# three joints\nname: mouse\njoints: [nose, hip, tail]\nsigmas:\n  nose: "
    )
    assert text.endswith("limbs: [[nose, hip]]  # the spine\n")
    joints.write_text(yaml.safe_dump(yaml.safe_load(JOINTS_FILE), default_flow_style=True))
    done = call_tool(sigmas.main, annotate(1), annotate(2), "--joints", joints, "--write")
    assert_one_line(done, str(joints), "by hand")


def test_joints_with_few_annotations_keep_their_sigma(annotate, joints, call_tool):
    files = [annotate(1, unlabelled=1), annotate(2)]
    done = call_tool(sigmas.main, *files, "--joints", joints, "--write")
    assert "fewer than 10 repeated annotations, or none apart: nose" in done.out
    assert "2 sigmas written" in done.out
    assert sigmas_of(joints)["nose"] == 0.5
    few = [annotate(seed, mice=4) for seed in (1, 2)]
    assert_one_line(call_tool(sigmas.main, *few, "--joints", joints, "--write"), "is as before")


def test_what_is_no_repetition_is_refused(annotate, joints, call_tool):
    first = annotate(1)
    assert_one_line(call_tool(sigmas.main, first, "--joints", joints), "two or more passes")
    other = joints.with_name("other.json")
    other.write_text(first.read_text().replace(".jpg", ".png"))
    done = call_tool(sigmas.main, first, other, "--joints", joints)
    assert_one_line(done, "no image (file_name) in common")
    done = call_tool(sigmas.main, first, first, "--joints", joints, "--write")
    assert_one_line(done, "no sigma is measured")


def test_an_exchanged_left_and_right_is_named(annotate, joints, call_tool):
    first, second = annotate(1), annotate(2)
    tree = json.loads(second.read_text())
    one = tree["annotations"][0]
    one["keypoints"][0:2] = [one["keypoints"][0] + 60, one["keypoints"][1]]
    second.write_text(json.dumps(tree))
    done = call_tool(sigmas.main, first, second, "--joints", joints)
    [row] = [line for line in done.out.splitlines() if line.startswith("| nose")]
    assert f"sigma: {one['image_id'] - 2000}.jpg" in row
