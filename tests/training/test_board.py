"""What is shown of a run is what happened, at whatever size, also after a resume."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

import dist_train
from lib.core.results import Prediction
from lib.core.trainer import make_view
from lib.dataset.build import build_dataset, build_evaluation_set, make_dataloader
from lib.training import board as module
from lib.training.board import EVALUATED, Board
from lib.training.scalars import read_scalars
from lib.utils.run_card import read_starts
from tests.helpers import TINY, tiny_config
from tests.runs import SMALL, SUPERNET, at_step, killed, train

SHOW_ALL = [
    *("DEBUG.DEBUG", "True", "DEBUG.SAVE_BATCH_IMAGES_GT", "True"),
    *("DEBUG.SAVE_BATCH_IMAGES_PRED", "True", "DEBUG.SAVE_TAGMAPS_PRED", "True"),
]
PICTURES = {
    *("truth/people", "answer/people", "truth/heatmaps", "answer/heatmaps", "answer/tags"),
}
RUN, CURVES, CARD = "run", "run/scalars.jsonl", "run/run_card.json"


def events(folder: Path) -> list[Event]:
    """All that TensorBoard would read, in the order of writing."""
    found = []
    for path in sorted(folder.glob("events*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            found.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += 16 + length
    return found


def tags(folder: Path, kind: str) -> set[str]:
    """Names of what is of that kind: simple_value, image, tensor."""
    values = [value for event in events(folder) for value in event.summary.value]
    return {value.tag for value in values if value.HasField(kind)}


@pytest.fixture
def config(coco_root, tmp_path):
    """Two epochs of three steps."""

    def make(*opts: str):
        keys = ["TRAIN.IMAGES_PER_GPU", "2", "TRAIN.END_EPOCH", "2", *opts]
        return tiny_config(coco_root, tmp_path, *keys)

    return make


@pytest.fixture
def board(config, tmp_path):
    """A board that shows everything, and its settings."""

    def make(*opts: str) -> Board:
        return Board(config(*SHOW_ALL, *opts), tmp_path / "log", tmp_path)

    return make


# --- pictures ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("codec", ["reference", "unbiased"])
def test_people_are_found_where_they_are_at_any_resolution(board, monkeypatch, size, codec):
    """The maps are ideal ones of one person, made at `size` of a crop of 128 pixels."""
    crop = ["DATASET.INPUT_SIZE", "128", "DATASET.OUTPUT_SIZE", "[32,64]"]
    shown = board(*crop, "MODEL.CODEC", codec)
    batch = next(iter(make_dataloader(shown.cfg, build_dataset(shown.cfg))))
    batch = batch._replace(joints=batch.joints[:, :1], sigmas=batch.sigmas[:, :1])
    targets = make_view(shown.cfg, batch, size).targets
    coarse, fine = targets.heatmaps
    drawn = []
    monkeypatch.setattr(module, "draw_people", lambda image, people, spec: drawn.append(people))
    monkeypatch.setattr(module, "tile", lambda *_, **__: np.zeros((4, 4, 3), np.uint8))
    shown.pictures(1, batch, [torch.cat([coarse, 0 * coarse], 1), fine], targets)
    assert len(drawn) == 2 * len(batch.images)
    for truth, found in zip(drawn[::2], drawn[1::2], strict=True):
        joints = truth[0][(truth[0, :, 2] > 0) & (truth[0, :, :2] > 4).all(1)]
        joints = joints[(joints[:, :2] < 124).all(1)]
        assert len(joints) > 0
        for x, y, _ in joints:
            distance = np.hypot(found[..., 0] - x, found[..., 1] - y)
            assert distance.min() <= 2 * 128 / size + 2


@pytest.mark.parametrize(
    "opts",
    [
        ["MODEL.TAG_PER_JOINT", "False"],
        ["DATASET.WITH_CENTER", "True", "DATASET.NUM_JOINTS", "18", "MODEL.NUM_JOINTS", "18"],
        ["LOSS.WITH_AE_LOSS", "[True,True]", "TEST.WITH_AE", "[True,True]"],
        ["TRAIN.EMA", "0.9", "TRAIN.ACCUMULATE", "2", "FP16.ENABLED", "True"],
    ],
    ids=["one tag map", "center joint", "tags on both outputs", "average, two batches, half"],
)
def test_every_kind_of_training_is_shown(config, tmp_path, opts):
    train(config(*SHOW_ALL, *opts), tmp_path / RUN)
    assert tags(tmp_path / "run/log", "image") == PICTURES


def test_a_supernets_step_is_shown_with_its_architecture(config, tmp_path):
    train(config(*SHOW_ALL, *SUPERNET, "PRINT_FREQ", "2"), tmp_path / RUN, arch=SMALL)
    assert tags(tmp_path / "run/log", "image") == PICTURES
    assert tags(tmp_path / "run/log", "tensor") == {"answer/architecture/text_summary"}
    curves = read_scalars(tmp_path / CURVES)
    assert list(curves["train/arch/GMACs"]) == [2, 4, 6]
    for step in (2, 4, 6):
        assert 64 <= curves["train/arch/resolution"][step] <= 128
        assert 0.5 <= curves["train/arch/width"][step] <= 1


def test_two_processes_are_shown_once(config, tmp_path, together):
    cfg = config(*SHOW_ALL, "TRAIN.EMA", "0.9", "TRAIN.VALIDATE_EVERY", "2")
    assert together(lambda process: train(cfg, tmp_path / RUN, process), 2) == [None, None]
    assert tags(tmp_path / "run/log", "image") == PICTURES | {"val/people"}
    assert len((tmp_path / CURVES).read_text().splitlines()) == 4 + 1  # steps, evaluation
    [start] = read_starts(tmp_path / CARD)
    assert start["processes"] == 2


def test_an_evaluation_shows_the_same_pictures_each_time(board, monkeypatch):
    """Those with people first; what could not be evaluated is not there."""
    shown = board()
    data = build_evaluation_set(shown.cfg)
    empty = data.records[0]._replace(joints=data.records[0].joints[:0])
    data = data._replace(records=[empty, *data.records[1:]])
    sheets = []
    sheet = module.contact_sheet
    monkeypatch.setattr(module, "contact_sheet", lambda *args: sheets.append(args) or sheet(*args))
    nobody = np.zeros((0, 17, 3))
    found = [Prediction(picture.id, nobody, []) for picture in data.records]
    shown.evaluation(3, {"AP": 0.0}, data, found)
    shown.evaluation(6, {"AP": 0.0}, data, found[:1])
    shown.evaluation(9, {}, data, [])  # nothing to show, nothing to say
    assert len(sheets) == 2
    assert all(count == EVALUATED for _, _, count in sheets)
    orders = [[picture.id for picture in given.records] for given, _, _ in sheets]
    assert orders[0] == orders[1]
    assert orders[0][-1] == empty.id
    assert list(read_scalars(shown.log)["val/AP"]) == [3, 6]


def test_nothing_is_drawn_where_nothing_is_asked_for(config, tmp_path):
    train(config("TRAIN.VALIDATE_EVERY", "1"), tmp_path / RUN)
    assert tags(tmp_path / "run/log", "image") == set()


# --- curves -----------------------------------------------------------------------------


def test_the_file_and_tensorboard_say_the_same(config, tmp_path):
    train(config("TRAIN.VALIDATE_EVERY", "1"), tmp_path / RUN)
    curves = read_scalars(tmp_path / CURVES)
    allowed = {re.sub(r"[()]", "_", name) for name in curves}  # in TensorBoard's names
    assert allowed == tags(tmp_path / "run/log", "simple_value")
    terms = {f"train/{name}" for name in ("heatmap/0", "push/0", "pull/0", "heatmap/1")}
    others = {f"train/{name}" for name in ("gradient_norm", "lr", "images/s", "data_wait", "loss")}
    assert {name for name in curves if name.startswith("train")} == terms | others
    assert all(list(curves[name]) == [1, 2, 3, 4, 5, 6] for name in terms | others)
    assert list(curves["val/AP"]) == [3, 6]


def of_training(path: Path) -> dict[str, dict[int, float]]:
    """All curves but those of the clock."""
    clock = ("train/images/s", "train/data_wait")
    return {name: curve for name, curve in read_scalars(path).items() if name not in clock}


@pytest.mark.parametrize("arch", [TINY, SMALL], ids=["network", "supernet"])
def test_a_killed_run_draws_the_curves_of_one_that_was_not(config, tmp_path, arch):
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


def test_a_run_begun_anew_has_no_other_curves(config, tmp_path):
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


def test_the_card_tells_what_the_run_is_made_of(config, tmp_path):
    cfg = config("SEED", "7")
    train(cfg, tmp_path / RUN)
    [start] = starts(tmp_path)
    assert start["seed"] == 7
    assert start["device"] == "cpu"
    assert start["resumed_from"] is None
    assert start["architecture"] == TINY.to_dict()
    assert start["config"]["TRAIN"]["END_EPOCH"] == 2
    model = dist_train.start_model(cfg, TINY, dist_train.Process(0, 1, torch.device("cpu")))
    assert start["parameters"] == sum(p.numel() for p in model.parameters())
    assert start["macs"]["paper"] > start["macs"]["true"] > 0
