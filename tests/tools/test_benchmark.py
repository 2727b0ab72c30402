"""Benchmarks run on a small scale and report what they say they do; times are never judged here."""

from __future__ import annotations

import json

import pytest
import torch
from yacs.config import CfgNode

from lib.codec import CODECS
from lib.config import load_config
from lib.utils.checkpoint import save_checkpoint
from tests.helpers import TINY, YAMLS, as_opts, network, tiny_config, tiny_opts
from tools.benchmark import __main__ as benchmark
from tools.benchmark import train as benchmark_train
from tools.paper.codec_ceiling import ceiling

SPACE = as_opts(
    {
        "SUPERNET.RATIOS": [1.0, 0.5],
        "SUPERNET.RESOLUTIONS": [64],
        "SUPERNET.EXPANSIONS": [2],
        "SUPERNET.KERNELS": [3],
    }
)


def test_decode_times_both_decoders_on_every_scene(capsys):
    benchmark.main(
        ["decode", "--json", "--rounds", "1", "--people", "0", "3", "--sizes", "32x48", "64x64"]
    )
    report = json.loads(capsys.readouterr().out)
    rows = [(row["map"], row["people"]) for row in report["rows"]]
    assert rows == [("32x48", 0), ("32x48", 3), ("64x64", 0), ("64x64", 3)]
    assert all(row["ours_ms"] > 0 and row["specification_ms"] > 0 for row in report["rows"])


def test_decode_prints_a_table_and_the_growth(capsys):
    benchmark.main(["decode", "--rounds", "1", "--people", "0", "2", "--sizes", "32x48"])
    out = capsys.readouterr().out
    assert "| 32x48 | 2 |" in out
    assert "ms per person" in out


@pytest.mark.parametrize("name", ["pose_mobilenet", "pose_supermobilenet"])
def test_train_times_three_kinds_of_the_same_step(coco_root, tmp_path, capsys, name):
    TINY.to_json(tmp_path / "tiny.json")
    opts = [*tiny_opts(coco_root, tmp_path), "MODEL.NAME", name, *SPACE]
    args = ["--json", "--superconfig", str(tmp_path / "tiny.json"), "--batch", "2", "--steps", "2"]
    benchmark.main(["train", *args, *opts])
    report = json.loads(capsys.readouterr().out)
    assert list(report["ms_a_picture"]) == ["plain", "plain network", "ours"]
    assert all(bound > 0 for bound in report["bounds_ms_a_picture"].values())
    assert report["ms_a_picture"]["plain"] == pytest.approx(
        report["speed_up"]["plain"] * report["ms_a_picture"]["ours"]
    )


def test_keys_are_measured_against_the_settings_without_them(coco_root, tmp_path, capsys):
    TINY.to_json(tmp_path / "tiny.json")
    args = ["--superconfig", str(tmp_path / "tiny.json"), "--batch", "2", "--steps", "2"]
    keys = ["LOSS.WAHR True", "DATASET.FLIP 0 LOSS.WAHR True"]
    added = [word for one in keys for word in ("--with", one)]
    benchmark.main(["keys", "--json", *args, *added, *tiny_opts(coco_root, tmp_path)])
    out = capsys.readouterr().out
    rows = json.loads(out[out.index("{") :])["rows"]
    assert [row["keys"] for row in rows] == ["without", *keys]
    assert rows[0]["samples"] == rows[0]["step"] == 1
    assert all(row["ms_a_sample"] > 0 and row["ms_a_step"] > 0 for row in rows)


@pytest.mark.parametrize("kind", ["keys", "memory", "train"])
def test_steps_are_measured_with_the_settings_of_cudnn(
    kind, coco_root, tmp_path, capsys, monkeypatch
):
    for name, before in (("benchmark", True), ("deterministic", False)):
        monkeypatch.setattr(torch.backends.cudnn, name, before)
    TINY.to_json(tmp_path / "tiny.json")
    args = ["--superconfig", str(tmp_path / "tiny.json"), "--batch", "1", "--steps", "1"]
    keys = ["CUDNN.BENCHMARK", "False", "CUDNN.DETERMINISTIC", "True"]
    benchmark.main([kind, *args, *tiny_opts(coco_root, tmp_path), *keys])
    assert not torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.deterministic


def test_a_teacher_is_measured_with_its_keys_alone(coco_root, tmp_path, capsys, monkeypatch):
    teachers, start = [], benchmark_train.dist_train.start_criterion

    def record(cfg: CfgNode, teacher: str | None, device: torch.device) -> torch.nn.Module:
        teachers.append((cfg.TEACHER.INPUT_SIZE, teacher))
        return start(cfg, teacher, device)

    monkeypatch.setattr(benchmark_train.dist_train, "start_criterion", record)
    TINY.to_json(tmp_path / "tiny.json")
    cfg, path = tiny_config(coco_root, tmp_path), tmp_path / "teacher.pth.tar"
    state = network(cfg).state_dict()
    save_checkpoint(path, state_dict=state, arch=TINY.to_dict(), config=cfg.dump())
    args = ["--superconfig", str(tmp_path / "tiny.json"), "--batch", "1", "--steps", "1"]
    added = ["--with", "TEACHER.INPUT_SIZE 128", "--with", "SEED 0"]
    opts = tiny_opts(coco_root, tmp_path)
    benchmark.main(["keys", *args, *added, "--teacher", str(path), *opts])
    assert teachers == [(0, None), (128, str(path)), (0, None)]
    with pytest.raises(ValueError, match="needs the weights of a teacher: give --teacher FILE"):
        benchmark.main(["keys", *args, *added, *opts])


def test_both_kinds_of_step_learn_the_same(coco_root, tmp_path):
    """So the benchmark compares two ways to the same weights."""
    opts = ["DATASET.INPUT_SIZE", "64", "DATASET.OUTPUT_SIZE", "[16, 32]"]
    cfg = tiny_config(coco_root, tmp_path, *opts)
    samples = benchmark_train.random_samples(cfg, 3)
    torch.manual_seed(0)
    losses = {}
    for kind in (benchmark_train.plain_step, benchmark_train.our_step):
        step = kind(cfg, TINY, samples, torch.device("cpu"))
        losses[kind.__name__] = [step(i) for i in range(3)]
    torch.testing.assert_close(*losses.values(), rtol=1e-4, atol=1e-6)


def test_a_checkpoint_alone_names_the_network(coco_root, tmp_path, capsys):
    """Even where the weights that it was trained from are gone."""
    cfg = tiny_config(coco_root, tmp_path, "MODEL.PRETRAINED", "gone.pth.tar")
    path = tmp_path / "checkpoint.pth.tar"
    state = network(cfg).state_dict()
    save_checkpoint(path, state_dict=state, arch=TINY.to_dict(), config=cfg.dump())
    benchmark.main(["train", "--model", str(path), "--batch", "1", "--steps", "1"])
    assert f"{path}, batch 1 at 64 px" in capsys.readouterr().out


def test_depthwise_counts_every_layer(tmp_path, capsys):
    """TINY: four blocks and the stem of kernel 3, and four layers of kernel 5 in the head."""
    TINY.to_json(tmp_path / "tiny.json")
    args = ["--superconfig", str(tmp_path / "tiny.json"), "--batch", "1", "--rounds", "1"]
    benchmark.main(["depthwise", "--json", *args])
    report = json.loads(capsys.readouterr().out)
    layers = [(row["kernel"], row["layers"]) for row in report["layers"]]
    assert sum(count for kernel, count in layers if kernel == 3) == 5
    assert sum(count for kernel, count in layers if kernel == 5) == 4
    assert all(ms > 0 for ms in report["network_ms"].values())
    benchmark.main(["depthwise", *args])
    assert "| all |" in capsys.readouterr().out


def test_memory_is_reported_a_image(coco_root, tmp_path, capsys):
    TINY.to_json(tmp_path / "tiny.json")
    args = ["--superconfig", str(tmp_path / "tiny.json"), "--batch", "1", "--steps", "6"]
    benchmark.main(["memory", *args, *tiny_opts(coco_root, tmp_path)])
    out = capsys.readouterr().out
    assert "MB per image" in out
    assert "MB by step 6" in out


def test_loader_makes_the_same_samples_three_ways(coco_root, tmp_path, capsys):
    opts = ["DATASET.INPUT_SIZE", "64", "DATASET.OUTPUT_SIZE", "[16, 32]", "--samples", "6"]
    benchmark.main(["loader", "--json", *opts[-2:], *tiny_opts(coco_root, tmp_path), *opts[:-2]])
    out = capsys.readouterr().out
    report = json.loads(out[out.index("{") :])
    size = report["kilobytes_a_sample"]
    assert size["ours"] == size["ours, cached"] < size["plain"] / 5


@pytest.mark.parametrize("oracle", [True, False])
def test_valid_accounts_for_every_part(coco_root, tmp_path, capsys, oracle):
    TINY.to_json(tmp_path / "tiny.json")
    flags = ["--json", "--superconfig", str(tmp_path / "tiny.json")]
    flags += ["--oracle"] if oracle else []
    benchmark.main(["valid", *flags, *tiny_opts(coco_root, tmp_path)])
    report = json.loads(capsys.readouterr().out)
    parts = "read warp network up-sample group score"
    assert list(report["ms_a_picture"]) == parts.split()
    assert all(ms > 0 for ms in report["ms_a_picture"].values())
    assert report["pictures"] == 4
    assert not oracle or report["people_a_picture"] >= 1


def test_the_unbiased_codec_reaches_higher_on_small_inputs(coco_root, tmp_path):
    reached = {}
    for codec in CODECS:
        opts = [*tiny_opts(coco_root, tmp_path), "MODEL.CODEC", codec, "DATASET.INPUT_SIZE", "64"]
        reached[codec] = ceiling(load_config(YAMLS["coco"], opts))
    assert reached["unbiased"] > max(0.9, reached["reference"] + 0.1)


@pytest.mark.parametrize("data_set", ["coco", "crowd_pose"])
def test_the_unbiased_codec_loses_next_to_nothing_of_real_annotations(data_root, data_set):
    """The bar: .97 at 256 pixels. CrowdPose's annotations come without their images."""
    split = {"coco": "val2017", "crowd_pose": "val"}[data_set]
    opts = ["DATASET.ROOT", str(data_root / data_set), "DATASET.TEST", split, "VERBOSE", "False"]
    opts += ["DATASET.MIN_LABELLED_JOINTS", "6", "DATASET.INPUT_SIZE", "256"]
    opts += ["MODEL.CODEC", "unbiased", "DATASET.MAX_IMAGES", "20"]
    assert ceiling(load_config(YAMLS[data_set], opts)) > 0.97
