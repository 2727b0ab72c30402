"""Training learns, goes on where it stopped, and stops when the loss is no number."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

import dist_train
from lib.core.loss import MultiLossFactory
from lib.core.trainer import Meter, Precision, View, do_train, make_view, train_step
from lib.dataset.build import build_dataset, make_dataloader
from lib.models import build_model
from lib.utils.checkpoint import load_checkpoint
from lib.utils.dist import Process
from lib.utils.optim import get_optimizer, get_scheduler
from tests.helpers import TINY, tiny_config

CPU = torch.device("cpu")


def train(cfg, out: Path) -> None:
    """What `dist_train.py` does behind its flags."""
    dist_train.set_backends(cfg)
    process = Process(0, 1, CPU)
    model = dist_train.start_model(cfg, TINY, process)
    criterion = dist_train.start_criterion(cfg, None, CPU)
    out.mkdir(parents=True, exist_ok=True)
    dist_train.train(cfg, model, criterion, process, out, out / "log")


def flat(tree, name="") -> dict:
    """Every leaf of nested dicts and lists."""
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        return {name: tree}
    return {k: v for key, value in items for k, v in flat(value, f"{name}/{key}").items()}


def assert_equal_files(one: Path, other: Path, leave_out: tuple[str, ...] = ()) -> None:
    ours, theirs = flat(load_checkpoint(one)), flat(load_checkpoint(other))
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        if name.startswith(leave_out):
            continue
        same = torch.equal(value, theirs[name]) if torch.is_tensor(value) else value == theirs[name]
        assert same, name


@pytest.mark.parametrize(
    "opts",
    [
        (),
        ("TRAIN.LR_SCHEDULE", "cosine", "TRAIN.WARMUP_EPOCHS", "0.5", "WORKERS", "1"),
        ("TRAIN.OPTIMIZER", "sgd", "TRAIN.LR_STEP", "[1]"),
    ],
    ids=["adam", "cosine", "sgd"],
)
def test_resuming_changes_nothing(coco_root, tmp_path, opts):
    """Two epochs are one epoch, a stop, and one more epoch: bit for bit."""
    two = tiny_config(coco_root, tmp_path, *opts, "TRAIN.END_EPOCH", "2")
    train(two, tmp_path / "whole")
    part = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        interrupt_after_one_epoch(two, part)
    assert load_checkpoint(part / "checkpoint.pth.tar")["epoch"] == 1
    assert not (part / "final_state0.pth.tar").exists()
    torch.manual_seed(99)  # the state of the second process is another one
    train(two, part)
    for name in ("checkpoint.pth.tar", "final_state0.pth.tar"):
        assert_equal_files(tmp_path / "whole" / name, part / name)


def interrupt_after_one_epoch(cfg, out: Path) -> None:
    """A run of two epochs that is cut off when the second begins."""
    begun = itertools.count()

    def do_one(*args, **kwargs):
        if next(begun) == 1:
            raise KeyboardInterrupt
        do_train(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist_train, "do_train", do_one)
        train(cfg, out)


def test_a_finished_run_has_nothing_to_do(coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path)
    train(cfg, tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.tar")}
    assert sorted(before) == ["checkpoint.pth.tar", "final_state0.pth.tar"]
    train(cfg, tmp_path / "run")
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.tar")} == before


def test_the_seed_is_the_run(coco_root, tmp_path):
    for name, seed in (("one", "0"), ("same", "0"), ("other", "1")):
        train(tiny_config(coco_root, tmp_path, "SEED", seed), tmp_path / name)
    final = "final_state0.pth.tar"
    assert_equal_files(tmp_path / "one" / final, tmp_path / "same" / final)
    with pytest.raises(AssertionError):
        assert_equal_files(tmp_path / "one" / final, tmp_path / "other" / final)


@pytest.mark.parametrize("must", [["TRAIN.RESUME", "True"], ["TRAIN.CHECKPOINT", "none.pth.tar"]])
def test_a_checkpoint_that_must_be_there_is_named(coco_root, tmp_path, must):
    with pytest.raises(ValueError, match=r"there is no checkpoint .*\.pth\.tar"):
        train(tiny_config(coco_root, tmp_path, *must), tmp_path / "run")


def test_evaluations_on_the_way_keep_the_best_network(coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path, "TRAIN.VALIDATE_EVERY", "1")
    train(cfg, tmp_path / "run")
    assert (tmp_path / "run/model_best.pth.tar").exists()
    assert (tmp_path / "run/results/keypoints_val2017_results.json").exists()
    assert load_checkpoint(tmp_path / "run/checkpoint.pth.tar")["best_ap"] >= 0
    # Looking at the network on the way does not change what is trained.
    train(tiny_config(coco_root, tmp_path), tmp_path / "blind")
    final = "final_state0.pth.tar"
    assert_equal_files(tmp_path / "run" / final, tmp_path / "blind" / final)


def test_a_run_starts_from_pretrained_weights(coco_root, tmp_path):
    train(tiny_config(coco_root, tmp_path), tmp_path / "donor")
    weights = tmp_path / "donor/final_state0.pth.tar"
    donor = load_checkpoint(weights)
    for parts in ("all", "backbone"):
        opts = ["MODEL.PRETRAINED", str(weights), "MODEL.PRETRAINED_PARTS", parts]
        cfg = tiny_config(coco_root, tmp_path, *opts, "SEED", "5")
        model = dist_train.start_model(cfg, TINY, Process(0, 1, CPU))
        for name, tensor in model.state_dict().items():
            if parts == "all" or not name.startswith(("deconv", "final")):
                assert torch.equal(tensor, donor[name]), name
    assert not torch.equal(model.deconv_refined[0].weight, donor["deconv_refined.0.weight"])


class Recording(MultiLossFactory):
    """The losses; keeps what was shown."""

    def forward(self, images, outputs, targets):
        self.__dict__.setdefault("shown", []).append(images.clone())
        return super().forward(images, outputs, targets)


def test_an_epoch_shows_other_crops_trains_statistics_and_moves_the_schedule(coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path, "TRAIN.LR_STEP", "[1]", "TRAIN.SHUFFLE", "False")
    model = build_model(cfg, TINY).eval()  # as an evaluation may have left it
    optimizer = get_optimizer(cfg, model)
    loader = make_dataloader(cfg, build_dataset(cfg))
    scheduler = get_scheduler(cfg, optimizer, len(loader))
    criterion, meter = Recording.from_config(cfg), Meter(total_steps=99, every=99, verbose=False)
    before = model.first[0][1].running_mean.clone()
    for epoch in (0, 1):
        do_train(
            *(cfg, model, loader, criterion, optimizer, scheduler),
            *(Precision(CPU), epoch, meter),
        )
    first, second = criterion.shown[: len(loader)], criterion.shown[len(loader) :]
    assert len(first) == len(second) == 2
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(model.first[0][1].running_mean, before)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(cfg.TRAIN.LR * cfg.TRAIN.LR_FACTOR)


# --- one step ---------------------------------------------------------------------------


@pytest.fixture
def start(coco_root, tmp_path):
    """A network, and one batch to train it on."""

    def begin(*opts: str):
        cfg = tiny_config(coco_root, tmp_path, *opts)
        torch.manual_seed(0)
        model = build_model(cfg, TINY).train()
        batch = next(iter(make_dataloader(cfg, build_dataset(cfg))))
        return cfg, model, *make_view(cfg, batch, cfg.DATASET.INPUT_SIZE)[:2]

    return begin


def test_a_single_batch_can_be_learned(start):
    cfg, model, images, targets = start("TRAIN.LR", "1e-2")
    criterion, optimizer = MultiLossFactory.from_config(cfg), get_optimizer(cfg, model)
    totals = []
    for _ in range(30):
        _, terms = train_step(model, criterion, optimizer, Precision(CPU), [View(images, targets)])
        totals.append(sum(terms.values()).item())
    assert set(terms) == {"heatmap/0", "push/0", "pull/0", "heatmap/1"}
    assert totals[-1] < 0.5 * totals[0]


def test_mixed_precision_runs_on_the_cpu(start):
    cfg, model, images, targets = start("FP16.ENABLED", "True")
    criterion, optimizer = MultiLossFactory.from_config(cfg), get_optimizer(cfg, model)
    half, full = Precision(CPU, cfg.FP16.ENABLED), Precision(CPU)
    with half.autocast():
        assert model(images)[0].dtype == torch.bfloat16
    before = [p.detach().clone() for p in model.parameters()]
    outputs, terms = train_step(model, criterion, optimizer, half, [View(images, targets)])
    assert all(output.dtype == torch.float32 for output in outputs)
    assert all(torch.isfinite(term) for term in terms.values())
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    _, exact = train_step(model, criterion, optimizer, full, [View(images, targets)])
    assert set(exact) == set(terms)


def test_a_term_without_weight_is_left_out(start):
    cfg, model, images, targets = start("LOSS.WITH_HEATMAPS_LOSS", "[True, False]")
    terms = MultiLossFactory.from_config(cfg)(images, model(images), targets)
    assert set(terms) == {"heatmap/0", "push/0", "pull/0"}


# --- a loss that is no number -----------------------------------------------------------


class NoNumber(MultiLossFactory):
    """The losses, one of which leaves the numbers at the step `bad`."""

    bad = 0
    step = -1

    def forward(self, images, outputs, targets):
        self.step += 1
        terms = super().forward(images, outputs, targets)
        if self.step == self.bad:
            terms["pull/0"] = terms["pull/0"] * float("nan")
        return terms


@pytest.mark.parametrize("print_freq", ["1", "50"])
def test_a_loss_that_is_no_number_stops_and_names_every_term(coco_root, tmp_path, print_freq):
    cfg = tiny_config(coco_root, tmp_path, "PRINT_FREQ", print_freq, "TRAIN.IMAGES_PER_GPU", "2")
    model = build_model(cfg, TINY)
    optimizer = get_optimizer(cfg, model)
    loader = make_dataloader(cfg, build_dataset(cfg))
    criterion = NoNumber.from_config(cfg)
    criterion.bad = 1
    with pytest.raises(ValueError, match=r"not finite in epoch 0") as caught:
        do_train(
            *(cfg, model, loader, criterion, optimizer, get_scheduler(cfg, optimizer, 3)),
            *(Precision(CPU), 0, Meter(total_steps=100, every=cfg.PRINT_FREQ, verbose=False)),
        )
    message = str(caught.value)
    assert "pull/0 nan" in message
    assert "heatmap/0" in message
    assert "heatmap/1" in message
    assert "TRAIN.LR" in message
    assert "\n" not in message


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(coco_root, tmp_path, monkeypatch):
    """Lines of the log are rarer than epochs here: a checkpoint waits for neither."""
    opts = ["PRINT_FREQ", "50", "TRAIN.END_EPOCH", "3", "TRAIN.IMAGES_PER_GPU", "2"]
    cfg = tiny_config(coco_root, tmp_path, *opts)
    criterion = NoNumber.from_config(cfg)
    criterion.bad = 4  # the second step of the second epoch
    monkeypatch.setattr(dist_train, "start_criterion", lambda *_: criterion)
    with pytest.raises(ValueError, match="not finite"):
        train(cfg, tmp_path / "run")
    saved = load_checkpoint(tmp_path / "run/checkpoint.pth.tar")
    assert saved["epoch"] == 1
    assert all(torch.isfinite(t).all() for t in saved["state_dict"].values())


def test_a_line_of_the_log_comes_every_so_many_steps(coco_root, tmp_path, caplog):
    cfg = tiny_config(coco_root, tmp_path, "PRINT_FREQ", "2", "TRAIN.IMAGES_PER_GPU", "1")
    model = build_model(cfg, TINY)
    optimizer = get_optimizer(cfg, model)
    loader = make_dataloader(cfg, build_dataset(cfg))
    meter = Meter(total_steps=5, every=2, verbose=False)
    with caplog.at_level("INFO", "lib"):
        do_train(
            *(cfg, model, loader, MultiLossFactory.from_config(cfg), optimizer),
            *(get_scheduler(cfg, optimizer, 5), Precision(CPU), 0, meter),
        )
    lines = [r.getMessage() for r in caplog.records if "step" in r.getMessage()]
    shown = [line.split(":")[0] for line in lines]
    assert shown[:3] == ["epoch 0, step 2/5", "epoch 0, step 4/5", "epoch 0, step 5/5"]


def test_a_resumed_run_takes_the_rate_that_is_configured_now(coco_root, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        rates = []
        patch.setattr(
            "lib.core.trainer.Meter.update",
            lambda self, *args: rates.append(args[-1]) or setattr(self, "step", self.step + 1),
        )
        train(tiny_config(coco_root, tmp_path), tmp_path / "run")
        longer = tiny_config(coco_root, tmp_path, "TRAIN.END_EPOCH", "2", "TRAIN.LR", "1e-5")
        train(longer, tmp_path / "run")
    assert rates[0] == pytest.approx(4e-3)
    assert rates[-1] == pytest.approx(1e-5)
