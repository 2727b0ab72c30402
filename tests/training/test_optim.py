"""The learning rate is a function of the step."""

from __future__ import annotations

import pytest
import torch

from lib.core.loss import heatmap_loss
from lib.training.optim import INITIAL_SCALE, get_optimizer, get_scheduler
from tests.helpers import tiny_config

STEPS = 4  # an epoch


def learning_rates(tmp_path, *opts: str, epochs: int = 10) -> list[float]:
    """The learning rate of every step."""
    keys = ["TRAIN.END_EPOCH", str(epochs), "TRAIN.LR", "0.5"]
    cfg = tiny_config(tmp_path, tmp_path, *keys, *opts)
    optimizer = get_optimizer(cfg, torch.nn.Linear(1, 1))
    scheduler = get_scheduler(cfg, optimizer, STEPS)
    rates = []
    for _ in range(epochs * STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_multistep_drops_at_its_epochs_and_nowhere_else(tmp_path):
    rates = learning_rates(tmp_path, "TRAIN.LR_STEP", "[3, 7]", "TRAIN.LR_FACTOR", "0.1")
    expected = [0.5] * 3 * STEPS + [0.05] * 4 * STEPS + [0.005] * 3 * STEPS
    assert rates == pytest.approx(expected, rel=1e-12)


def test_a_cosine_falls_from_the_learning_rate_to_nearly_0(tmp_path):
    rates = learning_rates(tmp_path, "TRAIN.LR_SCHEDULE", "cosine")
    assert rates[0] == 0.5
    assert rates[5 * STEPS] == pytest.approx(0.25)
    assert 0 < rates[-1] < 0.002
    assert all(b < a for a, b in zip(rates, rates[1:], strict=False))


@pytest.mark.parametrize("schedule", ["multistep", "cosine"])
def test_a_warm_up_rises_to_the_learning_rate_in_its_time(tmp_path, schedule):
    warm = ["TRAIN.LR_SCHEDULE", schedule, "TRAIN.WARMUP_EPOCHS", "2"]
    rates = learning_rates(tmp_path, *warm)
    rising = rates[: 2 * STEPS + 1]
    assert 0 < rising[0] < 0.01
    assert all(b > a for a, b in zip(rising, rising[1:], strict=False))
    assert rising[-1] == pytest.approx(0.5)
    assert rising[STEPS] == pytest.approx(0.25, rel=0.01)
    assert max(rates) <= 0.5


def test_the_schedule_starts_at_the_first_epoch(tmp_path):
    late = learning_rates(tmp_path, "TRAIN.LR_STEP", "[3]", "TRAIN.BEGIN_EPOCH", "2", epochs=4)
    assert late[:STEPS] == [0.5] * STEPS
    assert late[STEPS] == pytest.approx(0.05)


def test_a_schedule_goes_on_where_it_was(tmp_path):
    cfg = tiny_config(tmp_path, tmp_path, "TRAIN.LR_STEP", "[1]")

    def start():
        optimizer = get_optimizer(cfg, torch.nn.Linear(1, 1))
        return optimizer, get_scheduler(cfg, optimizer, STEPS)

    optimizer, scheduler = start()
    for _ in range(STEPS + 1):
        optimizer.step()
        scheduler.step()
    again, resumed = start()
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    for opt, plan in ((optimizer, scheduler), (again, resumed)):
        opt.step()
        plan.step()
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] != cfg.TRAIN.LR


def test_each_optimizer_takes_its_own_settings(tmp_path):
    model = torch.nn.Linear(1, 1)
    adam = get_optimizer(tiny_config(tmp_path, tmp_path, "TRAIN.WD", "0.1"), model)
    assert isinstance(adam, torch.optim.Adam)
    assert adam.param_groups[0]["weight_decay"] == 0
    opts = ["TRAIN.OPTIMIZER", "sgd", "TRAIN.WD", "0.1", "TRAIN.NESTEROV", "True"]
    sgd = get_optimizer(tiny_config(tmp_path, tmp_path, *opts, "TRAIN.MOMENTUM", "0.8"), model)
    assert isinstance(sgd, torch.optim.SGD)
    group = sgd.param_groups[0]
    assert (group["weight_decay"], group["momentum"], group["nesterov"]) == (0.1, 0.8, True)


def test_float16_holds_the_gradients_of_the_maps(tmp_path):
    """Those of a batch of 32 at 448 px, whose mean is over 27 million values."""
    assert tiny_config(tmp_path, tmp_path).FP16.DYNAMIC_LOSS_SCALE
    maps = (0.1 * torch.randn(1, 17, 224, 224)).requires_grad_()
    loss = heatmap_loss(maps, torch.zeros_like(maps), torch.ones(1, 224, 224)).mean() / 32
    gradient = torch.autograd.grad(loss * INITIAL_SCALE, maps)[0]
    assert (gradient.half() == 0).float().mean() < 0.01
    assert ((gradient / INITIAL_SCALE).half() == 0).float().mean() > 0.9  # without a scale
