"""Outputs for an image and its flipped copy become equal; the rest of a step is as without it."""

from __future__ import annotations

import pytest
import torch

import dist_train
from lib.core.flips import FlipConsistency
from lib.core.trainer import StepSettings, train_step
from lib.core.views import make_view
from lib.dataset.build import build_dataset, make_dataloader
from lib.dataset.target_generators import Targets
from lib.keypoints import COCO
from lib.utils.checkpoint import save_checkpoint
from tests.helpers import network, tiny_config
from tests.runs import CPU, SMALL, SUPERNET, step_state

SWAP = torch.tensor(COCO.flip_index)


def nothing(images, outputs, targets):
    """A criterion without terms."""
    return {}


EVEN = FlipConsistency(nothing, SWAP, heatmap_factors=(1, 1), tag_factors=(1, 0))


def case(tag_maps: int = 17):
    """Outputs of two stages for two images, and targets of three people, one of them absent."""
    generator = torch.Generator().manual_seed(0)
    outputs = [
        torch.randn(2, channels, side, side, generator=generator)
        for channels, side in ((17 + tag_maps, 8), (17, 16))
    ]
    nodes = torch.zeros(2, 3, 17, 2, dtype=torch.long)
    pixel = torch.randint(0, 64, (2, 2, 17), generator=generator)
    layer = torch.arange(17) * 64 if tag_maps > 1 else 0
    nodes[:, :2, :, 0] = pixel + layer
    nodes[:, :2, :, 1] = 1
    masks = [torch.ones(2, side, side) for side in (8, 16)]
    return outputs, Targets([], masks, [nodes, nodes])


def flipped(output: torch.Tensor, offset: float = 0.0) -> torch.Tensor:
    """What a network without a preferred side answers to the flipped image."""
    joints, tags = output[:, SWAP], output[:, 17:]
    tags = tags[:, [*SWAP, *(17 + SWAP)][: tags.shape[1]]] if tags.shape[1] > 1 else tags
    return torch.cat([joints, tags + offset], dim=1).flip(3)


def terms_of(outputs, copies, targets) -> dict[str, torch.Tensor]:
    """The terms for images of which all have a copy."""
    both = [torch.cat(pair) for pair in zip(outputs, copies, strict=True)]
    return EVEN(torch.zeros(4, 3, 32, 32), both, targets)


@pytest.mark.parametrize("tag_maps", [17, 1, 34])
def test_an_answer_that_is_only_flipped_costs_nothing(tag_maps):
    outputs, targets = case(tag_maps)
    for offset in (0.0, 3.0):  # all tags of a person may move together
        terms = terms_of(outputs, [flipped(output, offset) for output in outputs], targets)
        assert set(terms) == {"flip/0", "flip_tags/0", "flip/1"}
        assert all(term.item() == pytest.approx(0, abs=1e-10) for term in terms.values())


def test_a_tag_costs_what_differs_within_its_person():
    outputs, targets = case()
    copies = [flipped(output) for output in outputs]
    nose = targets.nodes[0][0, 0, 0, 0]  # of the first person of the first image
    y, x = divmod(int(nose), 8)
    copies[0][0, 17, y, 7 - x] += 2
    terms = terms_of(outputs, copies, targets)
    # The variance of one 2 and 16 zeros, mean over two people and two images.
    assert terms["flip_tags/0"].item() == pytest.approx((4 / 17 - (2 / 17) ** 2) / 4, rel=1e-4)
    assert terms["flip/0"].item() == pytest.approx(0, abs=1e-10)


def test_heatmaps_cost_their_squared_difference_where_the_mask_is_1():
    outputs, targets = case()
    copies = [flipped(output) for output in outputs]
    copies[1][:, :, 0] += 1
    copies[1][:, :, 1] += 1
    targets.masks[1][:, 0] = 0
    terms = terms_of(outputs, copies, targets)
    assert terms["flip/1"].item() == pytest.approx(1 / 16, rel=1e-4)


def test_without_people_no_tag_costs_and_gradients_are_finite():
    outputs, targets = case()
    targets = targets._replace(nodes=[nodes[:, :0] for nodes in targets.nodes])
    outputs = [output.requires_grad_() for output in outputs]
    terms = terms_of(outputs, [flipped(output).detach() + 1 for output in outputs], targets)
    assert terms["flip_tags/0"].item() == 0
    sum(terms.values()).backward()
    assert all(torch.isfinite(output.grad).all() for output in outputs)


def test_the_criterion_within_sees_no_copies():
    outputs, targets = case()
    seen = {}

    def criterion(images, outputs, targets):
        seen.update(images=len(images), outputs=[len(output) for output in outputs])
        return {"heatmap/0": torch.tensor(1.0)}

    both = [torch.cat([output, flipped(output[:1])]) for output in outputs]
    terms = FlipConsistency(criterion, SWAP, (1, 1), (0, 0))(torch.zeros(3, 3, 8, 8), both, targets)
    assert seen == {"images": 2, "outputs": [2, 2]}
    assert terms["heatmap/0"] == 1
    assert terms["flip/1"].item() == pytest.approx(0, abs=1e-10)


# --- in a training step ---------------------------------------------------------------------

KEYS = ["LOSS.FLIP_CONSISTENCY", "1.0", "LOSS.FLIP_SHARE", "0.5"]


@pytest.fixture
def batch(coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path)
    return next(iter(make_dataloader(cfg, build_dataset(cfg))))


def test_half_of_the_images_have_a_copy(coco_root, tmp_path, batch):
    cfg = tiny_config(coco_root, tmp_path, *KEYS)
    view = make_view(batch, cfg.DATASET.INPUT_SIZE, StepSettings.from_config(cfg))
    plain = make_view(
        batch,
        cfg.DATASET.INPUT_SIZE,
        StepSettings.from_config(tiny_config(coco_root, tmp_path)),
    )
    assert len(plain.images) == len(plain.targets.masks[0]) == 4
    assert torch.equal(view.images[:4], plain.images)
    assert torch.equal(view.images[4:], plain.images[:2].flip(3))
    assert view.images.is_contiguous(memory_format=torch.channels_last)
    [images] = view.without_copies([view.images])
    assert torch.equal(images, plain.images)
    outputs = [plain.images]
    assert plain.without_copies(outputs) is outputs


def test_it_lowers_the_difference(coco_root, tmp_path, batch):
    cfg = tiny_config(coco_root, tmp_path, *KEYS, "TRAIN.LR", "0.001")
    torch.manual_seed(0)
    state, settings = step_state(cfg, network(cfg).train()), StepSettings.from_config(cfg)
    even = FlipConsistency(nothing, SWAP, (1, 1), (0, 0))
    losses = [train_step(state, even, settings, [batch]).losses for _ in range(12)]
    assert losses[-1]["flip/0"] < 0.7 * losses[0]["flip/0"]


CENTER = ["DATASET.WITH_CENTER", "True", "DATASET.NUM_JOINTS", "18", "MODEL.NUM_JOINTS", "18"]


@pytest.mark.parametrize(
    "opts",
    [
        ["MODEL.TAG_PER_JOINT", "False"],
        CENTER,
        ["FP16.ENABLED", "True"],
        ["LOSS.WITH_AE_LOSS", "(True, True)", "LOSS.FLIP_SHARE", "0.1"],
    ],
    ids=["one tag map", "center", "half precision", "tags at both stages"],
)
def test_it_trains_with(coco_root, tmp_path, opts):
    cfg = tiny_config(coco_root, tmp_path, *KEYS, *opts)
    batch = next(iter(make_dataloader(cfg, build_dataset(cfg))))
    state, criterion = step_state(cfg, network(cfg).train()), start_criterion(cfg)
    result = train_step(state, criterion, StepSettings.from_config(cfg), [batch])
    assert all(torch.isfinite(term) for term in result.losses.values())
    assert {"flip/0", "flip/1", "flip_tags/0", "heatmap/0"} < set(result.losses)
    assert len(result.outputs[0]) == len(batch.images)


def start_criterion(cfg):
    return dist_train.start_criterion(cfg, None, CPU)


def test_a_supernet_imitates_without_the_copies(coco_root, tmp_path, batch):
    cfg = tiny_config(coco_root, tmp_path, *SUPERNET, *KEYS)
    model = network(cfg, SMALL).train()
    plan, settings = dist_train.supernet_plan(cfg, model), StepSettings.from_config(cfg)
    result = train_step(
        step_state(cfg, model), start_criterion(cfg), settings, [batch], plan.archs(0), plan.imitate
    )
    assert {"flip/0", "distill/0"} < set(result.losses)


def test_a_teacher_sees_the_images_and_no_copies(coco_root, tmp_path, batch):
    cfg = tiny_config(coco_root, tmp_path, *KEYS)
    path = tmp_path / "teacher.pth.tar"
    model = network(cfg)
    save_checkpoint(
        path, state_dict=model.state_dict(), arch=model.arch.to_dict(), config=cfg.dump()
    )
    criterion = dist_train.start_criterion(cfg, str(path), CPU)
    seen = []
    teacher = criterion.criterion.teacher
    teacher.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    state = step_state(cfg, network(cfg).train())
    result = train_step(state, criterion, StepSettings.from_config(cfg), [batch])
    assert seen == [4]
    assert {"flip/0", "distill/0"} < set(result.losses)
