"""Extracting sub-networks: the same function, recalibrated statistics, a file with its origin."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from yacs.config import CfgNode

from arch_manager import ArchManager
from dist_train import read_teacher
from lib.config import load_config
from lib.models import build_model
from lib.models.arch import ArchSpec, uniform_arch
from lib.models.load import read_network
from lib.models.pose_mobilenet import LitePose
from lib.models.pose_supermobilenet import SuperLitePose
from lib.models.reorder import sort_channels
from lib.models.subnet import extract_subnet, supernet_of
from lib.utils.checkpoint import load_checkpoint, save_checkpoint, save_weights
from tests.helpers import ROOT, YAMLS, fill, load_weights, tiny_config, tiny_opts

LARGEST = uniform_arch(64, 16, (16, 16, 24, 32), (16, 16, 16), depths=(1, 1, 2, 1), block=(2, 3))
SPACE = ArchManager(LARGEST, (64, 128), (1.0, 0.5), (2,), (3,))
SUPER_YAML = ROOT / "experiments/coco/mobilenet/supermobile.yaml"
KEYS = ["SUPERNET.RATIOS", "[1.0, 0.5]", "SUPERNET.RESOLUTIONS", "[64, 128]"]
KEYS += "SUPERNET.EXPANSIONS [2] SUPERNET.KERNELS [3] SUPERNET.CALIBRATION_IMAGES 6".split()
ACTIVATION = ("SUPERNET.IMPORTANCE", "activation", "SUPERNET.SORTING_IMAGES", "4")
FOLDER = "output/coco_kpt/pose_supermobilenet/supermobile"


@pytest.fixture(scope="module")
def archs(tmp_path_factory) -> Path:
    """A folder with the largest architecture and a narrow one."""
    folder = tmp_path_factory.mktemp("archs")
    LARGEST.to_json(folder / "whole.json")
    SPACE.fixed_sample(128, 0.5).to_json(folder / "narrow.json")
    return folder


@pytest.fixture
def supernet(archs, coco_root, tmp_path, call) -> Path:
    """The checkpoint of a supernet trained for an epoch."""
    args = ["--cfg", str(SUPER_YAML), "--superconfig", str(archs / "whole.json")]
    done = call("dist_train", *args, *tiny_opts(coco_root, tmp_path), *KEYS)
    assert done.code == 0, done.err
    return tmp_path / FOLDER / "checkpoint.pth.tar"


def transfer(call, data: Path, out: Path, supernet: Path, *flags: str, yaml: Path = SUPER_YAML):
    opts = [*tiny_opts(data, out), *KEYS, "TEST.MODEL_FILE", str(supernet)]
    return call("weight_transfer", "--cfg", str(yaml), *flags, *opts)


def test_every_architecture_of_a_folder_is_extracted_without_a_difference(
    archs, coco_root, tmp_path, supernet, call
):
    done = transfer(call, coco_root, tmp_path, supernet, "--all", str(archs))
    assert done.code == 0, done.err
    rows = re.findall(r"^\| (\w+) \| (\S+) \| (\S+) \| (\S+) \|", done.out, re.MULTILINE)
    assert [(name, difference) for name, difference, *_ in rows] == [
        ("narrow", "0"),
        ("whole", "0"),
    ]
    assert all(re.fullmatch(r"-?\d\.\d{3}", ap) for row in rows for ap in row[2:])
    for name in ("narrow", "whole"):
        saved = load_checkpoint(tmp_path / FOLDER / f"{name}.pth.tar")
        assert ArchSpec.from_dict(saved["arch"]) == ArchSpec.from_json(archs / f"{name}.json")
        assert saved["provenance"]["supernet"] == str(supernet)
        assert saved["provenance"]["calibration_images"] == 6


def test_a_sub_network_differs_from_its_slice_in_statistics_only(
    archs, coco_root, tmp_path, supernet, call
):
    transfer(call, coco_root, tmp_path, supernet, "--superconfig", str(archs / "narrow.json"))
    model = SuperLitePose(LARGEST, (34, 17))
    load_weights(model, supernet)
    sliced = extract_subnet(model, SPACE.fixed_sample(128, 0.5)).state_dict()
    saved = load_checkpoint(tmp_path / FOLDER / "narrow.pth.tar")["state_dict"]
    changed = {name for name, tensor in saved.items() if not torch.equal(tensor, sliced[name])}
    assert changed
    assert all(name.endswith(("running_mean", "running_var")) for name in changed)


def test_a_sub_network_can_be_evaluated_and_fine_tuned(archs, coco_root, tmp_path, supernet, call):
    narrow = str(archs / "narrow.json")
    transfer(call, coco_root, tmp_path, supernet, "--superconfig", narrow, "--no-ap")
    subnet = str(tmp_path / FOLDER / "narrow.pth.tar")
    plain = ["--cfg", str(YAMLS["coco"]), "--superconfig", narrow, *tiny_opts(coco_root, tmp_path)]
    assert call("valid", *plain, "TEST.MODEL_FILE", subnet).code == 0
    for parts in ("all", "not_final", "backbone"):
        keys = ["MODEL.PRETRAINED", subnet, "MODEL.PRETRAINED_PARTS", parts]
        done = call("dist_train", *plain, *keys, "OUTPUT_DIR", str(tmp_path / parts))
        assert done.code == 0, done.err
    teacher = read_teacher(tiny_config(coco_root, tmp_path), subnet)
    assert teacher.arch == SPACE.fixed_sample(128, 0.5)


@pytest.mark.parametrize("depths", [[1.0], [1.0, 0.5], None])
def test_a_sub_network_may_skip_blocks(archs, coco_root, tmp_path, supernet, call, depths):
    """With a warning if the supernet was not trained for it, as its file says."""
    shallow, path = SPACE.fixed_sample(64, 0.5).with_numbers({"stages.2.depth": 1}), tmp_path / "x"
    shallow.to_json(path)
    saved = load_checkpoint(supernet)
    config = CfgNode.load_cfg(saved.pop("config"))
    config.SUPERNET.DEPTHS = depths
    save_checkpoint(supernet, **saved, **({"config": config.dump()} if depths else {}))
    done = transfer(call, coco_root, tmp_path, supernet, "--superconfig", str(path), "--no-ap")
    assert (done.code, done.err) == (0, "")
    assert "| x | 0 |" in done.out
    warning = "stages of [1, 1, 1, 1] blocks; trained were all [1, 1, 2, 1]"
    assert (warning in done.out) == (depths != [1.0, 0.5])


def test_without_images_a_sub_network_is_saved_with_a_warning(archs, tmp_path, supernet, call):
    narrow = str(archs / "narrow.json")
    done = transfer(call, tmp_path / "nowhere", tmp_path, supernet, "--superconfig", narrow)
    assert done.code == 0, done.err
    assert "not calibrated" in done.out
    assert "| narrow | 0 | - | - |" in done.out
    saved = load_checkpoint(tmp_path / FOLDER / "narrow.pth.tar")
    assert saved["provenance"]["calibration_images"] == 0


def test_a_published_supernet_with_maps_to_smaller_kernels_loads(tmp_path):
    published = SuperLitePose(
        uniform_arch(64, 16, (16, 16, 24, 32), (16, 16, 16), depths=(1, 1, 2, 1), block=(2, 7)),
        (34, 17),
        elastic_kernel=True,
    )
    fill(published, 1)
    assert any("Linear5x5" in name for name in published.state_dict())
    save_weights(tmp_path / "published.pth.tar", published)
    ours = SuperLitePose(published.arch, (34, 17))
    load_weights(ours, tmp_path / "published.pth.tar")
    name = "stage.2.1.depth_conv.0.weight"
    assert torch.equal(ours.state_dict()[name], published.state_dict()[name])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--superconfig"),
        (("--all", "{empty}"), "no *.json"),
        (("--superconfig", "{wide}"), "stages.3.channel is 40, the supernet has 32"),
        (("--superconfig", "{same}"), "checkpoint.pth.tar is the file of the input"),
    ],
)
def test_a_mistake_is_one_line(flags, message, coco_root, tmp_path, supernet, call):
    wide = LARGEST.to_dict()
    wide["backbone_setting"][3]["channel"] = 40
    (tmp_path / "wide.json").write_text(json.dumps(wide))
    (tmp_path / "empty").mkdir()
    LARGEST.to_json(tmp_path / "checkpoint.json")
    names = {"{empty}": str(tmp_path / "empty"), "{wide}": str(tmp_path / "wide.json")}
    names["{same}"] = str(tmp_path / "checkpoint.json")
    done = transfer(call, coco_root, tmp_path, supernet, *(names.get(f, f) for f in flags))
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert message in done.err


def test_a_network_trained_alone_is_sorted_then_sliced(archs, coco_root, tmp_path, call):
    plain = LitePose(LARGEST, (34, 17))
    fill(plain, 16)
    path = tmp_path / "plain.pth.tar"
    save_weights(path, plain)
    flags = ("--superconfig", str(archs / "narrow.json"), "--no-ap")
    done = transfer(call, coco_root, tmp_path, path, *flags, yaml=YAMLS["coco"])
    assert done.code == 0, done.err
    assert "| narrow | 0 |" in done.out
    saved = next(tmp_path.rglob("narrow.pth.tar"))
    sort_channels(plain)
    sliced = extract_subnet(supernet_of(plain), SPACE.fixed_sample(128, 0.5))
    weights = load_checkpoint(saved)["state_dict"]
    for name, parameter in sliced.named_parameters():
        assert torch.equal(weights[name], parameter), name


def test_a_sub_network_has_the_codec_of_its_network(archs, coco_root, tmp_path, call):
    """The yaml of the command names none; the AP in the table is decoded with it."""
    cfg = tiny_config(coco_root, tmp_path, "MODEL.CODEC", "unbiased")
    plain = build_model(cfg, LARGEST)
    fill(plain, 16)
    path = tmp_path / "plain.pth.tar"
    save_checkpoint(path, state_dict=plain.state_dict(), arch=LARGEST.to_dict(), config=cfg.dump())
    flags = ("--superconfig", str(archs / "narrow.json"), "--no-ap")
    done = transfer(call, coco_root, tmp_path, path, *flags, yaml=YAMLS["coco"])
    assert done.code == 0, done.err
    assert read_network(next(tmp_path.rglob("narrow.pth.tar"))).codec == "unbiased"


def test_by_activation_the_function_of_the_complete_network_stays(archs, coco_root, tmp_path, call):
    plain = LitePose(LARGEST, (34, 17))
    fill(plain, 16)
    path = tmp_path / "plain.pth.tar"
    save_weights(path, plain)
    flags = ("--superconfig", str(archs / "whole.json"), "--no-ap", *ACTIVATION)
    done = transfer(call, coco_root, tmp_path, path, *flags, yaml=YAMLS["coco"])
    assert done.code == 0, done.err
    assert "| whole | 0 |" in done.out
    weights = load_checkpoint(next(tmp_path.rglob("whole.pth.tar")))["state_dict"]
    hidden = "stage.3.0.point_conv.0.weight"
    before = plain.state_dict()[hidden]
    assert not torch.equal(weights[hidden], before)
    assert torch.equal(weights[hidden].flatten().sort().values, before.flatten().sort().values)


def test_a_slice_is_refitted_by_a_key_and_keeps_its_statistics(archs, coco_root, tmp_path, call):
    plain = LitePose(LARGEST, (34, 17))
    fill(plain, 16)
    path = tmp_path / "plain.pth.tar"
    save_weights(path, plain)
    flags = ("--superconfig", str(archs / "narrow.json"), "SUPERNET.REFIT", "True", *ACTIVATION)
    done = transfer(call, coco_root, tmp_path, path, *flags, yaml=YAMLS["coco"])
    assert done.code == 0, done.err
    assert "| AP uncalibrated | AP refitted |" in done.out
    assert "narrow.pth.tar, refitted on 4 images" in done.out
    saved = load_checkpoint(next(tmp_path.rglob("narrow.pth.tar")))
    assert saved["provenance"]["refitted"] is True
    again = tmp_path / "again"
    done = transfer(call, coco_root, again, path, *flags[:2], *ACTIVATION, yaml=YAMLS["coco"])
    other = load_checkpoint(next(again.rglob("narrow.pth.tar")))["state_dict"]
    same = {name for name in other if torch.equal(other[name], saved["state_dict"][name])}
    assert "stage.0.0.inv.1.weight" in same
    assert "stage.1.0.inv.0.weight" not in same
    assert not same & {name for name in other if name.endswith("running_mean")}


def test_sub_networks_of_a_supernet_are_not_refitted(archs, coco_root, tmp_path, supernet, call):
    flags = ("--superconfig", str(archs / "narrow.json"), "SUPERNET.REFIT", "True")
    done = transfer(call, coco_root, tmp_path, supernet, *flags)
    assert done.code == 2
    assert "is a supernet, whose sub-networks were trained" in done.err


def test_only_a_litepose_has_sub_networks(archs, coco_root, tmp_path, call):
    yaml = ROOT / "experiments/coco/efficient_hrnet/H-4.yaml"
    path = tmp_path / "hrnet.pth.tar"
    save_weights(path, build_model(load_config(yaml)))
    flags = ("--superconfig", str(archs / "narrow.json"))
    done = transfer(call, coco_root, tmp_path, path, *flags, yaml=yaml)
    assert done.code == 2
    assert "only a pose_supermobilenet has sub-networks" in done.err
