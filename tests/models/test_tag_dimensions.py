"""MODEL.AE_TAG_DIMS: tags of several dimensions, from a network of one to weights that are read."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

import dist_train
from lib.core.loss import MultiLossFactory
from lib.dataset.target_generators import Targets
from lib.models.load import read_network
from lib.models.subnet import extract_subnet, supernet_of
from lib.predictor import Predictor
from lib.utils.checkpoint import save_checkpoint, save_weights
from lib.utils.dist import ALONE
from tests.helpers import TINY, fill, network, seeded_image, tiny_config

K = 17
CPU = torch.device("cpu")


@pytest.fixture
def config(coco_root, tmp_path):
    def make(dims: int = 3, *opts: str):
        return tiny_config(coco_root, tmp_path, "MODEL.AE_TAG_DIMS", str(dims), *opts)

    return make


def test_tag_maps_follow_the_heatmaps(config):
    assert [output.shape[1] for output in network(config(3))(seeded_image(0, 64))] == [68, 17]


def test_one_map_for_all_joints_has_one_dimension(config):
    message = "MODEL.AE_TAG_DIMS is 3, but MODEL.TAG_PER_JOINT is False"
    with pytest.raises(ValueError, match=message):
        config(3, "MODEL.TAG_PER_JOINT", "False")


def test_a_network_of_one_dimension_gets_further_ones(config, tmp_path, caplog):
    """Heatmaps and the first dimension stay; the other tags start near 0."""
    one = network(config(1))
    fill(one, 1)
    path = tmp_path / "one.pth.tar"
    save_weights(path, one)
    cfg = config(3, "MODEL.PRETRAINED", str(path))
    torch.manual_seed(0)
    with caplog.at_level(logging.INFO):
        three = dist_train.start_model(cfg, TINY, ALONE)
    layers = "34 of final_refined.0.conv.3, 34 of final_raw.0.conv.3"
    assert f"further tag maps start near 0: {layers}" in caplog.text
    before, after = (model.eval()(seeded_image(0, 64)) for model in (one, three))
    torch.testing.assert_close(after[0][:, : 2 * K], before[0])
    torch.testing.assert_close(after[1], before[1])
    further, first = after[0][:, 2 * K :], before[0][:, K:]
    assert 0 < further.std() < 0.05 * first.std()
    assert not torch.equal(further[:, :K], further[:, K:])  # they can part


def test_a_second_output_gets_tags_and_both_are_joined(config, tmp_path, caplog):
    """LOSS.WITH_AE_LOSS (True, True) from weights whose second output has none."""
    one = network(config(1)).eval()
    fill(one, 1)
    path = tmp_path / "one.pth.tar"
    save_weights(path, one)
    both = ["LOSS.WITH_AE_LOSS", "(True, True)", "TEST.WITH_AE", "(True, True)"]
    cfg = config(1, *both, "MODEL.PRETRAINED", str(path), "TEST.FLIP_TEST", "False")
    with caplog.at_level(logging.INFO):
        model = dist_train.start_model(cfg, TINY, ALONE).eval()
    layers = "17 of final_refined.1.conv.3, 17 of final_raw.1.conv.3"
    assert f"further tag maps start near 0: {layers}" in caplog.text
    before, after = one(seeded_image(0, 64)), model(seeded_image(0, 64))
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[1][:, :K], before[1])
    save_weights(tmp_path / "both.pth", model)
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    people = Predictor.load(tmp_path / "both.pth", input_size=64, opts=["TEST.FLIP_TEST", "False"])(
        image
    )
    assert people.tags.shape == (len(people.scores), K, 2)


def test_a_checkpoint_and_weights_alone_have_their_dimensions(config, tmp_path):
    cfg = config(2)
    model = network(cfg)
    fill(model, 3)
    save_weights(tmp_path / "bare.pth", model)
    state = {"state_dict": model.state_dict(), "arch": TINY.to_dict(), "config": cfg.dump()}
    save_checkpoint(tmp_path / "checkpoint.pth.tar", **state)
    with pytest.raises(ValueError, match="was trained with MODEL.AE_TAG_DIMS 2, not 1; leave the"):
        read_network(tmp_path / "checkpoint.pth.tar", opts=["MODEL.AE_TAG_DIMS", "1"])
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    for flip, width in (("True", 4), ("False", 2)):
        opts = ["TEST.FLIP_TEST", flip]
        people = Predictor.load(tmp_path / "checkpoint.pth.tar", opts=opts)(image)
        alone = Predictor.load(tmp_path / "bare.pth", input_size=64, opts=opts)(image)
        assert people.tags.shape == (len(people.scores), K, width)
        assert len(people.scores) > 3
        np.testing.assert_array_equal(people.keypoints, alone.keypoints)


def test_sub_networks_keep_all_dimensions(config):
    model = network(config(2)).eval()
    supernet = supernet_of(model)
    image = seeded_image(0, 64)
    for output, expected in zip(extract_subnet(supernet, TINY)(image), model(image), strict=True):
        assert torch.equal(output, expected)


def test_a_teacher_of_one_dimension_teaches_heatmaps_alone(config, tmp_path):
    path, cfg = tmp_path / "teacher.pth.tar", config(1)
    state = network(cfg).state_dict()
    save_checkpoint(path, state_dict=state, arch=TINY.to_dict(), config=cfg.dump())
    student = config(2)
    criterion = dist_train.distill(student, MultiLossFactory.from_config(student), str(path), CPU)
    images = seeded_image(0, 64)
    terms = criterion.imitate(network(student)(images), criterion.teacher_maps(images), masks())
    assert set(terms) == {"distill/0", "distill/1"}
    with pytest.raises(ValueError, match="has MODEL.AE_TAG_DIMS 1, the student 2"):
        dist_train.read_teacher(config(2, "TEACHER.TAGS_FACTOR", "1"), path)


def masks():
    """Targets of one image that count everywhere."""
    return Targets([], [torch.ones(1, 16, 16), torch.ones(1, 32, 32)], [])
