"""Ground-truth maps are decoded to the annotated people: targets and decoder agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from yacs.config import CfgNode

from lib.analysis.oracle import MODES, Oracle
from lib.config import load_config
from lib.core.inference import find_people, network_maps, predict, prepare, settings_of
from lib.dataset.image_files import ImageRecord
from lib.models import build_model
from lib.utils.checkpoint import save_weights
from tests.helpers import ROOT, TINY, YAMLS, tiny_config, tiny_opts

LARGE = ("DATASET.INPUT_SIZE", "512", "DATASET.OUTPUT_SIZE", "[128, 256]")
CENTER = ("DATASET.WITH_CENTER", "True", "DATASET.NUM_JOINTS", "18", "MODEL.NUM_JOINTS", "18")
VARIANTS = {
    "as it is": (),
    "no flip test": ("TEST.FLIP_TEST", "False"),
    "one tag map": ("MODEL.TAG_PER_JOINT", "False"),
    "tags of two dimensions": ("MODEL.AE_TAG_DIMS", "2"),
    "a center, ignored": CENTER,
    "a center, grouped": (*CENTER, "TEST.IGNORE_CENTER", "False"),
    "a center and one tag map": (*CENTER, "MODEL.TAG_PER_JOINT", "False"),
    "tags on both outputs": ("LOSS.WITH_AE_LOSS", "[True,True]", "TEST.WITH_AE", "[True,True]"),
    "three scales": ("TEST.SCALE_FACTOR", "[0.5,1,2]"),
}
COARSE = 5.0  # pixels of the image: a cell of the coarse map is 4 wide at INPUT_SIZE 256
each_variant = pytest.mark.parametrize("keys", VARIANTS.values(), ids=VARIANTS)


def noise_image(people: int, seed: int, width: int = 320, height: int = 240) -> ImageRecord:
    """People whose joints are far enough apart not to be confused."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation([(x, y) for x in range(16, 300, 16) for y in range(16, 220, 16)])
    joints = np.full((people, 17, 3), 2.0, np.float32)
    for k in range(17):
        at = cells[(np.arange(people) + k * people) % len(cells)]
        joints[:, k, :2] = at + rng.uniform(0, 4, (people, 2))
    return ImageRecord(1, "", width, height, joints, np.zeros((people, 4), np.float32), ())


def four_apart() -> ImageRecord:
    """One person in each quarter, so that centers and single tag maps distinguish them, too."""
    rng = np.random.default_rng(0)
    cells = np.array([(x, y) for x in range(24, 130, 16) for y in range(24, 100, 16)])
    joints = np.full((4, 17, 3), 2.0, np.float32)
    for person, corner in zip(joints, [(0, 0), (165, 0), (0, 130), (165, 130)], strict=True):
        person[:, :2] = corner + rng.permutation(cells)[:17]
    return ImageRecord(1, "", 331, 280, joints, np.zeros((4, 4), np.float32), ())


def config(*opts: str) -> CfgNode:
    return load_config(ROOT / "experiments/coco/mobilenet/mobile.yaml", opts)


def decode(record: ImageRecord, *opts: str) -> tuple[np.ndarray, list[float]]:
    cfg = config(*opts)
    return show(cfg, Oracle.from_config(cfg), record)


def show(cfg: CfgNode, model: nn.Module, record: ImageRecord) -> tuple[np.ndarray, list[float]]:
    model.set_records([record])
    return predict(cfg, model, np.zeros((record.height, record.width, 3), np.uint8))


def is_everybody(detected: np.ndarray, record: ImageRecord, tolerance: float = 2.5) -> bool:
    """Whether exactly the people of `record` are detected, all joints within so many pixels."""
    offset = detected[:, None, :17, :2] - record.joints[..., :2]  # (N, P, K, 2)
    near = np.linalg.norm(offset, axis=-1).max(axis=2) < tolerance
    return len(detected) == len(record.joints) and bool(near.any(axis=0).all())


@pytest.mark.parametrize("flip", ["True", "False"])
@pytest.mark.parametrize("scale_type", ["short", "long"])
@pytest.mark.parametrize("people", [0, 1, 2, 8, 20])
def test_decoding_targets_returns_the_people(people, scale_type, flip):
    record = noise_image(people, seed=people)
    keys = ("TEST.SCALE_TYPE", scale_type, "TEST.FLIP_TEST", flip)
    detected, scores = decode(record, *LARGE, *keys)
    # The coarse map's cells are 4 input pixels wide, 2.5 of the image's at most.
    assert is_everybody(detected, record)
    assert len(scores) == people
    assert all(score > 0.5 for score in scores)


@each_variant
def test_decoding_returns_the_people_whatever_shapes_the_maps_have(keys):
    record = four_apart()
    detected, _ = decode(record, *keys)
    assert detected.shape[1] == (18 if "TEST.IGNORE_CENTER" in keys else 17)
    assert is_everybody(detected, record, COARSE)


def test_the_center_of_a_person_is_the_mean_of_its_labelled_joints():
    record = noise_image(3, seed=4)
    record.joints[:, 9:, 2] = 0
    detected, _ = decode(record, *LARGE, *CENTER, "TEST.IGNORE_CENTER", "False")
    assert len(detected) == 3
    centers = record.joints[:, :9, :2].mean(axis=1)
    distance = np.linalg.norm(detected[:, None, 17, :2] - centers, axis=-1)
    assert (distance.min(axis=0) < 2.5).all()


def test_a_joint_is_found_at_most_as_often_as_there_are_slots():
    everyone = ("TEST.REFINE", "False")
    detected, _ = decode(noise_image(12, seed=1), *everyone)
    assert ((detected[..., 2] > 0).sum(axis=0) == 12).all()
    detected, _ = decode(noise_image(12, seed=1), *everyone, "DATASET.MAX_NUM_PEOPLE", "10")
    assert ((detected[..., 2] > 0).sum(axis=0) == 10).all()


def test_a_person_with_few_joints_is_found_with_few():
    record = noise_image(1, seed=3)
    record.joints[0, 5:, 2] = 0
    detected, scores = decode(record)
    assert len(detected) == 1
    assert (detected[0, :5, 2] > 0.5).all()
    assert (detected[0, 5:, 2] == 0).all()
    assert scores[0] == pytest.approx(detected[0, :, 2].mean())


# --- in front of a network --------------------------------------------------------------


class Spoiled(nn.Module):
    """A perfect network, but for its heatmaps (nothing is seen) or its tags (all the same)."""

    def __init__(self, cfg: CfgNode, record: ImageRecord, *spoiled: str) -> None:
        super().__init__()
        self.perfect = Oracle.from_config(cfg)
        self.perfect.set_records([record])
        self.spoiled = spoiled
        self.joints = cfg.MODEL.NUM_JOINTS

    def forward(self, images):
        outputs = self.perfect(images)
        for output in outputs:
            if "heatmaps" in self.spoiled:
                output[:, : self.joints] = 0.05  # below every detection threshold
            if "tags" in self.spoiled:
                output[:, self.joints :] = 3.0
        return outputs


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spoiled", [("heatmaps",), ("tags",), ("heatmaps", "tags")])
def test_ground_truth_maps_repair_what_they_replace_and_nothing_else(spoiled, mode):
    cfg, record = config(), four_apart()
    network = Spoiled(cfg, record, *spoiled)
    alone, _ = predict(cfg, network, np.zeros((record.height, record.width, 3), np.uint8))
    assert not is_everybody(alone, record, COARSE)
    detected, _ = show(cfg, Oracle.from_config(cfg, network, mode), record)
    assert is_everybody(detected, record, COARSE) == (mode == "both" or spoiled == (mode,))


@each_variant
def test_ground_truth_maps_repair_a_network_whatever_shapes_its_maps_have(keys):
    cfg, record = config(*keys), four_apart()
    for mode in ("heatmaps", "tags"):
        oracle = Oracle.from_config(cfg, Spoiled(cfg, record, mode), mode)
        assert is_everybody(show(cfg, oracle, record)[0], record, COARSE)


def test_other_maps_are_the_networks(tmp_path):
    cfg = tiny_config(tmp_path, tmp_path)
    network = build_model(cfg, TINY).eval()
    images = torch.randn(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    record = noise_image(2, seed=1, width=128, height=64)
    coarse, fine = network(images)
    for mode, same in (("heatmaps", slice(17, None)), ("tags", slice(17))):
        oracle = Oracle.from_config(cfg, network, mode)
        oracle.set_records([record])
        outputs = oracle(images)
        assert [output.shape for output in outputs] == [coarse.shape, fine.shape]
        assert torch.equal(outputs[0][:, same], coarse[:, same])
        assert not torch.equal(outputs[0], coarse)
        assert torch.equal(outputs[1], fine) == (mode == "tags")  # which has no tags


def test_away_from_labelled_joints_the_networks_tags_stay():
    """Two people without labels are still two, and none of the labelled ones."""
    cfg, everybody = config(), four_apart()
    labelled = everybody._replace(joints=everybody.joints[:2], boxes=everybody.boxes[:2])
    detected, _ = show(cfg, Oracle.from_config(cfg, Spoiled(cfg, everybody), "tags"), labelled)
    assert is_everybody(detected, everybody, COARSE)


def test_of_two_candidates_near_a_joint_the_stronger_wins():
    cfg = config(*LARGE, "TEST.FLIP_TEST", "False")
    record = noise_image(1, seed=2)
    neighbor = record._replace(joints=record.joints + np.float32([9, 0, 0]))

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.right, self.wrong = Oracle.from_config(cfg), Oracle.from_config(cfg)
            self.right.set_records([record])
            self.wrong.set_records([neighbor])

        def forward(self, images):
            pairs = zip(self.right(images), self.wrong(images), strict=True)
            return [torch.maximum(right, 0.7 * wrong)[:, :34] for right, wrong in pairs]

    detected, scores = show(cfg, Oracle.from_config(cfg, Twice(), "tags"), record)
    assert is_everybody(detected[np.argmax(scores)][None], record)


def test_several_images_of_one_size_go_together():
    cfg = config(*LARGE)
    records = [noise_image(people, seed=people) for people in (2, 0, 5)]
    oracle = Oracle.from_config(cfg)
    oracle.set_records(records)
    inputs = [prepare(settings_of(cfg), np.zeros((240, 320, 3), np.uint8)) for _ in records]
    heatmaps, tags = network_maps(settings_of(cfg), oracle, inputs)
    for i, record in enumerate(records):
        maps = heatmaps[i : i + 1], tags[i : i + 1]
        detected = find_people(settings_of(cfg), *maps, inputs[i]).people
        assert is_everybody(detected, record)


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="'tag'; known modes: .*'tags'"):
        Oracle.from_config(config(), mode="tag")


@pytest.mark.parametrize("flags", [["--oracle"], ["--oracle", "both"], ["--oracle=tags"]])
def test_the_script_takes_the_flag_before_keys_and_after(coco_root, tmp_path, call, flags):
    TINY.to_json(tmp_path / "tiny.json")
    save_weights(tmp_path / "weights", build_model(tiny_config(coco_root, tmp_path), TINY))
    first = ["--cfg", str(YAMLS["coco"]), "--superconfig", str(tmp_path / "tiny.json")]
    keys = tiny_opts(coco_root, tmp_path)
    if "tags" in flags[0]:
        keys += ["TEST.MODEL_FILE", str(tmp_path / "weights")]
    name = "| tiny, ground-truth tags |" if "tags" in flags[0] else "| oracle |"
    tables = []
    for args in ([*first, *flags, *keys], [*first, *keys, *flags]):
        done = call("valid", *args)
        assert (done.code, done.err) == (0, "")
        tables.append([line for line in done.out.splitlines() if line.startswith("|")])
        assert tables[-1][2].startswith(name)
    assert tables[0] == tables[1]
