"""BatchNorm over all processes is BatchNorm over all images."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import dist_train
from lib.core.loss import MultiLossFactory
from lib.core.trainer import StepSettings, train_step
from lib.dataset.build import build_dataset, make_dataloader
from lib.dataset.samples import Batch
from lib.models.layers import elastic
from lib.models.layers.sync import SyncBatchNorm2d, synchronize_norms
from lib.utils.checkpoint import unwrap
from lib.utils.dist import ALONE, Process
from tests.helpers import TINY, as_opts, tiny_config
from tests.runs import SMALL, SPACE, SUPERNET, step_state

CPU = torch.device("cpu")
SHARES = (1, 3, 2)  # images of each process


def noise(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def layer_of(kind: type[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    layer = kind(5).double()
    layer.weight.data, layer.bias.data = noise(1, 5), noise(2, 5)
    return layer


def answers(layer: nn.BatchNorm2d, x: torch.Tensor, wanted: torch.Tensor) -> list[torch.Tensor]:
    """Output, all gradients and statistics, of the first four of five channels."""
    x = x.clone().requires_grad_()
    out = elastic.norm(layer, x)
    (out * wanted).sum().backward()
    grads = [x.grad, layer.weight.grad, layer.bias.grad]
    return [out.detach(), *grads, layer.running_mean, layer.running_var]


def test_shares_of_any_size_are_one_batch(together):
    """To the last digits of float64, forward and backward; nothing is approximated."""
    x, wanted = noise(3, 6, 4, 3, 5) * 7 + 100, noise(4, 6, 4, 3, 5)

    def work(process: Process) -> list[torch.Tensor]:
        local, gradient = (t.split(SHARES)[process.rank] for t in (x, wanted))
        return [t.tolist() for t in answers(layer_of(SyncBatchNorm2d), local, gradient)]

    out, grad, weight, bias, mean, var = answers(layer_of(nn.BatchNorm2d), x, wanted)
    outputs = [[torch.tensor(t, dtype=torch.float64) for t in each] for each in together(work)]

    def close(one: torch.Tensor, other: torch.Tensor) -> None:
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)

    close(torch.cat([each[0] for each in outputs]), out)
    close(torch.cat([each[1] for each in outputs]), grad)
    close(sum(each[2] for each in outputs), weight)
    close(sum(each[3] for each in outputs), bias)
    for each in outputs:
        close(each[4], mean)
        close(each[5], var)
        assert each[4][4] == 0  # the channel that did not take part


def test_evaluation_asks_nobody():
    layer, x = layer_of(SyncBatchNorm2d).eval(), noise(3, 2, 5, 3, 3)
    expected = F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)
    assert torch.equal(layer(x), expected)  # there is no process group here


def test_synchronized_layers_are_the_old_tensors_under_the_old_names():
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, momentum=0.3)))
    tensors = {name: tensor.data_ptr() for name, tensor in plain.state_dict().items()}
    synchronized = synchronize_norms(plain.eval())
    assert {n: t.data_ptr() for n, t in synchronized.state_dict().items()} == tensors
    layer = synchronized[1][0]
    assert isinstance(layer, SyncBatchNorm2d)
    assert (layer.momentum, layer.training) == (0.3, False)


def share(batch: Batch, process: Process) -> Batch:
    """This process's part of the images."""
    n = len(batch.images) // process.world_size
    part = slice(process.rank * n, (process.rank + 1) * n)
    return tree_map_only(Tensor, lambda tensor: tensor[part], batch)


def trained(cfg, arch, batch: Batch, process: Process) -> dict[str, list]:
    """The state dict after three steps on `batch`, shared among the processes."""
    dist_train.set_backends(cfg)
    model = dist_train.start_model(cfg, arch, process).train()
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    state, plan = step_state(cfg, model, process), dist_train.supernet_plan(cfg, unwrap(model))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Grad strides do not match bucket view strides")  # DDP's
        for step in range(3):
            archs = plan.archs(step) if plan else [None]
            train_step(state, criterion, settings, [share(batch, process)], archs)
    return {name: tensor.tolist() for name, tensor in unwrap(model).state_dict().items()}


@pytest.mark.parametrize(
    ("arch", "opts"),
    [(TINY, []), (SMALL, as_opts(SPACE)), (SMALL, SUPERNET)],
    ids=["plain", "supernet", "sandwich"],
)
def test_two_halves_train_the_network_that_the_whole_batch_trains(
    coco_root, tmp_path, together, arch, opts
):
    """Needs equal shares: a loss is a mean over images, and gradients are averaged over
    processes. Nothing else: each image's loss is divided by its number of people, so their number
    may differ, as it does here.
    """
    keys = ["TRAIN.OPTIMIZER", "sgd", "TRAIN.LR", "1e-2", "TRAIN.IMAGES_PER_GPU", "6"]
    cfg = tiny_config(coco_root, tmp_path, *keys, *opts, "MODEL.SYNC_BN", "True")
    batch = next(iter(make_dataloader(cfg, build_dataset(cfg))))
    people = (batch.joints[..., 2] > 0).any(dim=2).sum(dim=1)
    assert len(people) == 6
    assert people[:3].sum() != people[3:].sum()
    whole = trained(cfg, arch, batch, ALONE)
    one, other = together(lambda process: trained(cfg, arch, batch, process), 2)
    assert one == other  # statistics too: nobody's are better
    alone = together(lambda _: trained(cfg, arch, share(batch, Process(0, 2, CPU)), ALONE), 1)[0]
    # Float32 sums of another order differ by some 1e-7 of their value in each layer. Thirty layers,
    # up to three networks a step and three steps of plain SGD (which does not divide by gradients,
    # as Adam does) make some 1e-5 of that; half a batch alone is off by 0.1.
    assert worst(one, whole) < 2e-4
    assert worst(alone, whole) > 100 * 2e-4


def worst(one: dict[str, list], other: dict[str, list]) -> float:
    """The largest difference of any two numbers."""
    return max((torch.tensor(one[n]) - torch.tensor(other[n])).abs().max().item() for n in one)
