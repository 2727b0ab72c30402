"""Curves and images of a run show what happened, at any size, also after a resume."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.compat.proto.event_pb2 import Event

import dist_train
from lib.core.meter import StepResult
from lib.core.results import Prediction
from lib.core.trainer import StepSettings
from lib.core.views import make_view
from lib.dataset.build import build_dataset, build_evaluation_set, make_dataloader
from lib.training import board as module
from lib.training.board import SHEET_IMAGES, VIEWS, Board
from lib.training.scalars import read_scalars
from lib.utils.dist import ALONE
from lib.utils.run_card import read_starts
from tests.helpers import TINY, tiny_config
from tests.runs import SMALL, SUPERNET, at_step, killed, train

ALL_VIEWS = ["DEBUG.DEBUG", "True"]
ALL_VIEWS += [part for key in VIEWS.values() for part in (f"DEBUG.{key}", "True")]
RUN, CURVES, CARD = "run", "run/scalars.jsonl", "run/run_card.json"


def events(folder: Path) -> list[Event]:
    """All that TensorBoard would read, in the order of writing.

    Names of files do not have the order of starts within a second.
    """
    read = []
    for path in sorted(folder.glob("events*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            read.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += 16 + length
    return sorted(read, key=lambda event: event.wall_time)


def tags(folder: Path, kind: str) -> set[str]:
    """Names of the values of a kind: simple_value, image, tensor."""
    values = [value for event in events(folder) for value in event.summary.value]
    return {value.tag for value in values if value.HasField(kind)}


@pytest.fixture
def config(coco_root, tmp_path):
    """Two epochs of three steps."""

    def make(*opts: str):
        keys = ["TRAIN.IMAGES_PER_GPU", "2", "TRAIN.END_EPOCH", "2", *opts]
        return tiny_config(coco_root, tmp_path, *keys)

    return make


# --- images -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("codec", ["reference", "unbiased"])
def test_people_are_drawn_where_they_are_at_any_resolution(
    config, tmp_path, monkeypatch, size, codec
):
    """The maps are the targets of one person, rendered at `size` for a crop of 128 pixels."""
    crop = ["DATASET.INPUT_SIZE", "128", "DATASET.OUTPUT_SIZE", "[32,64]", "MODEL.CODEC", codec]
    cfg = config(*ALL_VIEWS, *crop)
    board = Board(cfg, tmp_path / "log", tmp_path)
    batch = next(iter(make_dataloader(cfg, build_dataset(cfg))))
    batch = batch._replace(joints=batch.joints[:, :1], sigmas=batch.sigmas[:, :1])
    targets = make_view(batch, size, StepSettings.from_config(cfg)).targets
    coarse, fine = targets.heatmaps
    people = []
    monkeypatch.setattr(module, "draw_people", lambda image, joints, spec: people.append(joints))
    monkeypatch.setattr(module, "tile", lambda *_, **__: np.zeros((4, 4, 3), np.uint8))
    outputs = [torch.cat([coarse, 0 * coarse], 1), fine]
    board.training(1, {}, StepResult(0, [batch], [None], outputs, targets, losses={}))
    assert len(people) == 2 * len(batch.images)
    for ground_truth, predicted in zip(people[::2], people[1::2], strict=True):
        joints = ground_truth[0][(ground_truth[0, :, 2] > 0) & (ground_truth[0, :, :2] > 4).all(1)]
        joints = joints[(joints[:, :2] < 124).all(1)]
        assert len(joints) > 0
        for x, y, _ in joints:
            distance = np.hypot(predicted[..., 0] - x, predicted[..., 1] - y)
            assert distance.min() <= 2 * 128 / size + 2


@pytest.mark.parametrize(
    "opts",
    [
        ["MODEL.TAG_PER_JOINT", "False"],
        ["DATASET.WITH_CENTER", "True", "DATASET.NUM_JOINTS", "18", "MODEL.NUM_JOINTS", "18"],
        ["LOSS.WITH_AE_LOSS", "[True,True]", "TEST.WITH_AE", "[True,True]"],
        ["TRAIN.EMA", "0.9", "TRAIN.ACCUMULATE", "2", "FP16.ENABLED", "True"],
    ],
    ids=["one tag map", "center joint", "tags on both outputs", "EMA, two batches, half"],
)
def test_images_of_every_kind_of_training_are_drawn(config, tmp_path, opts):
    train(config(*ALL_VIEWS, *opts), tmp_path / RUN)
    assert tags(tmp_path / "run/log", "image") == set(VIEWS)


def test_images_of_a_supernet_name_the_architecture(config, tmp_path):
    train(config(*ALL_VIEWS, *SUPERNET, "PRINT_FREQ", "2"), tmp_path / RUN, arch=SMALL)
    assert tags(tmp_path / "run/log", "image") == set(VIEWS)
    assert tags(tmp_path / "run/log", "tensor") == {"prediction/architecture/text_summary"}
    curves = read_scalars(tmp_path / CURVES)
    assert list(curves["train/arch/GMACs"]) == [2, 4, 6]
    for step in (2, 4, 6):
        assert 64 <= curves["train/arch/resolution"][step] <= 128
        assert 0.5 <= curves["train/arch/width"][step] <= 1


def test_two_processes_write_once(config, tmp_path, together):
    cfg = config(*ALL_VIEWS, "TRAIN.EMA", "0.9", "TRAIN.VALIDATE_EVERY", "2")
    assert together(lambda process: train(cfg, tmp_path / RUN, process), 2) == [None, None]
    assert tags(tmp_path / "run/log", "image") == {*VIEWS, "val/people"}
    assert len((tmp_path / CURVES).read_text().splitlines()) == 4 + 1  # steps, evaluation
    [start] = read_starts(tmp_path / CARD)
    assert start["processes"] == 2


def test_an_evaluation_draws_the_same_images_each_time(config, tmp_path, monkeypatch):
    """Those with people first; images without a prediction are left out."""
    cfg = config(*ALL_VIEWS)
    board, data = Board(cfg, tmp_path / "log", tmp_path), build_evaluation_set(cfg)
    empty = data.records[0]._replace(joints=data.records[0].joints[:0])
    data = data._replace(records=[empty, *data.records[1:]])
    sheets = []
    sheet = module.contact_sheet
    monkeypatch.setattr(module, "contact_sheet", lambda *args: sheets.append(args) or sheet(*args))
    nobody = np.zeros((0, 17, 3))
    predictions = [Prediction(record.id, nobody, []) for record in data.records]
    board.evaluation(3, {"AP": 0.0}, data, predictions)
    board.evaluation(6, {"AP": 0.0}, data, predictions[:1])
    board.evaluation(9, {}, data, [])
    assert len(sheets) == 2
    assert all(count == SHEET_IMAGES for _, _, count in sheets)
    orders = [[record.id for record in ordered.records] for ordered, _, _ in sheets]
    assert orders[0] == orders[1]
    assert orders[0][-1] == empty.id
    assert list(read_scalars(board.log)["val/AP"]) == [3, 6]


def test_without_debug_no_image_is_drawn(config, tmp_path):
    train(config("TRAIN.VALIDATE_EVERY", "1"), tmp_path / RUN)
    assert tags(tmp_path / "run/log", "image") == set()


def test_a_training_without_tensorboard_warns_and_writes_its_curves(
    config, tmp_path, monkeypatch, caplog
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # an import fails
    train(config(*ALL_VIEWS, "TRAIN.VALIDATE_EVERY", "1"), tmp_path / RUN)
    [line] = [r.getMessage() for r in caplog.records if "TensorBoard" in r.getMessage()]
    assert line == "no TensorBoard files are written; to get them: pip install tensorboard"
    assert list(read_scalars(tmp_path / CURVES)["val/AP"]) == [3, 6]
    assert not (tmp_path / "run/log").exists()


# --- curves -----------------------------------------------------------------------------


def test_the_file_and_tensorboard_have_the_same_curves(config, tmp_path):
    train(config("TRAIN.VALIDATE_EVERY", "1"), tmp_path / RUN)
    curves = read_scalars(tmp_path / CURVES)
    assert set(curves) == tags(tmp_path / "run/log", "simple_value")
    terms = {f"train/{name}" for name in ("heatmap/0", "push/0", "pull/0", "heatmap/1")}
    others = {f"train/{name}" for name in ("gradient_norm", "lr", "images/s", "data_wait", "loss")}
    assert {name for name in curves if name.startswith("train")} == terms | others
    assert all(list(curves[name]) == [1, 2, 3, 4, 5, 6] for name in terms | others)
    assert list(curves["val/AP"]) == [3, 6]


def test_a_training_whose_curves_cannot_be_written_says_so_once(config, tmp_path, caplog):
    (tmp_path / CURVES).mkdir(parents=True)
    train(config("TRAIN.END_EPOCH", "1"), tmp_path / RUN)
    [line] = [line for line in caplog.messages if "cannot" in line]
    assert line.startswith(f"cannot write {tmp_path / CURVES}: ")
    assert tags(tmp_path / "run/log", "simple_value")


def test_a_training_whose_log_folder_cannot_be_written_goes_on(config, tmp_path, caplog):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/log").write_text("a file")
    train(config("TRAIN.END_EPOCH", "1"), tmp_path / RUN)
    assert list(read_scalars(tmp_path / CURVES)["train/loss"]) == [1, 2, 3]
    assert sum("TensorBoard" in line for line in caplog.messages) == 1


def of_training(path: Path) -> dict[str, dict[int, float]]:
    """All curves but those of the clock."""
    clock = ("train/images/s", "train/data_wait")
    return {name: curve for name, curve in read_scalars(path).items() if name not in clock}


@pytest.mark.parametrize("arch", [TINY, SMALL], ids=["network", "supernet"])
def test_a_killed_run_has_the_curves_of_one_that_was_not(config, tmp_path, arch):
    """Killed after steps that no checkpoint has; each resume is on the card."""
    cfg = config("TRAIN.SAVE_STEPS", "2", *(SUPERNET if arch is SMALL else []))
    train(cfg, tmp_path / "whole", arch=arch)
    for step in (1, 4):
        killed(step, lambda: train(cfg, tmp_path / RUN, arch=arch))
    train(cfg, tmp_path / RUN, arch=arch)
    assert of_training(tmp_path / CURVES) == of_training(tmp_path / "whole/scalars.jsonl")
    steps = [start["resumed_from"] and start["resumed_from"]["step"] for start in starts(tmp_path)]
    assert steps == [None, None, 3]
    purged = [event.step for event in events(tmp_path / "run/log") if event.HasField("session_log")]
    assert purged[-1] == 4  # TensorBoard hides from this step on what earlier starts wrote


def starts(folder: Path) -> list[dict]:
    return read_starts(folder / CARD)


def test_a_run_started_over_has_no_earlier_curves(config, tmp_path):
    train(config(), tmp_path / RUN)
    train(config("AUTO_RESUME", "False", "TRAIN.END_EPOCH", "1"), tmp_path / RUN)
    assert list(read_scalars(tmp_path / CURVES)["train/loss"]) == [1, 2, 3]


def test_a_finished_run_stays_as_it_is(config, tmp_path):
    train(config(), tmp_path / RUN)
    before = [(tmp_path / name).read_bytes() for name in (CURVES, CARD)]
    train(config(), tmp_path / RUN)
    assert [(tmp_path / name).read_bytes() for name in (CURVES, CARD)] == before


def test_a_training_without_space_for_card_and_curves_goes_on(config, tmp_path, caplog):
    for name in (CURVES, CARD):
        (tmp_path / f"{name}.partial").mkdir(parents=True)
    with at_step(1, (tmp_path / CURVES).unlink):
        train(config(), tmp_path / RUN)
    assert (tmp_path / "run/final_state0.pth.tar").exists()
    assert not (tmp_path / CARD).exists()
    assert "cannot write" in caplog.text


def test_the_card_describes_the_run(config, tmp_path):
    cfg = config("SEED", "7")
    train(cfg, tmp_path / RUN)
    [start] = starts(tmp_path)
    assert start["seed"] == 7
    assert start["device"] == "cpu"
    assert start["resumed_from"] is None
    assert start["architecture"] == TINY.to_dict()
    assert start["config"]["TRAIN"]["END_EPOCH"] == 2
    model = dist_train.start_model(cfg, TINY, ALONE)
    assert start["parameters"] == sum(p.numel() for p in model.parameters())
    assert start["macs"]["paper"] > start["macs"]["true"] > 0
