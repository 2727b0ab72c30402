"""Which device is chosen, and what depends on its kind."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from lib.utils import cli, dist
from lib.utils.device import (
    half_precision,
    resolve_device,
    synchronize,
    to_device,
    to_float64,
)
from lib.utils.dist import Process, choose_device, start_process, wrap
from tests.helpers import TINY, YAMLS, network, tiny_config


@pytest.fixture
def machine(monkeypatch):
    """A function that sets how many devices of each kind there are."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)

    def has(cuda: int = 0, mps: int = 0, xpu: int = 0) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.xpu, "device_count", lambda: xpu)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))

    return has


def test_the_device_is_a_gpu_where_there_is_one(machine):
    machine(cuda=0)
    assert resolve_device(None, 3) == resolve_device(2) == torch.device("cpu")
    machine(cuda=2)
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(None) == resolve_device(None, 3) == torch.device("cuda:0")
    assert resolve_device(None, 1) == resolve_device(1) == resolve_device("cuda:1")


def test_an_untried_device_is_used_by_name_only_and_says_so(machine, caplog):
    machine(mps=1, xpu=2)
    assert resolve_device(None) == resolve_device(0) == torch.device("cpu")
    assert not caplog.records
    for name in ("mps", "xpu", "xpu:1"):
        assert resolve_device(name) == torch.device(name)
        assert caplog.records.pop().levelno == logging.WARNING


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (2, "there is no GPU 2; this machine has 2"),
        ("cuda:2", "there is no GPU 2; this machine has 2"),
        ("mps", "there is no device mps 0; this machine has 0"),
        ("xpu:1", "there is no device xpu 1; this machine has 1"),
        ("qpu", "qpu"),
        ("meta", "cannot compute on meta; possible: cpu, cuda, mps, xpu"),
        (-1, "-1"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(machine, device, message):
    machine(cuda=2, xpu=1)
    with pytest.raises(ValueError, match=message) as error:
        resolve_device(device)
    assert "\n" not in str(error.value)


def test_the_flag_takes_a_number_or_a_name(machine, monkeypatch):
    machine(cuda=2, mps=1)
    parser = cli.new_parser(None)
    cli.add_network_flags(parser)
    chosen = [parser.parse_args(["--gpu", value]).gpu for value in ("1", "mps", "cpu")]
    assert chosen == [1, "mps", "cpu"]
    cfg = SimpleNamespace(GPUS=(0,))
    names = [str(choose_device(cfg, gpu)) for gpu in (*chosen, None)]
    assert names == ["cuda:1", "mps", "cpu", "cuda:0"]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(choose_device(cfg)) == "cuda:1"


def test_a_script_says_in_one_line_that_a_device_is_not_there(machine, call):
    machine()
    result = call("valid", "--cfg", str(YAMLS["coco"]), "--gpu", "mps", "--model", "none.pth")
    assert (result.code, result.err.count("\n")) == (cli.MISTAKE, 1)
    assert "there is no device mps" in result.err


def test_several_processes_need_cuda_gpus_or_cpus(machine, monkeypatch, coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path)
    args = SimpleNamespace(gpu="mps", world_size=2, rank=0, dist_url="tcp://localhost:1")
    machine(mps=1)
    with pytest.raises(ValueError, match="several processes compute on CUDA GPUs or on CPUs"):
        start_process(cfg, args)
    monkeypatch.setattr(args, "world_size", 1)
    assert start_process(cfg, args) == Process(0, 1, torch.device("mps"))


def test_processes_with_gpus_talk_by_nccl_each_on_its_gpu(
    machine, monkeypatch, coco_root, tmp_path
):
    cfg, begun, wrapped = tiny_config(coco_root, tmp_path), [], []
    machine(cuda=2)
    monkeypatch.setattr(torch.cuda, "set_device", begun.append)
    monkeypatch.setattr(dist.dist, "init_process_group", lambda name, **_: begun.append(name))
    args = SimpleNamespace(gpu=1, world_size=2, rank=1, dist_url="tcp://localhost:1")
    process = start_process(cfg, args)
    assert begun == [torch.device("cuda:1"), "nccl"]
    monkeypatch.setattr(
        torch.nn.parallel, "DistributedDataParallel", lambda _, **opts: wrapped.append(opts)
    )
    for one in (process, process._replace(device=torch.device("cpu"))):
        wrap(network(cfg, TINY), one)
    assert [opts["device_ids"] for opts in wrapped] == [[1], None]


def test_only_a_cuda_gpu_copies_while_python_goes_on():
    class Recorder:
        def to(self, device, non_blocking):
            return device, non_blocking

    for kind in ("cpu", "cuda", "mps", "xpu"):
        device = torch.device(kind)
        assert to_device(Recorder(), device) == (device, kind == "cuda")


def test_each_device_is_waited_for_in_its_way(monkeypatch):
    calls = []
    for kind in ("cuda", "mps", "xpu"):
        monkeypatch.setattr(
            getattr(torch, kind), "synchronize", lambda *of, kind=kind: calls.append((kind, *of))
        )
    for name in ("cpu", "cuda:1", "mps", "xpu:1"):
        synchronize(torch.device(name))
    assert calls == [("cuda", torch.device("cuda:1")), ("mps",), ("xpu", torch.device("xpu:1"))]


def test_half_precision_is_float16_on_cuda_and_bfloat16_elsewhere(monkeypatch):
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    for kind, dtype in (
        ("cuda", torch.float16),
        ("cpu", torch.bfloat16),
        ("mps", torch.bfloat16),
        ("xpu", torch.bfloat16),
    ):
        device = torch.device(kind)
        with half_precision(device):
            assert torch.is_autocast_enabled(kind)
            assert torch.get_autocast_dtype(kind) == dtype
        with half_precision(device, enabled=False):
            assert not torch.is_autocast_enabled(kind)


def test_a_pytorch_without_half_precision_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda kind: kind != "mps")
    with pytest.raises(ValueError, match="no half precision on mps"):
        half_precision(torch.device("mps"))
    half_precision(torch.device("mps"), enabled=False)  # is not asked for


def test_float64_is_computed_where_there_is_some(monkeypatch):
    class Fake:
        """A tensor that records where it is converted."""

        def __init__(self, name):
            self.device, self.steps = torch.device(name), []

        def cpu(self):
            self.steps.append("cpu")
            return self

        def double(self):
            return [*self.steps, "double"]

    for has_fp64, steps in ((True, ["double"]), (False, ["cpu", "double"])):
        properties = SimpleNamespace(has_fp64=has_fp64)
        monkeypatch.setattr(torch.xpu, "get_device_properties", lambda _, p=properties: p)
        assert to_float64(Fake("xpu")) == steps
    assert to_float64(Fake("mps")) == ["cpu", "double"]
    assert to_float64(Fake("cuda")) == to_float64(Fake("cpu")) == ["double"]
