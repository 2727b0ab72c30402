"""Losses equal the original's recorded values and a naive loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lib.core.loss import (
    MultiLossFactory,
    TagLoss,
    heatmap_loss,
    person_sizes,
    pull_loss,
    push_loss,
    read_tags,
    size_loss,
)
from lib.dataset.target_generators import Targets
from tests.helpers import GOLDEN, tiny_config


def recorded_case(case: int):
    """Random outputs and targets, made as in tests/golden/README.md, and the recorded losses."""
    golden = np.load(GOLDEN / "losses.npz")
    rng = np.random.default_rng(case)
    sizes = (64, 128)

    def tensor(array):
        return torch.from_numpy(np.asarray(array, dtype=np.float32))

    outputs = [
        tensor(rng.standard_normal((3, c, s, s))) for c, s in zip((34, 17), sizes, strict=True)
    ]
    heatmaps = [tensor(rng.random((3, 17, s, s))) for s in sizes]
    masks = [tensor(rng.random((3, s, s)) > 0.1) for s in sizes]
    nodes = [torch.from_numpy(golden[f"joints{i}_{case}"]).long() for i in (0, 0)]
    recorded = {key: golden[f"{key}_{case}"] for key in ("type", "heat0", "heat1", "push", "pull")}
    return outputs, Targets(heatmaps, masks, nodes), recorded


@pytest.mark.parametrize("case", [0, 1])
def test_losses_equal_the_original(case):
    outputs, targets, recorded = recorded_case(case)
    for stage in (0, 1):
        per_image = heatmap_loss(
            outputs[stage][:, :17], targets.heatmaps[stage], targets.masks[stage]
        )
        np.testing.assert_allclose(per_image, recorded[f"heat{stage}"], rtol=1e-5)
    factors = (0.001, 0.0)
    criterion = MultiLossFactory(17, (1, 1), factors, factors, TagLoss(str(recorded["type"])))
    terms = criterion(None, outputs, targets)
    assert terms["push/0"].item() == pytest.approx(float(recorded["push"]), rel=1e-5)
    assert terms["pull/0"].item() == pytest.approx(float(recorded["pull"]), rel=1e-5)
    assert set(terms) == {"heatmap/0", "push/0", "pull/0", "heatmap/1"}


def naive_adaptive(predicted, target, mask, labelled):
    """One image, as nested lists: the definition of the paper, in loops."""
    total, count = 0.0, 0
    for k, (p_map, h_map) in enumerate(zip(predicted, target, strict=True)):
        for p_row, h_row, m_row in zip(p_map, h_map, mask, strict=True):
            for p, h, m in zip(p_row, h_row, m_row, strict=True):
                weight = h**0.01 * abs(1 - p) + abs(p) * (1 - h**0.01)
                total += weight * (p - h) ** 2 * m * labelled[k]
                count += 1
    return total / count


def adaptive_case():
    """Predictions, targets with zeros and ones, masks, and joints that are not labelled."""
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    predicted = torch.randn(3, 4, 6, 5, **options).requires_grad_()
    target = torch.rand(3, 4, 6, 5, **options)
    target = torch.where(target < 0.6, 0, target)
    target[:, :, 0, 0] = 1
    mask = (torch.rand(3, 6, 5, **options) > 0.3).double()
    labelled = (torch.rand(3, 4, **options) > 0.3).double()
    return predicted, target, mask, labelled


def test_the_vectorized_adaptive_loss_equals_the_loop():
    case = adaptive_case()
    expected = [naive_adaptive(*(x.tolist() for x in image)) for image in zip(*case, strict=True)]
    np.testing.assert_allclose(heatmap_loss(*case, adaptive=True).tolist(), expected)
    predicted, *others = case
    assert torch.autograd.gradcheck(
        lambda maps: heatmap_loss(maps, *others, adaptive=True), predicted
    )


def test_the_adaptive_loss_weighs_hard_pixels_and_has_finite_gradients_at_the_target():
    predicted, target, mask, _ = adaptive_case()
    exact = target.clone().requires_grad_()
    loss = heatmap_loss(exact, target, mask, adaptive=True).sum()
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(exact.grad).all()
    easy, hard = (torch.full((1, 1, 2, 2), value) for value in (0.1, 0.9))
    background, every = torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2)
    for maps, weight in ((easy, 0.1), (hard, 0.9)):
        plain = heatmap_loss(maps, background, every)
        adaptive = heatmap_loss(maps, background, every, adaptive=True)
        torch.testing.assert_close(adaptive, weight * plain)


def test_the_key_makes_every_stage_adaptive(coco_root, tmp_path):
    outputs, targets, _ = recorded_case(0)
    plain, adaptive = (
        MultiLossFactory.from_config(tiny_config(coco_root, tmp_path, "LOSS.WAHR", flag))
        for flag in ("False", "True")
    )
    terms, others = plain(None, outputs, targets), adaptive(None, outputs, targets)
    assert set(terms) == set(others)
    changed = {name for name in terms if not torch.equal(terms[name], others[name])}
    assert changed == {"heatmap/0", "heatmap/1"}


def naive_ae(tags, visible, kind):
    """One image, (P, K) lists: the definition, in loops."""
    people = []
    for row, seen in zip(tags.tolist(), visible.tolist(), strict=True):
        person = [t for t, v in zip(row, seen, strict=True) if v]
        if person:
            people.append(person)
    means = [sum(person) / len(person) for person in people]
    pull = push = 0.0
    for person, mean in zip(people, means, strict=True):
        pull += sum((t - mean) ** 2 for t in person) / len(person) / len(people)
    for i, a in enumerate(means):
        for j, b in enumerate(means):
            if i != j:
                near = math.exp(-((a - b) ** 2)) if kind == "exp" else max(0.0, 1 - abs(a - b))
                push += 0.5 * near / (len(means) * (len(means) - 1))
    return pull, push


@pytest.mark.parametrize("kind", ["exp", "max"])
def test_vectorized_ae_loss_equals_the_loop(kind):
    generator = torch.Generator().manual_seed(0)
    tags = torch.randn(40, 5, 7, generator=generator, dtype=torch.float64)
    joint_seen = torch.rand(40, 5, 7, generator=generator) > 0.4
    person_there = torch.rand(40, 5, 1, generator=generator) > 0.5
    visible = (joint_seen & person_there).double()
    expected = [naive_ae(t, v, kind) for t, v in zip(tags, visible, strict=True)]
    tags = tags[..., None]
    np.testing.assert_allclose(pull_loss(tags, visible), [pull for pull, _ in expected])
    np.testing.assert_allclose(push_loss(tags, visible, kind), [push for _, push in expected])
    assert {int((v.sum(1) > 0).sum()) for v in visible} >= {0, 1, 2, 4}


def test_each_dimension_is_pushed_apart():
    """Two people 2 apart in one dimension and equal in the other."""
    tags = torch.tensor([[[[0.0, 1.0]], [[2.0, 1.0]]]])  # (B, P, K, D)
    visible = torch.ones(1, 2, 1)
    vectors, each = (TagLoss(push_each=one).push(tags, visible).item() for one in (False, True))
    assert vectors == pytest.approx(math.exp(-4) / 2)
    assert each == pytest.approx((math.exp(-4) + 1) / 2)


def test_the_losses_of_a_config_push_each_dimension(coco_root, tmp_path):
    """As a step of training does: the key changes the push loss alone."""
    opts = ["MODEL.AE_TAG_DIMS", "2", "LOSS.PUSH_EACH_DIM"]
    outputs = [torch.rand(2, 51, 16, 16), torch.rand(2, 17, 32, 32)]
    nodes = torch.zeros(2, 3, 17, 2, dtype=torch.long)
    nodes[..., 0] = torch.randint(256, (2, 3, 17))
    nodes[..., 1] = 1
    maps = [torch.zeros_like(output[:, :17]) for output in outputs]
    targets = Targets(maps, [one[:, 0] + 1 for one in maps], [nodes, nodes])
    terms = {}
    for each in ("False", "True"):
        cfg = tiny_config(coco_root, tmp_path, *opts, each)
        terms[each] = MultiLossFactory.from_config(cfg)(None, outputs, targets)
    assert terms["True"].pop("push/0") > 1.5 * terms["False"].pop("push/0")
    assert terms["True"] == terms["False"]


@pytest.mark.parametrize("start", [0.0, 0.3])
def test_the_start_of_the_push_loss_is_its_definition(start):
    means = torch.tensor([0.0, 0.5, 0.5, -1.0], dtype=torch.float64)
    visible = torch.ones(1, 4, 3, dtype=torch.float64)
    pairs = [(a, b) for i, a in enumerate(means) for j, b in enumerate(means) if i != j]
    expected = sum(0.5 * math.exp(-((abs(a - b) + start) ** 2)) for a, b in pairs) / len(pairs)
    tags = means[None, :, None, None].expand(1, 4, 3, 1).clone().requires_grad_()
    loss = push_loss(tags, visible, start=start)
    assert loss.item() == pytest.approx(float(expected))
    loss.sum().backward()
    assert torch.isfinite(tags.grad).all()
    assert tags.grad.sum().item() == pytest.approx(0, abs=1e-12)  # symmetric: nobody drifts


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_equal_tags_part_with_a_start_and_stay_without(noise, dims):
    """Three people and one without, as at the start of a training: steps of gradient descent."""
    visible = torch.ones(1, 4, 5)
    visible[:, 3] = 0
    ends = {}
    for start in (0.0, 0.25):
        generator = torch.Generator().manual_seed(0)
        tags = noise * torch.randn(1, 4, 5, dims, generator=generator)
        tags.requires_grad_()
        for _ in range(20):
            loss = push_loss(tags, visible, start=start) + pull_loss(tags, visible)
            [gradient] = torch.autograd.grad(loss.sum(), tags)
            tags = (tags - gradient).detach().requires_grad_()
        means = tags[0, :3].mean(dim=1)
        apart = (means[:, None] - means).norm(dim=2)
        ends[start] = apart[~torch.eye(3, dtype=torch.bool)].min().item()
        assert not tags[0, 3].any() or noise
    assert ends[0.0] < 0.05
    assert ends[0.25] > 0.5


@pytest.mark.parametrize(("kind", "start"), [("exp", 0.0), ("exp", 0.2), ("max", 0.0)])
def test_the_losses_of_vectors_know_distances_alone(kind, start):
    """Tags on a line in any direction cost what their positions on the line cost."""
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(4, 5, 7, 1, generator=generator, dtype=torch.float64)
    visible = (torch.rand(4, 5, 7, generator=generator) > 0.3).double()
    direction = torch.tensor([2.0, -1, 2], dtype=torch.float64) / 3  # of length 1
    for tags in (line * direction, torch.cat([line, 0 * line], dim=3)):
        torch.testing.assert_close(pull_loss(tags, visible), pull_loss(line, visible))
        pushes = (push_loss(one, visible, kind, start) for one in (tags, line))
        torch.testing.assert_close(*pushes)


def test_tags_of_several_dimensions_are_read_map_by_map():
    """K = 2 joints, D = 3: the maps of the first dimension come first."""
    maps = torch.arange(6.0)[None, :, None, None].expand(1, 6, 4, 4)
    nodes = torch.zeros(1, 1, 2, 2, dtype=torch.long)
    nodes[0, 0, :, 0] = torch.tensor([5, 16 + 9])  # of joint 0 and joint 1
    tags, _ = read_tags(maps, nodes)
    assert tags[0, 0].tolist() == [[0, 2, 4], [1, 3, 5]]


def test_images_without_people_cost_nothing_and_keep_gradients_finite():
    for people in (0, 3):
        tag_maps = torch.randn(2, 4, 8, 8, requires_grad=True)
        tags, visible = read_tags(tag_maps, torch.zeros(2, people, 4, 2, dtype=torch.long))
        for start in (0.0, 0.25):
            loss = push_loss(tags, visible, start=start).sum() + pull_loss(tags, visible).sum()
            loss.backward(retain_graph=True)
            assert loss.item() == 0
            assert not tag_maps.grad.any()


def test_masked_pixels_do_not_count():
    predicted, target = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    mask = torch.ones(2, 8, 8)
    mask[:, :4] = 0
    other = target.clone()
    other[:, :, :4] += 10
    assert torch.equal(heatmap_loss(predicted, target, mask), heatmap_loss(predicted, other, mask))


def test_separated_tags_cost_less_than_equal_ones():
    visible = torch.ones(1, 2, 3)
    apart = torch.tensor([[[0.0] * 3, [5.0] * 3]])[..., None]
    together = torch.zeros(1, 2, 3, 1)
    assert push_loss(apart, visible).item() < 1e-6 < push_loss(together, visible).item() == 0.5
    assert pull_loss(apart, visible).item() == 0


def test_the_size_of_a_person_is_that_of_its_labelled_joints():
    """On maps of 8 rows and 10 columns: 6 columns apart, a single joint, nobody."""
    nodes = torch.zeros(1, 3, 2, 2, dtype=torch.long)
    nodes[0, 0] = torch.tensor([[3 * 10 + 2, 1], [80 + 5 * 10 + 8, 1]])
    nodes[0, 1, 0] = torch.tensor([77, 1])
    torch.testing.assert_close(person_sizes(nodes, 8, 10), torch.tensor([[0.6, 0, 0]]))


def test_a_tag_that_tells_the_size_costs_nothing_and_others_learn_it():
    """D = 4: sizes around 1/8, 3/8, 5/8, 7/8. The third person has no size."""
    sizes, visible = torch.tensor([[0.125, 0.875, 0.0]]), torch.ones(1, 3, 5)
    tags = torch.zeros(1, 3, 5, 4)
    tags[0, 0, :, 0], tags[0, 1, :, 3] = 2, -0.1
    assert size_loss(tags, visible, sizes).item() == pytest.approx(0, abs=1e-4)
    tags = torch.randn(1, 3, 5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    losses = []
    for _ in range(50):
        loss = size_loss(tags, visible, sizes)
        losses.append(loss.item())
        [gradient] = torch.autograd.grad(loss.sum(), tags)
        assert not gradient[0, 2].any()
        tags = (tags - 2 * gradient).detach().requires_grad_()
    assert losses[0] > 0.2
    assert losses[-1] < 0.05
    assert push_loss(tags[:, :2], visible[:, :2]).item() < 0.3  # of other sizes: apart


def test_nobody_has_no_size_and_finite_gradients():
    tags = torch.zeros(1, 2, 3, 4, requires_grad=True)
    loss = size_loss(tags, torch.zeros(1, 2, 3), torch.zeros(1, 2)).sum()
    [gradient] = torch.autograd.grad(loss, tags)
    assert loss.item() == 0
    assert not gradient.any()
