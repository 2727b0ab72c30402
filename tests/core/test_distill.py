"""A teacher adds terms and changes the gradient, and is not trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dist_train import flip_index, read_teacher, start_criterion
from lib.config import load_config
from lib.core.distill import Distillation, resized, tag_distance
from lib.core.images import resize_maps
from lib.core.loss import MultiLossFactory, heatmap_loss
from lib.core.trainer import StepSettings, train_step
from lib.core.views import make_view
from lib.dataset.build import build_dataset, make_dataloader
from lib.keypoints import keypoints_of
from lib.models import build_model
from lib.models.arch import uniform_arch
from lib.utils.checkpoint import save_checkpoint, save_weights
from tests.helpers import ROOT, TINY, fill, tiny_config
from tests.runs import CPU, step_state

LARGER = uniform_arch(96, 8, (8, 16, 16, 24), (16, 8, 8), depths=(1, 1, 1, 1), block=(2, 3))


@pytest.fixture
def cfg(coco_root, tmp_path):
    return tiny_config(coco_root, tmp_path)


@pytest.fixture
def teacher(cfg, tmp_path):
    """A larger network, from the checkpoint `teacher.pth.tar`."""
    model = build_model(cfg, LARGER)
    fill(model, 3)
    path = tmp_path / "teacher.pth.tar"
    save_checkpoint(path, state_dict=model.state_dict(), arch=LARGER.to_dict())
    return read_teacher(cfg, path).build(CPU).requires_grad_(False)


@pytest.fixture
def batch(cfg):
    return next(iter(make_dataloader(cfg, build_dataset(cfg))))


@pytest.fixture
def view(cfg, batch):
    return make_view(batch, cfg.DATASET.INPUT_SIZE, StepSettings.from_config(cfg))


def gradient(cfg, criterion, view) -> tuple[dict, dict]:
    """Terms, and the gradient of every parameter."""
    model = build_model(cfg, TINY)
    fill(model, 1)
    terms = criterion(view.images, model(view.images), view.targets)
    sum(terms.values()).backward()
    return terms, {name: p.grad for name, p in model.named_parameters()}


def test_a_checkpoint_holds_the_architecture_of_the_teacher(cfg, teacher, tmp_path):
    network = read_teacher(cfg, tmp_path / "teacher.pth.tar")
    assert (network.arch, network.input_size) == (LARGER, 96)


def test_weights_alone_teach_at_the_size_of_the_student(cfg, tmp_path):
    """As a state dict does not hold the resolution of its training."""
    save_weights(tmp_path / "w.pth.tar", build_model(cfg, LARGER))
    network = read_teacher(cfg, tmp_path / "w.pth.tar")
    assert network.arch == replace(LARGER, img_size=cfg.DATASET.INPUT_SIZE)


@pytest.mark.parametrize("yaml", ["higher_hrnet/w16.yaml", "efficient_hrnet/H-4.yaml"])
def test_a_network_without_an_architecture_file_teaches_from_its_settings(
    yaml, coco_root, crowd_pose_root, tmp_path
):
    """Of either kind of network to the other."""
    path = tmp_path / "checkpoint.pth.tar"
    student = tiny_config(crowd_pose_root, tmp_path, data_set="crowd_pose")
    other = load_config(ROOT / "experiments/crowd_pose" / yaml, ["DATASET.INPUT_SIZE", "96"])
    model = build_model(other)
    save_checkpoint(path, state_dict=model.state_dict(), arch=None, config=other.dump())
    network = read_teacher(student, path)
    assert (network.arch, network.input_size) == (None, 96)
    image = torch.zeros(1, 3, 64, 64).to(memory_format=torch.channels_last)  # as in training
    for output, expected in zip(network.build(CPU)(image), model.eval()(image), strict=True):
        assert torch.equal(output, expected)
    small = build_model(student, TINY).state_dict()
    save_checkpoint(path, state_dict=small, arch=TINY.to_dict(), config=student.dump())
    assert read_teacher(other, path).arch == TINY
    with pytest.raises(ValueError, match=r"has MODEL\.NUM_JOINTS 14, the student 17"):
        read_teacher(tiny_config(coco_root, tmp_path), path)


def test_settings_from_before_a_key_existed_still_teach(cfg, tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    state = build_model(cfg, TINY).state_dict()
    config = cfg.dump().replace("FUSION_HEAD: true", "").replace("CODEC: reference", "")
    save_checkpoint(path, state_dict=state, arch=TINY.to_dict(), config=config)
    assert read_teacher(cfg, path).build(CPU)


def test_the_input_of_a_teacher_of_another_codec_moves_by_half_a_pixel(coco_root, tmp_path):
    """Weights alone are of the reference codec, as the published ones, whatever the student has."""
    configs = {
        codec: tiny_config(coco_root, tmp_path, "MODEL.CODEC", codec)
        for codec in ("reference", "unbiased")
    }
    paths = {}
    for codec, config in configs.items():
        model, paths[codec] = build_model(config, TINY), tmp_path / f"{codec}.pth.tar"
        saved = {"state_dict": model.state_dict(), "arch": TINY.to_dict()}
        save_checkpoint(paths[codec], **saved, config=config.dump())
    paths["alone"] = tmp_path / "weights.pth.tar"
    save_weights(paths["alone"], model)

    def shift(student: str, teacher: str) -> float:
        return start_criterion(configs[student], str(paths[teacher]), CPU).shift

    assert shift("unbiased", "reference") == shift("unbiased", "alone") == 0.5
    assert shift("reference", "unbiased") == -0.5
    assert shift("reference", "reference") == shift("unbiased", "unbiased") == 0
    assert shift("reference", "alone") == 0


def test_resizing_with_a_shift_moves_the_content():
    """A ramp of slope 1 along x is half a pixel lower after half a pixel to the right."""
    ramp = torch.arange(16.0).expand(2, 3, 16, 16)
    torch.testing.assert_close(resized(ramp, 16, 0.5)[..., 1:], ramp[..., 1:] - 0.5)
    torch.testing.assert_close(resized(ramp.mT, 16, 0.5)[:, :, 1:], ramp.mT[:, :, 1:] - 0.5)
    torch.testing.assert_close(resized(ramp, 16, 1)[..., 1:], ramp[..., :-1])
    twice = resize_maps(ramp, (32, 32))
    torch.testing.assert_close(resized(ramp, 32, 1)[..., 3:-1], twice[..., 2:-2])
    assert torch.equal(resized(ramp, 16), ramp)


def test_the_maps_of_the_shifted_teacher_fit_unbiased_targets_best(
    data_root, published_weights, tmp_path
):
    """The published M (reference codec) on 24 real crops, unmoved and moved either way.

    A whole pixel is left out: on MPII it fits about as well as half of one.
    """
    keys = {
        "DATASET.ROOT": data_root / "mpii",
        "DATASET.MIX": [],
        "DATASET.INPUT_SIZE": 256,
        "MODEL.CODEC": "unbiased",
        "TEACHER.INPUT_SIZE": 256,
        "TRAIN.IMAGES_PER_GPU": 24,
        "WORKERS": 0,
        "OUTPUT_DIR": tmp_path,
    }
    opts = [str(word) for pair in keys.items() for word in pair]
    cfg = load_config(ROOT / "experiments/crowd_pose/mobilenet/shrink.yaml", opts)
    batch = next(iter(make_dataloader(cfg, build_dataset(cfg))))
    view = make_view(batch, 256, StepSettings.from_config(cfg))
    criterion = start_criterion(cfg, str(published_weights), CPU)
    assert criterion.shift == 0.5

    errors: dict[float, list[float]] = {}  # of both stages
    for shift in (-0.5, 0, 0.5):
        criterion.shift = shift
        maps = [output[:, : cfg.MODEL.NUM_JOINTS] for output in criterion.teacher_maps(view.images)]
        stages = zip(maps, view.targets.heatmaps, view.targets.masks, strict=True)
        errors[shift] = [
            float(heatmap_loss(heatmaps, target, mask).mean()) for heatmaps, target, mask in stages
        ]
    for stage in (0, 1):
        assert min(errors, key=lambda shift: errors[shift][stage]) == 0.5, errors


def test_a_teacher_adds_terms_and_changes_the_gradient(cfg, teacher, view):
    criterion = MultiLossFactory.from_config(cfg)
    plain, before = gradient(cfg, criterion, view)
    taught, after = gradient(cfg, Distillation(criterion, teacher, LARGER.img_size), view)
    assert set(taught) - set(plain) == {"distill/0", "distill/1"}
    assert all(torch.equal(taught[name], plain[name]) for name in plain)
    assert all(taught[name] > 0 for name in ("distill/0", "distill/1"))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_log_says_that_keys_of_a_teacher_need_one(coco_root, tmp_path, caplog):
    """Only where a key differs from its default: as in modern.yaml without --teacher."""
    caplog.set_level("INFO")
    start_criterion(tiny_config(coco_root, tmp_path), None, CPU)
    assert not caplog.records
    start_criterion(tiny_config(coco_root, tmp_path, "TEACHER.SHARE", "0.5"), None, CPU)
    assert [record.getMessage() for record in caplog.records] == [
        "TEACHER.* has no effect: --teacher names no weights"
    ]


def test_a_network_that_is_its_own_teacher_learns_nothing_from_it(cfg, view):
    model = build_model(cfg, TINY)
    fill(model, 1)
    model.eval().requires_grad_(False)
    criterion = Distillation(MultiLossFactory.from_config(cfg), model, TINY.img_size)
    terms = criterion(view.images, model(view.images), view.targets)
    assert terms["distill/0"] == terms["distill/1"] == 0


def test_tags_are_distilled_by_a_key_up_to_a_constant(cfg, view):
    """A teacher with other tags adds a term; one whose tags are the student's plus 3 adds none."""
    model = build_model(cfg, TINY).eval()
    fill(model, 1)
    outputs = model(view.images)
    joints = cfg.MODEL.NUM_JOINTS

    def terms_of(change) -> dict:
        moved = [output.detach().clone() for output in outputs]
        change(moved[0][:, joints:])
        criterion = MultiLossFactory.from_config(cfg)
        distillation = Distillation(criterion, lambda _: moved, TINY.img_size, tags_factor=0.5)
        return distillation(view.images, outputs, view.targets)

    assert "distill_tags/1" not in terms_of(lambda tags: tags)  # that stage has no tag maps
    assert terms_of(lambda tags: tags.add_(3))["distill_tags/0"] < 1e-10
    assert terms_of(lambda tags: tags[:, 1:].add_(3))["distill_tags/0"] > 0.01


def test_the_distance_of_tags_by_hand():
    """Person 0 at joints 0 and 1, person 1 at joint 0; tags 1, 3, 8 against 1, 1, 3."""
    nodes = torch.zeros(1, 3, 2, 2, dtype=torch.long)
    nodes[0, 0, 0], nodes[0, 0, 1], nodes[0, 1, 0] = (
        torch.tensor(pair) for pair in ((0, 1), (5, 1), (2, 1))
    )
    ours, theirs = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    for maps, values in ((ours, (1, 3, 8)), (theirs, (1, 1, 3))):
        maps.view(-1)[[0, 5, 2]] = torch.tensor(values, dtype=torch.float32)
    # differences 0, 2, 5; their mean 7/3; squares 49/9, 1/9, 64/9
    expected = torch.tensor([(49 + 1 + 64) / 9 / 3])
    torch.testing.assert_close(tag_distance(ours, theirs, nodes), expected)
    nobody = torch.zeros_like(nodes)
    assert tag_distance(ours, theirs, nobody) == 0


@pytest.mark.parametrize(("share", "count"), [("1.0", 4), ("0.5", 2), ("0.3", 2), ("0.01", 1)])
def test_a_share_of_the_images_is_taught(share, count, cfg, teacher, view, tmp_path):
    """The teacher sees the first of them; their terms are as in a batch of them alone."""
    cfg = cfg.clone()
    cfg.merge_from_list(["TEACHER.SHARE", share, "TEACHER.TAGS_FACTOR", "1.0"])
    criterion = start_criterion(cfg, str(tmp_path / "teacher.pth.tar"), CPU)
    sizes = []
    criterion.teacher.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    outputs = build_model(cfg, TINY)(view.images)
    terms = criterion(view.images, outputs, view.targets)
    assert (len(view.images), sizes) == (4, [count])

    criterion.share = 1.0
    first = [output[:count] for output in outputs]
    alone = criterion(view.images[:count], first, view.targets.first(count))
    plain = criterion.criterion(view.images, outputs, view.targets)
    taught = {"distill/0", "distill/1", "distill_tags/0"}
    assert set(terms) - set(plain) == taught
    for name, term in terms.items():
        torch.testing.assert_close(term, alone[name] if name in taught else plain[name])


def test_half_precision_computes_what_autocast_would(cfg, teacher, view, tmp_path):
    """Weights that are stored in half precision, and are not converted again in each step."""
    cfg = cfg.clone()
    cfg.merge_from_list(["TEACHER.HALF_PRECISION", "True"])
    criterion = start_criterion(cfg, str(tmp_path / "teacher.pth.tar"), CPU)
    assert {p.dtype for p in criterion.teacher.parameters()} == {torch.bfloat16}
    maps = criterion.teacher_maps(view.images)
    assert {output.dtype for output in maps} == {torch.float32}
    cfg.merge_from_list(["TEACHER.HALF_PRECISION", "False"])
    full = start_criterion(cfg, str(tmp_path / "teacher.pth.tar"), CPU)
    with torch.autocast("cpu", torch.bfloat16):
        expected = full.teacher_maps(view.images)
    for output, other in zip(maps, expected, strict=True):
        assert torch.equal(output, other)


def test_half_precision_changes_the_teacher_by_rounding_alone(cfg, teacher, view):
    criterion = MultiLossFactory.from_config(cfg)
    outputs = build_model(cfg, TINY)(view.images)
    whole, half = (
        Distillation(criterion, teacher.to(dtype), LARGER.img_size, dtype=dtype)(
            view.images, outputs, view.targets
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert whole["distill/1"] != half["distill/1"]
    for name, term in whole.items():
        torch.testing.assert_close(half[name], term, rtol=0.02, atol=0)


def test_training_leaves_the_teacher_untouched(cfg, teacher, batch):
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    model = build_model(cfg, TINY).train()
    criterion = Distillation(MultiLossFactory.from_config(cfg), teacher, LARGER.img_size)
    state, settings = step_state(cfg, model), StepSettings.from_config(cfg)
    for _ in range(2):
        train_step(state, criterion, settings, [batch])
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[name], t) for name, t in teacher.state_dict().items())


def test_the_teacher_gets_images_of_its_own_size(cfg, teacher, view):
    shapes = []
    teacher.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    criterion = Distillation(MultiLossFactory.from_config(cfg), teacher, LARGER.img_size)
    criterion(view.images, build_model(cfg, TINY)(view.images), view.targets)
    assert view.images.shape[2:] == (64, 64)
    assert shapes == [(len(view.images), 3, 96, 96)]


def test_a_mask_hides_the_teacher_too(cfg, teacher, view):
    masked = view.targets._replace(masks=[torch.zeros_like(mask) for mask in view.targets.masks])
    criterion = Distillation(MultiLossFactory.from_config(cfg), teacher, LARGER.img_size)
    terms = criterion(view.images, build_model(cfg, TINY)(view.images), masked)
    assert terms["distill/0"] == terms["distill/1"] == 0


def test_a_teacher_with_flip_test_answers_alike_to_flipped_crops(cfg, teacher, view):
    criterion, joints = MultiLossFactory.from_config(cfg), cfg.MODEL.NUM_JOINTS
    swap = flip_index(cfg, CPU)

    def maps(index: torch.Tensor | None, crops: torch.Tensor) -> list[torch.Tensor]:
        distillation = Distillation(criterion, teacher, LARGER.img_size, flip_index=index)
        return distillation.teacher_maps(crops)

    crops = resize_maps(view.images, (96, 96))
    plain, both = maps(None, crops), maps(swap, crops)
    flipped, both_flipped = maps(None, crops.flip(3)), maps(swap, crops.flip(3))
    for stage in (0, 1):
        back, both_back = flipped[stage].flip(3)[:, swap], both_flipped[stage].flip(3)[:, swap]
        heatmaps = plain[stage][:, :joints]
        assert not torch.allclose(heatmaps, back[:, :joints], rtol=1e-3)
        torch.testing.assert_close(both[stage][:, :joints], (heatmaps + back) / 2)
        torch.testing.assert_close(both[stage][:, :joints], both_back)
    other = flipped[0].flip(3)[:, joints:][:, swap]
    assert torch.equal(both[0][:, joints:], torch.cat([plain[0][:, joints:], other], dim=1))  # tags
    assert both[1].shape[1] == joints


def test_twice_the_dimensions_learn_the_tags_of_a_flip_test(coco_root, teacher, tmp_path):
    """Such a student costs nothing if it answers as the teacher's flip test does."""
    path = str(tmp_path / "teacher.pth.tar")
    keys = ("TEACHER.TAGS_FACTOR", "1", "MODEL.AE_TAG_DIMS")
    student = tiny_config(coco_root, tmp_path, *keys, "2", "TEACHER.FLIP_TEST", "True")
    view = make_view(
        next(iter(make_dataloader(student, build_dataset(student)))),
        student.DATASET.INPUT_SIZE,
        StepSettings.from_config(student),
    )
    criterion = start_criterion(student, path, CPU)
    maps = [
        resize_maps(output, (side, side))
        for output, side in zip(criterion.teacher_maps(view.images), (16, 32), strict=True)
    ]
    assert maps[0].shape[1] == 3 * student.MODEL.NUM_JOINTS
    terms = criterion(view.images, maps, view.targets)
    assert max(terms["distill_tags/0"], terms["distill/0"]) < 1e-10
    maps[0][:, -student.MODEL.NUM_JOINTS + 1 :] += 3  # all but one joint of the second dimension
    assert criterion(view.images, maps, view.targets)["distill_tags/0"] > 0.01
    for dims, flip in (("2", "False"), ("3", "True"), ("4", "True")):
        other = tiny_config(coco_root, tmp_path, *keys, dims, "TEACHER.FLIP_TEST", flip)
        with pytest.raises(ValueError, match=f"has MODEL.AE_TAG_DIMS 1, the student {dims}"):
            read_teacher(other, path)


def test_the_flip_test_of_the_teacher_is_a_key(cfg, teacher, tmp_path):
    path = str(tmp_path / "teacher.pth.tar")
    for value, index in (("False", None), ("True", keypoints_of(cfg, is_train=True).flip_index)):
        changed = cfg.clone()
        changed.merge_from_list(["TEACHER.FLIP_TEST", value])
        found = start_criterion(changed, path, CPU).flip_index
        assert (found if index is None else found.tolist()) == index
