"""Training a supernet: what learns, at what size, and the same in all processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import dist_train
from arch_manager import ArchManager
from lib.core.distill import Imitation
from lib.core.loss import MultiLossFactory, read_tags
from lib.core.trainer import StepSettings, train_step
from lib.core.views import make_view, make_views
from lib.dataset.build import build_dataset, make_dataloader
from lib.models.arch import largest_arch
from lib.models.pose_supermobilenet import SuperLitePose
from lib.utils.dist import ALONE, Process, wrap
from tests.helpers import seeded_image, tiny_config
from tests.runs import SMALL, SUPERNET, step_state

SPACE = ArchManager(SMALL, (64, 128), (1.0, 0.5), (2,), (3,), seed=3)


@pytest.fixture
def batch(coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path)
    return cfg, next(iter(make_dataloader(cfg, build_dataset(cfg))))


def test_every_block_learns_within_fifty_steps():
    largest = largest_arch(512)
    supernet = SuperLitePose(largest, (28, 14))
    manager = ArchManager(largest, (512, 448, 384, 320, 256), (1.0, 0.75, 0.5, 0.25))
    image = seeded_image(0, 64)
    learned = {
        name: torch.zeros_like(p, dtype=torch.bool) for name, p in supernet.named_parameters()
    }
    for step in range(50):
        supernet.zero_grad()
        sum(o.square().mean() for o in supernet(image, manager.sample(step))).backward()
        for name, p in supernet.named_parameters():
            learned[name] |= p.grad != 0
    silent = [name for name, touched in learned.items() if not touched.any()]
    assert silent == []
    for stage in range(4):
        for block in range(len(largest.stages[stage].blocks)):
            assert learned[f"stage.{stage}.{block}.depth_conv.0.weight"].any()


@pytest.mark.parametrize("size", [256, 320, 384, 448, 512])
def test_a_tag_is_read_on_its_joint_at_every_resolution(coco_root, tmp_path, size):
    crop = ["DATASET.INPUT_SIZE", "512", "DATASET.OUTPUT_SIZE", "[128, 256]"]
    cfg = tiny_config(coco_root, tmp_path, *crop)
    batch = next(iter(make_dataloader(cfg, build_dataset(cfg))))
    view = make_view(batch, size, StepSettings.from_config(cfg))
    assert view.images.shape[2:] == (size, size)
    for stage, side in enumerate((size // 4, size // 2)):
        place = torch.arange(17 * side * side, dtype=torch.float64).view(1, 17, side, side)
        places, there = read_tags(
            place.expand(len(batch.images), -1, -1, -1), view.targets.nodes[stage]
        )
        shift = batch.flipped.float()[:, None, None]
        x = ((batch.joints[..., 0] + shift) * side / 512 - shift).trunc()
        y = (batch.joints[..., 1] * side / 512).trunc()
        seen = (batch.joints[..., 2] > 0) & (x >= 0) & (x < side) & (y >= 0) & (y < side)
        expected = (torch.arange(17) * side + y) * side + x
        for i in range(len(seen)):
            for p in range(seen.shape[1]):
                assert (
                    places[i, p, :, 0][there[i, p] > 0].tolist()
                    == expected[i, p][seen[i, p]].tolist()
                )


def test_views_of_one_size_are_made_once(batch):
    cfg, data = batch
    views = make_views(data, SPACE.sandwich(0, 2), StepSettings.from_config(cfg))
    assert len({view.arch for view in views}) >= 2
    assert all(view.images is views[0].images for view in views)


def test_a_sandwich_step_moves_what_only_the_largest_has(batch):
    cfg, data = batch
    torch.manual_seed(0)
    supernet = SuperLitePose(SMALL, (34, 17))
    before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    archs, state = SPACE.sandwich(0, 1), step_state(cfg, supernet)
    losses = train_step(state, criterion, settings, [data], archs, Imitation(17)).losses
    assert {"distill/0", "distill/1"} < set(losses)
    assert losses["distill/1"] > 0
    name = "stage.3.0.point_conv.0.weight"
    moved = (dict(supernet.named_parameters())[name] != before[name]).flatten(1).any(dim=1)
    assert moved[16:].all()


def test_the_largest_is_not_pulled_toward_itself(batch):
    cfg, data = batch
    state = step_state(cfg, SuperLitePose(SMALL, (34, 17)))
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    losses = train_step(state, criterion, settings, [data], [SMALL], Imitation(17)).losses
    assert not [name for name in losses if name.startswith("distill")]


# Blocks are skipped, and kernels have maps that are not used.
DEEP = replace(SMALL, stages=tuple(replace(s, blocks=((2, 7),) * 3) for s in SMALL.stages))
SKIPPING = ArchManager(DEEP, (64,), (1.0, 0.5), (2,), (7, 5), depths=(1.0, 0.5))


def train_skipping(process: Process) -> dict[str, np.ndarray]:
    """The weights after three steps that leave out parameters."""
    torch.manual_seed(0)
    supernet = SuperLitePose(DEEP, (34, 17), elastic_kernel=True)
    model = wrap(supernet, process)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        for arch in SKIPPING.sandwich(step, 1):  # a backward pass each
            outputs = model(seeded_image(step, 64), arch)
            sum(output.square().mean() for output in outputs).backward()
        optimizer.step()
    return {name: p.detach().numpy() for name, p in supernet.named_parameters()}


def test_skipped_blocks_train_in_two_processes_as_in_one(together):
    """Both have the same images, so the mean of their gradients is that of one process."""
    one, other = together(train_skipping, 2)
    for name, weight in train_skipping(ALONE).items():
        np.testing.assert_array_equal(one[name], other[name])
        np.testing.assert_allclose(one[name], weight, atol=1e-3, err_msg=name)


def one_rank(rank: int, folder: Path) -> None:
    """Three steps of a supernet on noise that differs between ranks."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    supernet = SuperLitePose(SMALL, (34, 17))
    model = torch.nn.parallel.DistributedDataParallel(supernet)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sampled = []
    for step in range(3):
        arch = SPACE.sample(step)
        sampled.append(arch.to_dict())
        optimizer.zero_grad()
        outputs = model(seeded_image(10 * rank + step, arch.img_size), arch)
        sum(output.square().mean() for output in outputs).backward()
        optimizer.step()
    weights = {name: p.detach() for name, p in supernet.named_parameters()}
    torch.save({"sampled": sampled, "weights": weights}, folder / f"rank{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_sample_and_train_the_same_network(tmp_path):
    mp.spawn(one_rank, args=(tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{r}.pth", weights_only=True) for r in (0, 1))
    assert first["sampled"] == second["sampled"]
    assert len({str(arch) for arch in first["sampled"]}) > 1
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name])


def test_the_plan_is_a_function_of_the_step(coco_root, tmp_path):
    for sampling in ("uniform", "sandwich"):
        cfg = tiny_config(coco_root, tmp_path, *SUPERNET, "SUPERNET.SAMPLING", sampling)
        plans = [dist_train.supernet_plan(cfg, SuperLitePose(SMALL, (34, 17))) for _ in range(2)]
        sampled = [[list(plan.archs(step)) for step in range(20)] for plan in plans]
        assert sampled[0] == sampled[1]
        assert len({str(archs) for archs in sampled[0]}) > 5
        assert (plans[0].imitate is None) == (sampling == "uniform")
