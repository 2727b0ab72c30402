"""A network is read from any file of weights; one line names what a file leaves open."""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dist_train import load_pretrained, read_teacher
from lib.config import load_config
from lib.keypoints import COCO, CROWD_POSE
from lib.models import build_model
from lib.models.arch import ArchSpec, largest_arch
from lib.models.load import read_network
from lib.models.pose_mobilenet import LitePose
from lib.models.pose_supermobilenet import SuperLitePose
from lib.utils.checkpoint import load_checkpoint, save_checkpoint, save_weights, weights_of
from tests.helpers import JOINTS, OTHER, ROOT, TINY, YAMLS, network, tiny_config

CPU = torch.device("cpu")
XS = ArchSpec.from_json(ROOT / "mobile_configs/search-XS.json")
H4 = ROOT / "experiments/crowd_pose/efficient_hrnet/H-4.yaml"
W16 = ROOT / "experiments/crowd_pose/higher_hrnet/w16.yaml"


@pytest.fixture
def cfg(tmp_path):
    return tiny_config(tmp_path, tmp_path)


@pytest.fixture
def trained(cfg, tmp_path) -> Path:
    """A checkpoint as a training leaves it."""
    return save_run(tmp_path / "run/checkpoint.pth.tar", cfg)


def save_run(path: Path, cfg, arch: ArchSpec = TINY) -> Path:
    path.parent.mkdir(exist_ok=True)
    state = network(cfg, arch, seed=1).state_dict()
    save_checkpoint(path, epoch=3, state_dict=state, arch=arch.to_dict(), config=cfg.dump())
    return path


def save_bare(path: Path, model: nn.Module) -> Path:
    save_weights(path, model)
    return path


def message(path: Path, **options) -> str:
    """The one line of the error."""
    return raised(lambda: read_network(path, **options).build(CPU))


def raised(read: Callable[[], object]) -> str:
    with pytest.raises(ValueError, match=".") as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- files that carry their settings ------------------------------------------------------


def test_a_checkpoint_says_everything(trained, cfg):
    file = read_network(trained)
    assert (file.kind, file.spec, file.codec) == ("pose_mobilenet", COCO, "reference")
    assert (file.arch, file.input_size, file.epoch) == (TINY, 64, 3)
    assert file.cfg == cfg
    assert file.recorded["MODEL"]["NAME"] == "pose_mobilenet"
    model = file.build(CPU)
    assert not model.training
    expected = network(cfg, seed=1).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_keys_win_over_what_a_checkpoint_says(trained):
    file = read_network(trained, opts=["TEST.FLIP_TEST", "False", "DATASET.INPUT_SIZE", "96"])
    assert not file.cfg.TEST.FLIP_TEST
    assert file.input_size == 96
    assert read_network(trained, input_size=128).input_size == 128


def test_an_architecture_may_have_been_trained_at_another_size(tmp_path):
    path = save_run(
        tmp_path / "c.pth.tar", tiny_config(tmp_path, tmp_path, "DATASET.INPUT_SIZE", "96")
    )
    assert read_network(path).input_size == 96
    assert read_network(path, cfg=YAMLS["coco"]).input_size == 96
    TINY.to_json(tmp_path / "tiny.json")
    file = read_network(path, cfg=YAMLS["coco"], superconfig=tmp_path / "tiny.json")
    assert file.input_size == 64


def test_a_sub_network_has_its_own_size_and_the_settings_of_its_supernet(cfg, tmp_path):
    supernet = load_config(YAMLS["coco"], ["MODEL.NAME", "pose_supermobilenet"], img_size=512)
    save_checkpoint(
        tmp_path / "sub.pth.tar",
        state_dict=network(cfg).state_dict(),
        arch=TINY.to_dict(),
        provenance={"supernet": "s.pth.tar", "config": supernet.dump()},
    )
    file = read_network(tmp_path / "sub.pth.tar")
    assert (file.kind, file.input_size, file.supernet) == ("pose_mobilenet", 64, "s.pth.tar")
    assert type(file.build(CPU)) is LitePose


@pytest.mark.parametrize("name", ["model_best.pth.tar", "final_state0.pth.tar"])
def test_weights_of_a_run_are_described_by_its_checkpoint(trained, cfg, name):
    file = read_network(save_bare(trained.with_name(name), network(cfg)))
    assert (file.arch, file.input_size, file.cfg) == (TINY, 64, cfg)


@pytest.mark.parametrize("damage", [None, b"", b"no checkpoint"])
def test_weights_of_a_run_are_described_by_its_run_card(trained, cfg, damage):
    start = {"config": json.loads(json.dumps(cfg)), "architecture": TINY.to_dict()}
    trained.with_name("run_card.json").write_text(json.dumps({"starts": [{}, start]}))
    path = save_bare(trained.with_name("model_best.pth.tar"), network(cfg))
    trained.unlink() if damage is None else trained.write_bytes(damage)
    file = read_network(path)
    assert (file.arch, file.input_size, file.cfg) == (TINY, 64, cfg)


@pytest.mark.parametrize("card", ["", "[]", "{}", '{"starts": []}', '{"starts": [{"config": 3}]}'])
def test_a_damaged_run_card_is_passed_over(trained, cfg, card):
    path = save_bare(trained.with_name("model_best.pth.tar"), network(cfg))
    trained.rename(trained.with_name("run_card.json")).write_text(card)
    assert "holds weights alone" in message(path)


def test_weights_that_do_not_fit_the_run_next_to_them_speak_for_themselves(trained, cfg):
    path = save_bare(trained.with_name("model_best.pth.tar"), network(cfg, XS))
    assert read_network(path).arch == XS
    other = save_bare(trained.with_name("downloaded.pth.tar"), network(cfg))
    assert "holds weights alone" in message(other)


# --- weights alone ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["search-XS", "prune-S"])
@pytest.mark.parametrize("data_set", ["coco", "crowd_pose"])
def test_published_weights_alone_are_enough(tmp_path, name, data_set):
    path = ROOT / f"mobile_configs/{name}.json"
    arch = ArchSpec.from_json(path)
    expected = load_config(YAMLS[data_set], img_size=arch.img_size)
    model = build_model(expected, arch)
    torch.save({f"module.1.{k}": v for k, v in model.state_dict().items()}, tmp_path / "w.pth")
    file = read_network(tmp_path / "w.pth")
    assert (file.arch, file.input_size, file.spec.name) == (arch, arch.img_size, data_set)
    for node in ("MODEL", "LOSS", "TEST"):
        assert file.cfg[node] == expected[node]
    for key in ("ROOT", "TRAIN", "TEST"):
        assert file.cfg.DATASET[key] == expected.DATASET[key]
    assert type(file.build(CPU)) is LitePose
    described = read_network(tmp_path / "w.pth", cfg=YAMLS[data_set])
    assert (described.arch, described.cfg) == (arch, expected)


def test_an_unknown_architecture_needs_its_input_size(cfg, tmp_path):
    path = save_bare(tmp_path / "w.pth.tar", network(cfg))
    assert "pass the input size: input_size=N, or DATASET.INPUT_SIZE N" in message(path)
    assert read_network(path, input_size=64).arch == TINY
    file = read_network(path, opts=["DATASET.INPUT_SIZE", "64"])
    assert (file.arch, list(file.cfg.DATASET.OUTPUT_SIZE)) == (TINY, [16, 32])
    TINY.to_json(tmp_path / "tiny.json")
    assert read_network(path, superconfig=tmp_path / "tiny.json").arch == TINY
    assert read_network(path, cfg=YAMLS["coco"]).input_size == 256
    assert read_network(path, like=cfg).input_size == 64


@pytest.mark.parametrize(
    "opts",
    [
        ["MODEL.FUSION_HEAD", "False"],
        ["MODEL.TAG_PER_JOINT", "False"],
        ["MODEL.AE_TAG_DIMS", "3"],
        ["LOSS.WITH_AE_LOSS", "[True, True]", "TEST.WITH_AE", "[True, True]"],
    ],
)
def test_the_head_is_read_from_the_tensors(tmp_path, opts):
    cfg = tiny_config(tmp_path, tmp_path, *opts)
    file = read_network(save_bare(tmp_path / "w.pth.tar", network(cfg)), input_size=64)
    for node in ("MODEL", "LOSS", "TEST"):
        assert file.cfg[node] == cfg[node]
    assert file.spec is COCO
    file.build(CPU)


def test_a_center_is_known_where_the_data_set_is_named(tmp_path):
    keys = ["DATASET.WITH_CENTER", "True", "DATASET.NUM_JOINTS", "18", "MODEL.NUM_JOINTS", "18"]
    cfg = tiny_config(tmp_path, tmp_path, *keys)
    path = save_bare(tmp_path / "w.pth.tar", network(cfg))
    assert "predicts 18 joints" in message(path, input_size=64)
    for file in (read_network(path, input_size=64, joints="coco"), read_network(path, like=cfg)):
        assert file.cfg.MODEL == cfg.MODEL
        assert file.cfg.DATASET.WITH_CENTER
        assert file.spec is COCO


def test_a_higher_hrnet_alone_needs_only_its_input_size(tmp_path):
    cfg = load_config(W16)
    path = save_bare(tmp_path / "w16.pth", build_model(cfg))
    assert "input_size=N" in message(path)
    file = read_network(path, input_size=512)
    assert (file.kind, file.arch, file.spec) == ("pose_higher_hrnet", None, CROWD_POSE)
    file.build(CPU)
    assert read_network(path, cfg=W16).cfg == cfg
    assert "pose_higher_hrnet, not a pose_mobilenet" in message(path, cfg=YAMLS["crowd_pose"])
    assert "leave out --superconfig" in message(
        path, cfg=W16, superconfig=ROOT / "mobile_configs/search-XS.json"
    )


def test_other_joints_are_asked_for_by_name(tmp_path):
    cfg = load_config(YAMLS["animal"], img_size=64)
    path = save_bare(tmp_path / "w.pth.tar", network(cfg))
    joints = cfg.MODEL.NUM_JOINTS
    text = f"predicts {joints} joints, not COCO's 17 or CrowdPose's 14; name the data set or a file"
    assert text in message(path, input_size=64)
    file = read_network(path, input_size=64, joints=JOINTS)
    assert file.spec.num_joints == joints
    assert file.spec.is_custom
    assert read_network(path, like=cfg).spec == file.spec
    assert f"predicts {joints} joints, coco has 17" in message(path, input_size=64, joints="coco")
    assert "possible: coco" in message(path, input_size=64, joints="cows")
    assert "cannot read the joints" in message(path, input_size=64, joints="none.yaml")


def test_weights_without_counters_of_batches_load(cfg, tmp_path):
    state = network(cfg, seed=1).state_dict()
    path = tmp_path / "w.pth"
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, path)
    loaded = read_network(path, input_size=64).build(CPU).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in state.items())


@pytest.mark.data
def test_the_published_network_loads_without_counters_of_batches(published_weights, tmp_path):
    """As torch's strict load_state_dict loads it; and with one weight NaN it does not."""
    whole = published_weights
    state = weights_of(load_checkpoint(whole), whole)
    few = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    assert len(state) - len(few) == 112
    torch.save(few, tmp_path / "few.pth")
    expected, model = read_network(whole).build(CPU), read_network(tmp_path / "few.pth").build(CPU)
    expected.load_state_dict(few)  # strict
    images = torch.zeros(1, 3, 64, 64)
    assert all(map(torch.equal, model(images), expected(images)))
    few["first.2.weight"].view(-1)[0] = math.nan
    torch.save(few, tmp_path / "nan.pth")
    assert "not finite: first.2.weight" in message(tmp_path / "nan.pth")


# --- supernets ----------------------------------------------------------------------------


def test_a_published_supernet_alone_is_known_by_its_kernel_maps(tmp_path):
    opts = ["MODEL.NAME", "pose_supermobilenet", "MODEL.ELASTIC_KERNEL", "True"]
    cfg = load_config(YAMLS["crowd_pose"], opts, img_size=512)
    path = save_bare(tmp_path / "super.pth", build_model(cfg))
    file = read_network(path).expect_supernet()
    assert (file.arch, file.spec) == (largest_arch(512), CROWD_POSE)
    assert type(file.build(CPU)) is SuperLitePose
    assert "pose_supermobilenet, not a pose_mobilenet" in message(path, cfg=YAMLS["crowd_pose"])
    with pytest.raises(ValueError, match=r"is a supernet; extract .* with weight_transfer\.py"):
        file.expect_subnet()


def test_without_kernel_maps_a_supernet_is_one_where_the_settings_say_so(tmp_path):
    cfg = load_config(YAMLS["coco"], ["MODEL.NAME", "pose_supermobilenet"], img_size=512)
    supernet = save_bare(tmp_path / "super.pth", build_model(cfg))
    subnet = save_bare(tmp_path / "sub.pth", build_model(cfg, XS))
    options = {"cfg": YAMLS["coco"], "opts": ["MODEL.NAME", "pose_supermobilenet"]}
    assert read_network(supernet, **options).expect_supernet().arch == largest_arch(512)
    assert "does not fit the supernet" in message(subnet, **options)
    with pytest.raises(ValueError, match="is a pose_mobilenet; only a pose_supermobilenet has"):
        read_network(supernet).expect_supernet()


# --- contradictions and files that are none -----------------------------------------------


def test_what_contradicts_the_file_is_refused(trained, cfg, tmp_path):
    OTHER.to_json(tmp_path / "other.json")
    other = {"superconfig": tmp_path / "other.json"}
    bare = save_bare(tmp_path / "w.pth.tar", network(cfg))
    for path in (trained, bare):
        assert "is of another architecture (64 px, stem 8, stages 8 8" in message(path, **other)
        assert "of another architecture" in message(path, cfg=YAMLS["coco"], **other)
    assert "predicts the 17 joints of coco" in message(trained, cfg=YAMLS["crowd_pose"])
    assert "14 joints" in message(trained, joints="crowd_pose")
    text = "predicts 17 joints, not the 14 of crowd_pose; valid.py --joints shared"
    assert text in message(bare, cfg=YAMLS["crowd_pose"])
    refused = message(trained, opts=["MODEL.FUSION_HEAD", "False"])
    assert "does not fit this model" in refused
    assert "check --cfg, --superconfig and KEY VALUE" in refused
    unbiased = ["MODEL.CODEC", "unbiased"]
    assert "trained with MODEL.CODEC reference, not unbiased" in message(trained, opts=unbiased)
    assert read_network(bare, input_size=64, opts=unbiased).codec == "unbiased"


def test_codec_and_tags_are_those_of_the_weights_where_a_yaml_does_not_name_them(tmp_path):
    keys = ("MODEL.CODEC", "unbiased", "MODEL.AE_TAG_DIMS", "2")
    path = save_run(tmp_path / "run/checkpoint.pth.tar", tiny_config(tmp_path, tmp_path, *keys))
    silent, naming = YAMLS["coco"], tmp_path / "naming.yaml"
    text = silent.read_text(encoding="utf-8")
    naming.write_text(text.replace("MODEL:\n", "MODEL:\n  CODEC: reference\n"), encoding="utf-8")
    read = read_network(path, cfg=silent, input_size=64)
    assert (read.codec, read.cfg.MODEL.AE_TAG_DIMS) == ("unbiased", 2)
    assert read_network(path, cfg=silent, opts=keys[:2]).codec == "unbiased"
    expected = "was trained with MODEL.CODEC unbiased, not reference; leave the key out"
    assert expected in message(path, cfg=naming)
    assert expected in message(path, cfg=silent, opts=["MODEL.CODEC", "reference"])
    tags = message(path, cfg=silent, opts=["MODEL.AE_TAG_DIMS", "1"])
    assert "was trained with MODEL.AE_TAG_DIMS 2, not 1" in tags


@pytest.mark.parametrize("content", [None, b"", b"some text\n", b"\x89PNG\r\n", b"PK\x03\x04"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "w.pth.tar"
    if content is not None:
        path.write_bytes(content)
    assert f"{path}" in message(path)


def test_a_folder_or_other_tensors_are_named(tmp_path):
    assert f"{tmp_path}" in message(tmp_path)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "w.pth")
    assert "w.pth match no known network" in message(tmp_path / "w.pth")
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    assert "holds no state dict; its keys: epoch" in message(tmp_path / "w.pth")


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize("record", ["checkpoint", "sub-network"])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, "is not yaml, line 3"),
        ("!!python/object/apply:os.system ['exit 1']", "is not yaml, line 1"),
        ("MODEL: [", "is not yaml, line 1"),
        ("- a list", "holds no keys"),
        ("x" * 10**6, "characters"),
        (["DATASET", "coco"], "is a list, not a str"),
        (5, "is an int, not a str"),
        ("MODEL: 3", "MODEL holds no keys"),
        ("DATASET: [1]", "DATASET holds no keys"),
    ],
)
def test_a_config_in_a_file_that_is_none_is_named(trained, text, problem, record):
    """By every reader of weights, with and without --cfg: see lib/utils/recorded.py."""
    saved = load_checkpoint(trained)
    del saved["config"]
    where = {"config": text} if record == "checkpoint" else {"provenance": {"config": text}}
    save_checkpoint(trained, **saved, **where)
    cfg = tiny_config(trained.parent, trained.parent, "MODEL.PRETRAINED", str(trained))
    for read in (
        lambda: message(trained),
        lambda: message(trained, cfg=YAMLS["coco"]),
        lambda: raised(lambda: load_pretrained(cfg, network(cfg))),
        lambda: raised(lambda: read_teacher(cfg, trained)),
    ):
        line = read()
        assert problem in line
        assert str(trained) in line


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"epoch": torch.zeros(())}, "epoch in {} is a Tensor, not an int"),
        ({"epoch": "3"}, "epoch in {} is a str, not an int"),
        ({"provenance": [1]}, "provenance in {} is a list, not a dict"),
        ({"provenance": {"supernet": 3}}, "supernet in {} is an int, not a str"),
        ({"config": "DATASET: {DATASET: 5}"}, "DATASET.DATASET"),
        ({"config": "DATASET: {INPUT_SIZE: [1]}"}, "INPUT_SIZE"),
        ({"config": "MODEL: {CODEC: [1]}"}, "CODEC"),
        ({"config": "MODEL: {EXTRA: 3}"}, "MODEL.EXTRA"),
        ({"state_dict": {1: torch.zeros(1)}}, "holds no state dict"),
        ({"state_dict": {"first.0.0.weight": 1}}, "holds no state dict"),
        ({"state_dict": {}}, "holds no state dict"),
        ({"state_dict": [torch.zeros(1)]}, "holds no state dict"),
    ],
)
def test_a_field_of_another_type_is_named(trained, fields, problem):
    save_checkpoint(trained, **{**load_checkpoint(trained), **fields})
    assert problem.format(trained) in message(trained)


HIDDEN = "stage.0.0.depth_conv.0.weight"


@pytest.mark.parametrize(
    "shapes",
    [
        {"first.2.weight": (30_000,), HIDDEN: (60_000, 1, 3, 3)},  # 2.4 MB that describe 7.2 GB
        {"first.2.weight": (0,)},
        {"first.2.weight": ()},
        {"first.2.weight": (100_000,)},
        {HIDDEN: (16, 1, 7)},
        {HIDDEN: (60_000, 1, 7, 7)},
        {"final_refined.0.conv.3.weight": (0, 1, 1, 1)},
        {"deconv_refined.0.weight": (1, 1, 60_000, 1)},
    ],
)
def test_tensors_of_any_shape_are_one_line_and_take_no_memory(cfg, tmp_path, shapes):
    odd = {name: torch.zeros(shape) for name, shape in shapes.items()}
    torch.save(network(cfg).state_dict() | odd, tmp_path / "w.pth")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB
    assert f"{tmp_path / 'w.pth'}" in message(tmp_path / "w.pth", input_size=64)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


@pytest.mark.parametrize("path", [YAMLS["coco"], W16, H4])
def test_a_network_is_built_without_memory_first(path):
    """So all of its tensors are in its state dict, which fills them."""
    with torch.device("meta"):
        model = build_model(load_config(path))
    assert {name for name, _ in model.named_buffers()} <= set(model.state_dict())
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def test_a_network_that_is_not_finite_is_refused(trained):
    saved = load_checkpoint(trained)
    saved["state_dict"]["first.2.weight"][0] = math.nan
    save_checkpoint(trained, **saved)
    assert "not finite: first.2.weight, 1 of" in message(trained)


@pytest.mark.parametrize("arch", [{"img_size": 64}, "tiny", [1], torch.zeros(2)])
def test_a_damaged_architecture_in_a_file_is_named(trained, cfg, arch):
    save_checkpoint(trained, state_dict={"a": torch.zeros(1)}, arch=arch, config=cfg.dump())
    line = message(trained)
    assert f"the architecture in {trained}" in line or f"arch in {trained} is a" in line
