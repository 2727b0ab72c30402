"""Training learns, is reproducible, and stops or skips a step when the loss is not finite."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import dist_train
from lib.core.loss import MultiLossFactory
from lib.core.meter import Meter, StepResult
from lib.core.trainer import (
    StepSettings,
    SupernetPlan,
    add_gradients,
    do_train,
    gradient_norm,
    train_step,
    update_weights,
)
from lib.core.views import make_view
from lib.dataset.build import build_dataset, make_dataloader
from lib.dataset.target_generators import Targets
from lib.models import build_model, place
from lib.models.pose_supermobilenet import SuperLitePose
from lib.training.average import WeightAverage
from lib.training.optim import get_optimizer
from lib.training.scalars import read_scalars
from lib.utils.checkpoint import load_checkpoint, unwrap
from lib.utils.device import half_precision
from lib.utils.dist import ALONE, Process, wrap
from tests.helpers import TINY, tiny_config
from tests.runs import CPU, assert_equal_files, step_state, train


def test_a_finished_run_has_nothing_to_do(coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path)
    train(cfg, tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.tar")}
    assert sorted(before) == ["checkpoint.pth.tar", "final_state0.pth.tar"]
    train(cfg, tmp_path / "run")
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.tar")} == before


def test_a_run_depends_on_the_seed_only(coco_root, tmp_path):
    for name, seed in (("one", "0"), ("same", "0"), ("other", "1")):
        train(tiny_config(coco_root, tmp_path, "SEED", seed), tmp_path / name)
    final = "final_state0.pth.tar"
    assert_equal_files(tmp_path / "one" / final, tmp_path / "same" / final)
    with pytest.raises(AssertionError):
        assert_equal_files(tmp_path / "one" / final, tmp_path / "other" / final)


@pytest.mark.parametrize("must", [["TRAIN.RESUME", "True"], ["TRAIN.CHECKPOINT", "none.pth.tar"]])
def test_a_missing_checkpoint_that_is_required_is_named(coco_root, tmp_path, must):
    with pytest.raises(ValueError, match=r"there is no checkpoint .*\.pth\.tar"):
        train(tiny_config(coco_root, tmp_path, *must), tmp_path / "run")


def test_evaluations_during_training_save_the_best_network(coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path, "TRAIN.VALIDATE_EVERY", "1")
    train(cfg, tmp_path / "run")
    assert (tmp_path / "run/model_best.pth.tar").exists()
    assert (tmp_path / "run/results/keypoints_val2017_results.json").exists()
    assert load_checkpoint(tmp_path / "run/checkpoint.pth.tar")["best_ap"] >= 0
    # The evaluations do not change what is trained.
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
        model = dist_train.start_model(cfg, TINY, ALONE)
        for name, tensor in model.state_dict().items():
            if parts == "all" or not name.startswith(("deconv", "final")):
                assert torch.equal(tensor, donor[name]), name
    assert not torch.equal(model.deconv_refined[0].weight, donor["deconv_refined.0.weight"])


class Recording(MultiLossFactory):
    """The losses; records the images it gets."""

    def forward(self, images, outputs, targets):
        self.__dict__.setdefault("images", []).append(images.clone())
        return super().forward(images, outputs, targets)


def test_an_epoch_has_new_crops_trains_statistics_and_moves_the_schedule(coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path, "TRAIN.LR_STEP", "[1]", "TRAIN.SHUFFLE", "False")
    model = build_model(cfg, TINY).eval()  # as an evaluation may have left it
    loader = make_dataloader(cfg, build_dataset(cfg))
    state, settings = step_state(cfg, model, steps_per_epoch=2), StepSettings.from_config(cfg)
    criterion, meter = Recording.from_config(cfg), Meter(total_steps=99, every=99, verbose=False)
    before = model.first[0][1].running_mean.clone()
    for state.epoch in (0, 1):
        do_train(state, loader, criterion, settings, meter)
    first, second = criterion.images[:2], criterion.images[2:]
    assert len(first) == len(second) == 2
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(model.first[0][1].running_mean, before)
    lr = state.optimizer.param_groups[0]["lr"]
    assert lr == pytest.approx(cfg.TRAIN.LR * cfg.TRAIN.LR_FACTOR)


# --- one step ---------------------------------------------------------------------------


@pytest.fixture
def start(coco_root, tmp_path):
    """A network, and one batch to train it on."""

    def begin(*opts: str):
        cfg = tiny_config(coco_root, tmp_path, *opts)
        torch.manual_seed(0)
        model = build_model(cfg, TINY).train()
        return cfg, model, next(iter(make_dataloader(cfg, build_dataset(cfg))))

    return begin


def view_of(cfg, batch):
    return make_view(batch, cfg.DATASET.INPUT_SIZE, StepSettings.from_config(cfg))


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_norms_keep_their_statistics_and_are_trained_otherwise(coco_root, tmp_path, frozen):
    cfg = tiny_config(coco_root, tmp_path, "TRAIN.FREEZE_NORMS", str(frozen))
    train(cfg, tmp_path / "run")
    state = load_checkpoint(tmp_path / "run" / "final_state0.pth.tar")
    name = "stage.1.0.inv.1"
    means, scale = state[f"{name}.running_mean"], state[f"{name}.weight"]
    assert bool((means == 0).all()) is frozen  # as in a new network
    assert not (scale == 1).all()


def test_a_single_batch_can_be_learned(start):
    cfg, model, batch = start("TRAIN.LR", "1e-2")
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    state, totals = step_state(cfg, model), []
    for _ in range(30):
        losses = train_step(state, criterion, settings, [batch]).losses
        totals.append(sum(losses.values()).item())
    assert set(losses) == {"heatmap/0", "push/0", "pull/0", "heatmap/1"}
    assert totals[-1] < 0.5 * totals[0]


def test_mixed_precision_runs_on_the_cpu(start):
    cfg, model, batch = start("FP16.ENABLED", "True")
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    state = step_state(cfg, model)
    with half_precision(CPU):
        assert model(view_of(cfg, batch).images)[0].dtype == torch.bfloat16
    before = [p.detach().clone() for p in model.parameters()]
    result = train_step(state, criterion, settings, [batch])
    assert all(output.dtype == torch.float32 for output in result.outputs)
    assert all(torch.isfinite(term) for term in result.losses.values())
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    full = replace(settings, half_precision=False)
    assert set(train_step(state, criterion, full, [batch]).losses) == set(result.losses)


@pytest.mark.parametrize("channels_last", [True, False])
def test_maps_are_in_the_memory_format_of_the_config(start, channels_last):
    cfg, model, batch = start("MODEL.CHANNELS_LAST", str(channels_last))
    memory = torch.channels_last if channels_last else torch.contiguous_format
    view = view_of(cfg, batch)
    assert view.images.is_contiguous(memory_format=memory)
    for output in place(model, CPU, channels_last)(view.images):
        assert output.is_contiguous(memory_format=memory)


def test_a_term_without_weight_is_left_out(start):
    cfg, model, batch = start("LOSS.WITH_HEATMAPS_LOSS", "[True, False]")
    view = view_of(cfg, batch)
    terms = MultiLossFactory.from_config(cfg)(view.images, model(view.images), view.targets)
    assert set(terms) == {"heatmap/0", "push/0", "pull/0"}


# --- parts of a step --------------------------------------------------------------------


def without_norms(model: nn.Module) -> nn.Module:
    """`model` without BatchNorm: each image of a batch is computed alone."""
    for name, layer in model.named_children():
        if isinstance(layer, nn.BatchNorm2d):
            setattr(model, name, nn.Identity())
        else:
            without_norms(layer)
    return model


def one_epoch(cfg, norms: bool = True, criterion=None, process: Process = ALONE) -> nn.Module:
    """The network after the first epoch."""
    torch.manual_seed(0)
    model = build_model(cfg, TINY)
    model = wrap(model if norms else without_norms(model), process)
    loader = make_dataloader(cfg, build_dataset(cfg), process.rank, process.world_size)
    meter = Meter(total_steps=99, every=cfg.PRINT_FREQ, verbose=False, process=process)
    criterion = criterion or MultiLossFactory.from_config(cfg)
    state, settings = step_state(cfg, model, process), StepSettings.from_config(cfg)
    do_train(state, loader, criterion, settings, meter)
    return unwrap(model)


def difference(one: nn.Module, other: nn.Module) -> float:
    """The largest difference of any value in their state dicts."""
    first, second = one.state_dict(), other.state_dict()
    return max((first[name] - second[name]).abs().max().item() for name in first)


SGD = ["TRAIN.OPTIMIZER", "sgd", "TRAIN.LR", "1e-2", "TRAIN.LR_BATCH", "0"]
# One step at a learning rate that moves weights by more than 0.01, although the gradients are small
# here; float32 sums in another order change them by less than a thousandth of that.
LARGE_STEP = ["TRAIN.OPTIMIZER", "sgd", "TRAIN.LR", "30", "TRAIN.IMAGES_PER_GPU"]
ROUNDING = 1e-5


@pytest.mark.parametrize(("images", "batches"), [("2", "3"), ("3", "2"), ("4", "2")])
def test_accumulated_batches_are_one_batch(coco_root, tmp_path, images, batches):
    """Six images, also as four and two: an image counts the same in a short batch."""
    whole = one_epoch(tiny_config(coco_root, tmp_path, *LARGE_STEP, "6"), norms=False)
    parts = tiny_config(coco_root, tmp_path, *LARGE_STEP, images, "TRAIN.ACCUMULATE", batches)
    assert difference(one_epoch(parts, norms=False), whole) < ROUNDING
    alone = tiny_config(coco_root, tmp_path, *LARGE_STEP, images)
    assert difference(one_epoch(alone, norms=False), whole) > 100 * ROUNDING


def test_the_learning_rate_is_for_all_images_of_a_step(tmp_path):
    keys = ["TRAIN.LR", "1e-3", "TRAIN.LR_BATCH", "8", "TRAIN.IMAGES_PER_GPU", "4"]
    cfg = tiny_config(tmp_path, tmp_path, *keys, "TRAIN.ACCUMULATE", "6")
    [group] = get_optimizer(cfg, nn.Linear(1, 1), world_size=2).param_groups
    assert group["lr"] == pytest.approx(6e-3)


def test_two_processes_accumulate_what_one_does(coco_root, tmp_path, together):
    """Three images each, as two and one, are the batch of six."""
    whole = one_epoch(tiny_config(coco_root, tmp_path, *LARGE_STEP, "6"), norms=False)
    parts = tiny_config(coco_root, tmp_path, *LARGE_STEP, "2", "TRAIN.ACCUMULATE", "2")

    def work(process: Process) -> float:
        return difference(one_epoch(parts, norms=False, process=process), whole)

    assert max(together(work, 2)) < ROUNDING


def test_a_clipped_gradient_has_its_direction_and_the_maximal_norm(start):
    cfg, model, batch = start(*SGD, "TRAIN.MOMENTUM", "0.0", "TRAIN.WD", "0.0")
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    state = step_state(cfg, model)
    add_gradients(state, criterion, settings, [view_of(cfg, batch)])
    parameters = list(model.parameters())
    gradients = [p.grad.clone() for p in parameters]
    length = torch.cat([g.flatten() for g in gradients]).norm()
    before = [p.detach().clone() for p in parameters]
    update_weights(state, clip_norm=0.25 * length.item())
    for p, old, gradient in zip(parameters, before, gradients, strict=True):
        torch.testing.assert_close(p.detach(), old - 1e-2 * 0.25 * gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bound", [0.0, 1e-3, 1e6])
def test_the_norm_is_of_all_gradients_before_they_are_clipped_or_scaled(start, bound):
    cfg, model, batch = start()
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    state = step_state(cfg, model)
    for scaler in (state.scaler, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        state.scaler = scaler
        state.optimizer.zero_grad(set_to_none=True)
        add_gradients(state, criterion, settings, [view_of(cfg, batch)])
        gradients = [p.grad for p in model.parameters()]
        length = torch.cat([g.flatten() for g in gradients]).norm() / scaler.get_scale()
        norm = update_weights(state, bound)
        torch.testing.assert_close(norm, length)


def test_measuring_the_gradients_changes_nothing(coco_root, tmp_path, monkeypatch):
    cfg = tiny_config(coco_root, tmp_path)
    measured = one_epoch(cfg)
    monkeypatch.setattr("lib.core.trainer.gradient_norm", lambda model: torch.tensor(0.0))
    assert difference(measured, one_epoch(cfg)) == 0


def test_a_parameter_without_gradient_adds_nothing_to_the_norm():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    model[0].weight.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert gradient_norm(model) == 5


def sink_of(printed: list[dict[str, float]]):
    """A sink of `Meter` that collects the values."""
    return lambda step, values, result: printed.append(values)


def result_of(batch, loss: float = 1.0, gradient_norm: torch.Tensor | None = None) -> StepResult:
    """Of a step of a plain network on `batch`."""
    return StepResult(
        epoch=0,
        batches=[batch],
        archs=[None],
        outputs=[],
        targets=Targets([], [], []),
        losses={"heatmap/0": torch.tensor(loss)},
        gradient_norm=gradient_norm,
    )


def test_the_curve_of_the_norm_leaves_out_overflows_of_a_scaler(coco_root, tmp_path):
    """Losses and norms of three steps and one that overflowed, read at the fourth."""
    printed = []
    meter = Meter(total_steps=99, every=4, verbose=False, sink=sink_of(printed))
    batch = next(iter(make_dataloader(cfg := tiny_config(coco_root, tmp_path), build_dataset(cfg))))
    for norm in (1.0, 2.0, float("inf"), 6.0):
        loss = norm if norm < 9 else 3.0
        meter.update(result_of(batch, loss, gradient_norm=torch.tensor(norm)), lr=0.1)
    [values] = printed
    assert values["gradient norm"] == 3
    assert values["loss"] == values["heatmap/0"] == 3


def test_an_evaluation_does_not_slow_the_curve_of_the_speed(coco_root, tmp_path, monkeypatch):
    """Six images take two seconds of twelve."""
    now, printed = [0.0], []
    monkeypatch.setattr("lib.core.meter.time.perf_counter", lambda: now[0])
    meter = Meter(total_steps=99, every=1, verbose=False, sink=sink_of(printed))
    cfg = tiny_config(coco_root, tmp_path, "TRAIN.IMAGES_PER_GPU", "6")
    batch = next(iter(make_dataloader(cfg, build_dataset(cfg))))
    with meter.paused():
        now[0] += 10
    now[0] += 2
    meter.update(result_of(batch), lr=0.1)
    assert [values["images/s"] for values in printed] == [3]


def test_the_speed_is_that_of_all_processes(coco_root, tmp_path, together, monkeypatch):
    """Six images in each of two processes take two seconds."""
    now = [0.0]
    monkeypatch.setattr("lib.core.meter.time.perf_counter", lambda: now[0])
    cfg = tiny_config(coco_root, tmp_path, "TRAIN.IMAGES_PER_GPU", "6")
    batch = next(iter(make_dataloader(cfg, build_dataset(cfg))))

    def speed(process: Process) -> float:
        printed = []
        meter = Meter(99, every=1, verbose=False, sink=sink_of(printed), process=process)
        now[0] += 2
        meter.update(result_of(batch), lr=0.1)
        return printed[0]["images/s"]

    assert together(speed, 2) == [6, 6]


def test_the_numbers_of_sub_networks_are_means_over_the_steps_of_the_losses(coco_root, tmp_path):
    printed = []
    meter = Meter(total_steps=99, every=2, verbose=False, sink=sink_of(printed))
    meter.describe = lambda arch: {"resolution": arch.img_size, "width": arch.input_channel}
    batch = next(iter(make_dataloader(cfg := tiny_config(coco_root, tmp_path), build_dataset(cfg))))
    wide = replace(TINY, input_channel=16, img_size=192)
    for archs in ([TINY, wide], [TINY, TINY], [wide, wide], [wide, wide]):
        meter.update(result_of(batch)._replace(archs=archs), lr=0.1)
    assert [values["arch/resolution"] for values in printed] == [96, 192]
    assert [values["arch/width"] for values in printed] == [10, 16]


def test_a_bound_beyond_all_gradients_changes_nothing(coco_root, tmp_path):
    free = one_epoch(tiny_config(coco_root, tmp_path))
    bound = one_epoch(tiny_config(coco_root, tmp_path, "TRAIN.CLIP_NORM", "1e6"))
    tight = one_epoch(tiny_config(coco_root, tmp_path, *SGD, "TRAIN.CLIP_NORM", "1e-3"))
    assert difference(free, bound) == 0
    assert difference(free, tight) > 0


def test_the_ema_is_evaluated_and_published(coco_root, tmp_path, monkeypatch):
    keys = ["TRAIN.EMA", "0.5", "TRAIN.IMAGES_PER_GPU", "1", "TRAIN.VALIDATE_EVERY", "1"]
    cfg = tiny_config(coco_root, tmp_path, *keys)
    evaluated, weights = [], []

    def predict(settings, model, *_, **__):
        evaluated.append(copy.deepcopy(model))
        return [], []

    monkeypatch.setattr("lib.training.run.predict_set", predict)
    update = WeightAverage.update

    def recorded(self: WeightAverage, model: nn.Module) -> None:
        weights.append({n: t.clone() for n, t in model.state_dict().items()})
        update(self, model)

    monkeypatch.setattr(WeightAverage, "update", recorded)
    train(cfg, tmp_path / "run")
    saved = load_checkpoint(tmp_path / "run/checkpoint.pth.tar")
    final = load_checkpoint(tmp_path / "run/final_state0.pth.tar")
    for name, last in weights[-1].items():
        assert torch.equal(saved["trained"][name], last)
        for state in (saved["state_dict"], final, evaluated[0].state_dict()):
            assert torch.equal(state[name], final[name])
    assert any(not torch.equal(final[name], last) for name, last in weights[-1].items())
    train(tiny_config(coco_root, tmp_path, "TRAIN.IMAGES_PER_GPU", "1"), tmp_path / "plain")
    plain = load_checkpoint(tmp_path / "plain/final_state0.pth.tar")
    for name, last in weights[-1].items():  # the EMA has not changed what is trained
        assert torch.equal(plain[name], last)


# --- a non-finite loss -------------------------------------------------------------------


class NonFinite(MultiLossFactory):
    """The losses, one of which is NaN at the step `bad`."""

    bad = 0
    step = -1

    def forward(self, images, outputs, targets):
        self.step += 1
        terms = super().forward(images, outputs, targets)
        if self.step == self.bad:
            terms["pull/0"] = terms["pull/0"] * float("nan")
        return terms


SINGLE = ["TRAIN.IMAGES_PER_GPU", "1"]


def bad_at(cfg, step: int) -> NonFinite:
    """Losses of which one is NaN at that step, counted from 0."""
    criterion = NonFinite.from_config(cfg)
    criterion.bad = step
    return criterion


def ids(cfg, process: Process = ALONE) -> list[list[int]]:
    """Image ids of each step of the first epoch."""
    loader = make_dataloader(cfg, build_dataset(cfg), process.rank, process.world_size)
    return [batch.image_ids.tolist() for batch in loader]


@pytest.mark.parametrize("print_freq", ["0", "1", "50"])
def test_a_non_finite_loss_stops_and_names_its_step(coco_root, tmp_path, print_freq):
    """Not the last step before it was noticed: all later losses are not finite either."""
    cfg = tiny_config(coco_root, tmp_path, "PRINT_FREQ", print_freq, *SINGLE)
    with pytest.raises(ValueError, match=r"not finite in epoch 0, step 3 ") as caught:
        one_epoch(cfg, criterion=bad_at(cfg, 2))
    message = str(caught.value)
    assert f"images {ids(cfg)[2]}" in message
    assert "pull/0 nan" in message
    assert "heatmap/0" in message
    assert "heatmap/1" in message
    assert "TRAIN.LR" in message
    assert "\n" not in message


def test_all_processes_name_the_images_of_the_one_at_fault(coco_root, tmp_path, together):
    cfg = tiny_config(coco_root, tmp_path, "PRINT_FREQ", "50", *SINGLE)

    def work(process: Process) -> str:
        with pytest.raises(ValueError, match="not finite") as caught:
            one_epoch(cfg, criterion=bad_at(cfg, 1 if process.rank else 99), process=process)
        return str(caught.value)

    one, other = together(work, 2)
    assert one == other
    culprit = ids(cfg, Process(1, 2, CPU))[1]
    assert f"epoch 0, step 2 (images {culprit})" in one


def test_a_non_finite_loss_of_a_supernet_names_the_architecture(coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path)
    loader = make_dataloader(cfg, build_dataset(cfg))
    state, settings = step_state(cfg, SuperLitePose(TINY, (34, 17))), StepSettings.from_config(cfg)
    meter, plan = Meter(total_steps=99, every=50, verbose=False), SupernetPlan(lambda step: [TINY])
    with pytest.raises(ValueError, match=r"architecture 64 px, stem 8, stages 8 8 16 16 of 1 1 "):
        do_train(state, loader, bad_at(cfg, 0), settings, meter, plan)


def test_a_skipped_step_changes_nothing(coco_root, tmp_path, caplog):
    """Six steps of which the last is skipped are five: weights, moments and statistics."""
    cfg = tiny_config(coco_root, tmp_path, "TRAIN.NON_FINITE", "skip", *SINGLE)
    torch.manual_seed(0)
    five = build_model(cfg, TINY).train()
    state, loader = step_state(cfg, five), make_dataloader(cfg, build_dataset(cfg))
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    for batch in list(loader)[:5]:
        train_step(state, criterion, settings, [batch])
    skipped = one_epoch(cfg, criterion=bad_at(cfg, 5))
    assert difference(skipped, five) == 0
    [line] = [r.getMessage() for r in caplog.records if "finite" in r.getMessage()]
    assert f"epoch 0, step 6 (images {ids(cfg)[5]})" in line
    assert "skipped" in line


def test_processes_skip_a_step_together(coco_root, tmp_path, together):
    cfg = tiny_config(coco_root, tmp_path, "TRAIN.NON_FINITE", "skip", *SINGLE)

    def work(process: Process) -> list:
        criterion = bad_at(cfg, 1 if process.rank else 99)
        model = one_epoch(cfg, criterion=criterion, process=process)
        return [p.tolist() for p in model.parameters()]

    one, other = together(work, 2)
    assert one == other
    assert all(torch.isfinite(torch.tensor(p)).all() for p in one)


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(coco_root, tmp_path, monkeypatch):
    """Lines of the log are rarer than epochs here: a checkpoint waits for neither."""
    opts = ["PRINT_FREQ", "50", "TRAIN.END_EPOCH", "3", "TRAIN.IMAGES_PER_GPU", "2"]
    cfg = tiny_config(coco_root, tmp_path, *opts)
    criterion = bad_at(cfg, 4)  # the second step of the second epoch
    monkeypatch.setattr(dist_train, "start_criterion", lambda *_: criterion)
    with pytest.raises(ValueError, match="not finite"):
        train(cfg, tmp_path / "run")
    saved = load_checkpoint(tmp_path / "run/checkpoint.pth.tar")
    assert saved["epoch"] == 1
    assert all(torch.isfinite(t).all() for t in saved["state_dict"].values())


def test_a_line_is_logged_every_print_freq_steps(coco_root, tmp_path, caplog):
    cfg = tiny_config(coco_root, tmp_path, "PRINT_FREQ", "2", "TRAIN.IMAGES_PER_GPU", "1")
    state, loader = (
        step_state(cfg, build_model(cfg, TINY)),
        make_dataloader(cfg, build_dataset(cfg)),
    )
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    with caplog.at_level("INFO", "lib"):
        do_train(state, loader, criterion, settings, Meter(total_steps=5, every=2, verbose=False))
    lines = [r.getMessage() for r in caplog.records if "step" in r.getMessage()]
    steps = [line.split(":")[0] for line in lines]
    assert steps[:3] == ["epoch 0, step 2/5", "epoch 0, step 4/5", "epoch 0, step 5/5"]


def test_a_resumed_run_takes_the_learning_rate_that_is_configured_now(coco_root, tmp_path):
    train(tiny_config(coco_root, tmp_path), tmp_path / "run")
    longer = tiny_config(coco_root, tmp_path, "TRAIN.END_EPOCH", "2", "TRAIN.LR", "1e-5")
    train(longer, tmp_path / "run")
    curve = list(read_scalars(tmp_path / "run/scalars.jsonl")["train/lr"].values())
    assert curve == pytest.approx([4e-3, 4e-3, 1e-5, 1e-5])
