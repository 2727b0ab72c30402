"""Every image has its outcome, however images are read and batched, and whatever fails."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from lib.core import pipeline
from lib.core.inference import predict, prepare, settings_of
from lib.core.pipeline import (
    Inputs,
    Loaded,
    LoaderSettings,
    each_outcome,
    equal_inputs,
    expected_batches,
)
from lib.core.results import Failure, Prediction
from lib.dataset.build import EvaluationSet
from lib.dataset.image_files import ImageFiles, ImageRecord
from lib.keypoints import COCO
from lib.models import build_model
from tests.helpers import TINY, fill, tiny_config

# Inputs of the first and the third are equally large, and the others' differ.
SIZES = [(128, 96), (96, 128), (124, 93), (200, 96), (128, 96), (128, 96), (124, 93)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> EvaluationSet:
    """Images of noise, annotated as they are; read only."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    nobody = (np.zeros((0, 17, 3), np.float32), np.zeros((0, 4), np.float32), ())
    records = []
    for i, (width, height) in enumerate(SIZES):
        noise = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (width, height))
        cv2.imwrite(str(folder / f"{i}.png"), noise)
        records.append(ImageRecord(100 + i, f"{i}.png", width, height, *nobody))
    return EvaluationSet(COCO, "val2017", Path("none.json"), records, ImageFiles(folder), {})


def config(*opts: str):
    return tiny_config(Path(), Path(), "DATASET.MAX_NUM_PEOPLE", "3", *opts)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A network of random weights, which sees people in noise."""
    model = build_model(config(), TINY)
    with torch.no_grad():
        fill(model, 3)
    return model.eval()


def outcomes_of(cfg, model, data) -> dict[int, Prediction | Failure]:
    loading = LoaderSettings.from_config(cfg)
    outcomes = list(each_outcome(settings_of(cfg), model, data, loading))
    by_id = {outcome.image_id: outcome for outcome in outcomes}
    assert len(by_id) == len(outcomes)
    return by_id


def assert_same_people(actual: Prediction, expected: Prediction) -> None:
    assert len(actual.people) == len(expected.people)
    # Convolutions of a batch may add in another order.
    np.testing.assert_allclose(actual.people, expected.people, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(actual.scores, expected.scores, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def expected(data, model) -> dict[int, Prediction]:
    """By `predict`, image by image."""
    cfg = config()
    predictions = {
        record.id: Prediction(record.id, *predict(cfg, model, data.files.read(record)))
        for record in data.records
    }
    assert sum(len(one.people) for one in predictions.values()) > 10
    return predictions


@pytest.mark.parametrize("batch", ["1", "4"])
@pytest.mark.parametrize("workers", ["0", "2"])
def test_people_do_not_depend_on_workers_or_batches(data, model, expected, workers, batch):
    cfg = config("WORKERS", workers, "TEST.IMAGES_PER_GPU", batch)
    outcomes = outcomes_of(cfg, model, data)
    assert outcomes.keys() == expected.keys()
    for image_id, outcome in outcomes.items():
        assert_same_people(outcome, expected[image_id])


def test_images_of_equal_inputs_come_together(data):
    assert expected_batches(settings_of(config()), data.records, count=3) == [
        [0, 2, 4],
        [1],
        [3],
        [5, 6],
    ]
    assert expected_batches(settings_of(config()), data.records, count=1) == [
        [i] for i in range(len(SIZES))
    ]


def test_inputs_come_together_where_all_their_sizes_are_equal(data):
    prepared = prepare(settings_of(config()), data.files.read(data.records[0]))
    other = prepared._replace(base_size=(64, 64))
    failure = Failure(7, "image 7: odd")
    loaded = [Loaded(0, prepared), Loaded(1, other), failure, Loaded(3, prepared)]
    assert equal_inputs(loaded) == [[loaded[0], loaded[3]], [loaded[1]]]


def test_no_worker_shares_an_open_archive(data, tmp_path, monkeypatch):
    path = tmp_path / "val2017.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for record in data.records:
            archive.write(data.files.path / record.file_name, record.file_name)
    files = ImageFiles(path)
    files.read(data.records[0])
    assert files._archive is not None
    inputs = Inputs(settings_of(config()), data.records, files)
    monkeypatch.setattr(pipeline, "get_worker_info", lambda: SimpleNamespace(dataset=inputs))
    pipeline._start_worker(0)
    assert inputs.files._archive is None


@pytest.mark.parametrize("size", [(96, 128), (0, 0), (-5, 3), (None, "x")])
def test_a_wrong_annotated_size_costs_that_image_only(data, model, expected, size):
    records = [data.records[0]._replace(width=size[0], height=size[1]), *data.records[1:]]
    cfg = config("TEST.IMAGES_PER_GPU", "4")
    outcomes = outcomes_of(cfg, model, data._replace(records=records))
    failure = outcomes.pop(records[0].id)
    assert f"0.png: the image is 128 x 96, annotated as {size[0]} x {size[1]}" in failure.problem
    assert outcomes.keys() == expected.keys() - {records[0].id}
    for image_id, outcome in outcomes.items():
        assert_same_people(outcome, expected[image_id])


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("what", ["missing", "broken", "sliver"])
def test_a_bad_image_costs_itself_only(data, model, expected, tmp_path, workers, what):
    for path in data.files.path.iterdir():
        (tmp_path / path.name).symlink_to(path)
    bad = tmp_path / data.records[2].file_name
    bad.unlink()
    if what == "broken":
        bad.write_bytes(b"no image")
    records = list(data.records)
    if what == "sliver":
        cv2.imwrite(str(bad), np.zeros((2000, 2, 3), np.uint8))
        records[2] = records[2]._replace(width=2, height=2000)
    cfg = config("WORKERS", workers, "TEST.IMAGES_PER_GPU", "3")
    changed = data._replace(records=records, files=ImageFiles(tmp_path))
    outcomes = outcomes_of(cfg, model, changed)
    failure = outcomes.pop(102)
    problem = "2 x 2000 pixels" if what == "sliver" else "cannot read"
    assert failure.problem.startswith(f"image 102: {problem}")
    assert outcomes.keys() == expected.keys() - {102}
    for image_id, outcome in outcomes.items():
        assert_same_people(outcome, expected[image_id])


class Stumbling(nn.Module):
    """A network that fails whenever a certain image is among its inputs."""

    def __init__(self, network: nn.Module, bad: int, error: Exception | None = None) -> None:
        super().__init__()
        self.network, self.bad, self.error = network, bad, error

    def set_records(self, records) -> None:
        self.ids = [record.id for record in records]

    def forward(self, images):
        outputs = self.network(images)
        if self.bad not in self.ids:
            return outputs
        if self.error:
            raise self.error
        place = self.ids.index(self.bad)
        for output in outputs:
            output[place :: len(self.ids)] = float("inf")
        return outputs


@pytest.mark.parametrize("batch", ["1", "4"])
@pytest.mark.parametrize(
    "error", [RuntimeError("out of memory\nand more"), ValueError("odd"), cv2.error("odd"), None]
)
def test_an_error_in_a_batch_costs_one_image(data, model, expected, error, batch):
    cfg = config("TEST.IMAGES_PER_GPU", batch)
    outcomes = outcomes_of(cfg, Stumbling(model, 104, error), data)
    failure = outcomes.pop(104)
    assert failure.problem.startswith("image 104: ")
    assert "\n" not in failure.problem
    assert str(error).splitlines()[0] in failure.problem or error is None
    assert outcomes.keys() == expected.keys() - {104}
    for image_id, outcome in outcomes.items():
        assert_same_people(outcome, expected[image_id])


@pytest.mark.parametrize("batch", ["1", "4"])
def test_a_network_whose_outputs_are_not_numbers_fails_on_every_image(data, batch):
    broken = build_model(config(), TINY)
    with torch.no_grad():
        fill(broken, 3)
        next(iter(broken.parameters()))[0] = torch.nan
    outcomes = outcomes_of(config("TEST.IMAGES_PER_GPU", batch), broken, data)
    for image_id, outcome in outcomes.items():
        assert outcome.problem.startswith(f"image {image_id}: the network's maps are not finite")


def test_our_own_mistakes_are_not_swallowed(data, model):
    with pytest.raises(KeyError):
        list(each_outcome(settings_of(config()), Stumbling(model, 104, KeyError("ours")), data))


def test_an_error_in_grouping_costs_one_image(data, model, expected, monkeypatch):
    find = pipeline.find_people

    def stumble(settings, heatmaps, tags, prepared):
        if prepared.base_size[0] < prepared.base_size[1]:
            raise ValueError("matrix contains invalid numeric entries")
        return find(settings, heatmaps, tags, prepared)

    monkeypatch.setattr(pipeline, "find_people", stumble)
    outcomes = outcomes_of(config(), model, data)
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, Failure)]
    assert failures == [Failure(101, "image 101: matrix contains invalid numeric entries")]
    assert outcomes.keys() == expected.keys()


def test_the_network_is_left_in_its_mode_where_it_fails(data, model):
    training = Stumbling(model, 100, KeyError("ours")).train()
    with pytest.raises(KeyError):
        list(each_outcome(settings_of(config()), training, data))
    assert training.training
    model.eval()


def test_global_random_numbers_stay_as_they_are(data, model):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(each_outcome(settings_of(config()), model, data, LoaderSettings(workers=2)))
    assert torch.equal(torch.get_rng_state(), before)
