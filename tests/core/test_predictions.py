"""An interrupted evaluation is resumed: finished images are not predicted again."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from lib.core import predictions
from lib.core.inference import settings_of
from lib.core.predictions import PredictionJournals, from_json, predict_set, to_json
from lib.core.results import Failure, Prediction, result_rows
from lib.dataset.build import build_evaluation_set
from lib.models import build_model
from lib.utils.dist import Process
from tests.helpers import TINY, fill, tiny_config
from valid import identity

HEADER = {"weights": "abc", "config": {"TEST": {"NMS_KERNEL": 5}}}
CPU = torch.device("cpu")


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results/keypoints_val2017_results.json"


def names(results) -> list[str]:
    return sorted(path.name for path in results.parent.iterdir())


def ids(*journals: PredictionJournals) -> list[int]:
    return sorted(entry["image_id"] for one in journals for entry in one.entries)


def test_the_next_run_reads_finished_predictions(results):
    first = PredictionJournals(results, HEADER)
    assert first.entries == []
    first.add(image_id=3, people=[[0.125] * 51], scores=[0.1 + 0.2])
    again = PredictionJournals(results, HEADER)
    [entry] = again.entries
    assert (entry["image_id"], entry["people"], entry["scores"]) == (3, [[0.125] * 51], [0.1 + 0.2])


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (4, 2), (2, 2)])
def test_another_number_of_processes_resumes(results, before, after):
    for rank in range(before):
        PredictionJournals(results, HEADER, Process(rank, before, CPU)).add(image_id=10 + rank)
    processes = [PredictionJournals(results, HEADER, Process(r, after, CPU)) for r in range(after)]
    assert ids(*processes) == list(range(10, 10 + before))  # each of them once
    for journals in processes:
        journals.remove()
    assert names(results) == []


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({**HEADER, "weights": "def"}, 'its weights is "abc", not "def": starting again'),
        (
            {**HEADER, "config": {"TEST": {"NMS_KERNEL": 3}}},
            "its config.TEST.NMS_KERNEL is 5, not 3",
        ),
    ],
)
def test_other_weights_or_settings_start_again_and_log_it(results, caplog, other, message):
    PredictionJournals(results, HEADER).add(image_id=3)
    with caplog.at_level(logging.INFO, "lib"):
        journals = PredictionJournals(results, other)
    assert message in caplog.text
    assert journals.entries == []
    journals.add(image_id=4)
    assert ids(PredictionJournals(results, other)) == [4]
    assert ids(PredictionJournals(results, HEADER)) == []


def test_a_damaged_journal_starts_again(results):
    PredictionJournals(results, HEADER).add(image_id=3)
    [path] = results.parent.iterdir()
    path.write_bytes(path.read_bytes() + b"\0\0\0\n")
    assert PredictionJournals(results, HEADER).entries == []


def test_two_evaluations_at_once_do_not_mix(results):
    first = PredictionJournals(results, HEADER)
    first.add(image_id=1)
    second = PredictionJournals(results, {"weights": "def"})
    first.add(image_id=2)
    second.add(image_id=3)
    assert ids(PredictionJournals(results, {"weights": "def"})) == [3]


def test_only_what_changes_predictions_is_part_of_the_identity(coco_root, tmp_path):
    def of(*opts: str) -> dict:
        return identity(tiny_config(coco_root, tmp_path, *opts), "abc")

    assert of() == of(
        "WORKERS", "3", "TEST.IMAGES_PER_GPU", "4", "TEST.MODEL_FILE", "moved.pth.tar"
    )
    assert of() != of("TEST.FLIP_TEST", "False")
    assert of() != of("DATASET.INPUT_SIZE", "128", "DATASET.OUTPUT_SIZE", "[32, 64]")
    assert json.loads(json.dumps(of()))["weights"] == "abc"


# --- in a whole evaluation ----------------------------------------------------------------


@pytest.fixture(scope="module")
def start(coco_root, tmp_path_factory):
    """Settings, a network that finds something everywhere, and four images."""
    cfg = tiny_config(coco_root, tmp_path_factory.mktemp("out"), "DATASET.MAX_NUM_PEOPLE", "3")
    model = build_model(cfg, TINY)
    with torch.no_grad():
        fill(model, 3)
    return cfg, model, build_evaluation_set(cfg)


def test_a_killed_evaluation_resumes_and_comes_to_the_same(start, results, monkeypatch):
    cfg, model, data = start
    whole, problems = predict_set(settings_of(cfg), model, data)
    assert problems == []
    rows = result_rows(data.spec, whole)
    assert len(rows) > 4
    each_outcome = predictions.each_outcome

    def killed(*args):
        for number, outcome in enumerate(each_outcome(*args)):
            if number == 2:
                raise KeyboardInterrupt
            yield outcome

    monkeypatch.setattr(predictions, "each_outcome", killed)
    with pytest.raises(KeyboardInterrupt):
        predict_set(settings_of(cfg), model, data, journals=PredictionJournals(results, HEADER))

    seen = []

    def watched(settings, model, data, loading):
        seen.extend(record.id for record in data.records)
        yield from each_outcome(settings, model, data, loading)

    monkeypatch.setattr(predictions, "each_outcome", watched)
    journals = PredictionJournals(results, HEADER)
    known = ids(journals)
    resumed, problems = predict_set(settings_of(cfg), model, data, journals=journals)
    assert len(known) == 2
    assert sorted(known + seen) == sorted(record.id for record in data.records)
    assert problems == []
    assert json.dumps(result_rows(data.spec, resumed)) == json.dumps(rows)
    assert [p.image_id for p in resumed] == [record.id for record in data.records]


def test_processes_share_the_remaining_images(start, monkeypatch):
    cfg, model, data = start
    finished, *left = [record.id for record in data.records]
    seen = []

    def nothing(settings, model, data, loading):
        seen.append([record.id for record in data.records])
        return iter(())

    monkeypatch.setattr(predictions, "each_outcome", nothing)
    monkeypatch.setattr(predictions, "gather", lambda process, value: [])
    monkeypatch.setattr(predictions, "broadcast", lambda process, value: [finished])
    for rank in range(2):
        predict_set(settings_of(cfg), model, data, Process(rank, 2, CPU))
    assert seen == [left[::2], left[1::2]]


def test_failures_are_tried_again(start, results, monkeypatch):
    cfg, model, data = start
    bad = data.records[1].id
    monkeypatch.setattr(predictions, "each_outcome", lambda *_: iter([Failure(bad, "image: bad")]))
    resumed, problems = predict_set(
        settings_of(cfg), model, data, journals=PredictionJournals(results, HEADER)
    )
    assert (resumed, problems) == ([], ["image: bad"])
    assert PredictionJournals(results, HEADER).entries == []


def test_a_journal_returns_the_same_rows(start):
    _, _, data = start
    rng = np.random.default_rng(0)
    people = (rng.uniform(-9, 9999, (50, 17, 5))).astype(np.float32)
    there = [
        Prediction(5, people, rng.random(50).tolist()),
        Prediction(6, np.zeros((0, 17, 5), np.float32), []),
    ]
    back = [from_json(data, json.loads(json.dumps(to_json(data, one)))) for one in there]
    assert result_rows(data.spec, back) == result_rows(data.spec, there)
    assert back[1].people.shape == (0, 17, 3)
