"""The code on devices that this machine does not have.

A whole training step, with gradients and optimizer, runs on PyTorch's `meta` device; everything
without gradients on fake tensors of `cuda`, `mps` and `xpu`. Neither has values: reading one, or
mixing devices, is an error. `Watch` adds what only a real device would show.

What cannot be pretended on a build without CUDA, and is left to `python -m tools.benchmark gpu`:
gradients of `cuda` tensors, for which autograd needs a driver, and with them float16 training;
`copy_` into such tensors, so BatchNorm in training mode and the EMA are on `meta` only; DDP and
NCCL; torch.compile; loading a checkpoint onto a GPU; pinned memory; local maxima, whose number
depends on values; fused SGD, which has no fake kernel. Calls that take no tensors, such as
torch.cuda.set_device, are in tests/utils/test_device.py.
"""

from __future__ import annotations

import contextlib
import platform

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
)

import dist_train
from lib.core.calibrate import Moments, recalibrate
from lib.core.distill import Distillation
from lib.core.inference import InferenceSettings, network_maps, prepare
from lib.core.loss import MultiLossFactory
from lib.core.maps import DeviceMaps, Pixels, maps_of
from lib.core.trainer import StepSettings, train_step, update_weights
from lib.core.views import make_view
from lib.dataset.build import build_training_set, make_dataloader
from lib.models import place
from lib.models.layers.depthwise import in_pieces
from lib.models.layers.sync import synchronize_norms
from lib.search.latency import machine
from lib.training import batch_size
from lib.training.optim import get_optimizer, get_scaler
from lib.utils.device import half_precision
from lib.utils.dist import ALONE
from lib.utils.run_card import RUN_CARD, read_starts
from tests.core.test_no_reads import STEPS, fake_batch
from tests.devices import CUDA, META, MPS, PRETENDED, XPU, Operations, Watch, on_each, pretended
from tests.helpers import network, tiny_config
from tests.runs import step_state, train

# --- a step with gradients ------------------------------------------------------------------


def test_distillation_stays_on_its_device(coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path)
    teacher = place(network(cfg), META, True).eval().requires_grad_(False)
    criterion = Distillation(
        MultiLossFactory.from_config(cfg),
        teacher,
        img_size=96,
        tags_factor=1.0,
        flip_index=dist_train.flip_index(cfg, META),
    )
    state = step_state(cfg, place(network(cfg), META, True).train(), ALONE._replace(device=META))
    batch = fake_batch(cfg.DATASET.INPUT_SIZE, cfg.DATASET.OUTPUT_SIZE)
    with Watch():
        train_step(state, criterion, StepSettings.from_config(cfg), [batch])


def test_recalibration_stays_on_its_device(coco_root, tmp_path):
    model = place(network(tiny_config(coco_root, tmp_path)), META, True)
    with Watch():
        assert recalibrate(model, [torch.zeros(2, 3, 64, 64, device=META)] * 2, 3) == 3


def test_the_memory_of_a_gpu_is_measured_with_steps_on_it(coco_root, tmp_path, monkeypatch):
    """Bytes are pretended, too: 100, and 10 an image; 850 of 1000 hold 75, in eights 72."""
    cfg = tiny_config(coco_root, tmp_path, "TRAIN.IMAGES_PER_GPU", "auto")
    model, seen = place(network(cfg), META, True), []
    step = batch_size.train_step

    def counted(state, criterion, settings, batches, *rest):
        seen.append(len(batches[0].images))
        return step(state, criterion, settings, batches, *rest)

    monkeypatch.setattr(batch_size, "train_step", counted)
    cuda = {
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device: None,
        "max_memory_reserved": lambda device: 100 + 10 * seen[-1],
        "memory_reserved": lambda device: 400,
        "mem_get_info": lambda device: (600, 2000),
    }
    for name, call in cuda.items():
        monkeypatch.setattr(torch.cuda, name, call)
    dataset = build_training_set(cfg)
    monkeypatch.setattr(type(dataset), "__len__", lambda _: 1000)
    criterion, process = MultiLossFactory.from_config(cfg), ALONE._replace(device=META)
    assert batch_size.choose_images(cfg, dataset, model, criterion, None, process) == 72
    assert seen == [8, 8, 32, 32]


# --- without gradients, on each kind ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "device"),
    [*((name, CUDA) for name in STEPS), ("adam", MPS), ("adam", XPU)],  # others are not resized
    ids=str,
)
def test_targets_outputs_and_losses_are_on_the_device_of_the_batch(
    coco_root, tmp_path, name, device
):
    arch, opts = STEPS[name]
    cfg = tiny_config(coco_root, tmp_path, *opts)
    settings = StepSettings.from_config(cfg)
    with pretended(network(cfg, arch), device) as model, Watch():
        criterion = dist_train.start_criterion(cfg, None, device)
        plan = dist_train.supernet_plan(cfg, model)
        batch = fake_batch(cfg.DATASET.INPUT_SIZE, cfg.DATASET.OUTPUT_SIZE).to(device)
        for one in plan.archs(0) if plan else [None]:
            view = make_view(batch, one.img_size if one else settings.crop_size, settings)
            outputs = model(view.images, *([one] if one else []))
            terms = criterion(view.images, outputs, view.targets)
            assert {term.device for term in terms.values()} == {device}


EVALUATIONS = {
    "flip": [],
    "scales": ["TEST.SCALE_FACTOR", "[0.5,1,2]", "TEST.MASK_BORDERS", "True"],
    "small maps": ["TEST.FLIP_TEST", "False", "TEST.PROJECT2IMAGE", "False"],
    "half": ["FP16.ENABLED", "True"],
}


@on_each
@pytest.mark.parametrize("name", EVALUATIONS)
def test_maps_are_computed_on_the_device(coco_root, tmp_path, monkeypatch, name, device):
    """They stay on a CUDA GPU; those of other devices come to the CPU, once, at the end."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    cfg = tiny_config(coco_root, tmp_path, *EVALUATIONS[name])
    settings = InferenceSettings.from_config(cfg)
    with pretended(network(cfg), device) as model:
        prepared = prepare(settings, np.zeros((64, 96, 3), np.uint8))
        watch = Watch() if device.type == "cuda" else contextlib.nullcontext()
        with watch:
            for project in (True, False):
                maps = network_maps(settings, model, [prepared] * 2, project)
                where = device if device.type == "cuda" else torch.device("cpu")
                assert {one.device for one in maps} == {where}
                assert {one.dtype for one in maps} == {torch.float32}


def test_a_gpu_computes_an_evaluation_in_float16(coco_root, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    cfg = tiny_config(coco_root, tmp_path)
    with pretended(network(cfg), CUDA) as model:
        images = torch.zeros(1, 3, 64, 64, device=CUDA)
        with half_precision(CUDA):
            assert {output.dtype for output in model(images)} == {torch.float16}


@on_each
def test_moments_are_summed_in_float64_on_a_device_that_has_it(monkeypatch, device):
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda _: type("", (), {"has_fp64": 1}))
    layer = nn.BatchNorm2d(4)
    with pretended(layer, device):
        moments = Moments(layer)
        moments.add(layer, (torch.zeros(2, 4, 8, 8, device=device),))
        where = torch.device("cpu") if device.type == "mps" else device
        assert (moments.total.device, moments.squares.dtype) == (where, torch.float64)


def test_a_scaled_loss_and_a_fused_optimizer_read_nothing(coco_root, tmp_path, monkeypatch):
    """Gradients are given: they cannot be computed on a GPU that is not there."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    cfg = tiny_config(coco_root, tmp_path, "FP16.ENABLED", "True")
    with pretended(network(cfg), CUDA) as model:
        state = step_state(cfg, model, ALONE._replace(device=CUDA))
        assert state.scaler.is_enabled()
        with Watch():
            for clip_norm in (0.0, 0.1):
                state.scaler.scale(torch.zeros((), device=CUDA))
                for parameter in model.parameters():
                    parameter.grad = torch.zeros_like(parameter)
                assert update_weights(state, clip_norm).device == CUDA


def test_synchronized_norms_stay_on_their_device(coco_root, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda _: None)
    model = synchronize_norms(place(network(tiny_config(coco_root, tmp_path)), META, True)).train()
    with Watch():
        outputs = model(torch.zeros(2, 3, 64, 64, device=META))
        sum(output.sum() for output in outputs).backward()


@on_each
def test_depthwise_layers_are_those_of_pytorch_on_other_devices(device):
    with FakeTensorMode(), torch.enable_grad():
        maps = torch.zeros(1, 8, 16, 16, device=device).to(memory_format=torch.channels_last)
        assert not in_pieces(maps, torch.zeros(8, 1, 7, 7, device=device))
        maps = torch.zeros(1, 8, 16, 16).to(memory_format=torch.channels_last)
        assert in_pieces(maps, torch.zeros(8, 1, 7, 7))


def test_queries_of_grouping_compute_on_the_device(monkeypatch):
    """All but the local maxima; a tensor becomes an array after it came to the CPU."""

    def numpy(tensor: Tensor) -> np.ndarray:
        assert tensor.device.type == "cpu", "an array of a tensor on a device"
        return np.zeros(tuple(tensor.shape), np.float32)

    monkeypatch.setattr(FakeTensor, "numpy", numpy, raising=False)
    with FakeTensorMode(), Operations(), torch.inference_mode():
        det = torch.zeros(17, 32, 48, device=CUDA)
        pixels = Pixels(*(np.arange(5) for _ in range(3)))
        for tag in (torch.zeros(17, 32, 48, 2), torch.zeros(1, 32, 48, 2)):
            maps = maps_of(det, tag.to(CUDA))
            assert isinstance(maps, DeviceMaps)
            assert maps.total().shape == ()
            assert maps.windows(pixels, 2).shape == (5, 5, 5)
            assert maps.tags(pixels).shape == (5, 2)
            found = maps.best_pixels(pixels.joint, np.zeros((5, 2), np.float32))
            assert [field.shape for field in found] == [(5,)] * 3


# --- settings that follow from a device ---------------------------------------------------------


def test_the_loss_is_scaled_on_a_cuda_gpu_only(coco_root, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    cfg = tiny_config(coco_root, tmp_path, "FP16.ENABLED", "True")
    scaled = [device.type for device in PRETENDED if get_scaler(cfg, device).is_enabled()]
    assert scaled == ["cuda"]


@on_each
def test_an_optimizer_is_fused_where_that_was_tried(coco_root, tmp_path, device):
    cfg = tiny_config(coco_root, tmp_path)
    with pretended(network(cfg), device) as model:
        fused = get_optimizer(cfg, model).param_groups[0]["fused"]
    assert bool(fused) == (device.type == "cuda")


def test_batches_are_pinned_where_there_is_a_gpu(coco_root, tmp_path, monkeypatch):
    cfg = tiny_config(coco_root, tmp_path)
    for available in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        loader = make_dataloader(cfg, build_training_set(cfg))
        assert loader.pin_memory == (available and cfg.PIN_MEMORY)


def test_a_resume_restores_the_generators_of_as_many_gpus(coco_root, tmp_path, monkeypatch):
    """The run card names them, too."""
    opts = ("TRAIN.VALIDATE_EVERY", "0", "TRAIN.IMAGES_PER_GPU", "8", "TRAIN.END_EPOCH")
    count, restored = 2, []
    states = [torch.tensor([gpu], dtype=torch.uint8) for gpu in range(count)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: f"GPU {gpu}")
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states[:count])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.append)
    for epochs in ("1", "2"):
        train(tiny_config(coco_root, tmp_path, *opts, epochs), tmp_path / "run")
    assert restored == [states]
    assert read_starts(tmp_path / "run" / RUN_CARD)[0]["hardware"]["gpus"] == ["GPU 0", "GPU 1"]
    count = 1
    train(tiny_config(coco_root, tmp_path, *opts, "3"), tmp_path / "run")
    assert len(restored) == 1


def test_a_measurement_names_its_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"name of {device}")
    names = [machine(device).split(",")[0] for device in (torch.device("cpu"), CUDA, MPS)]
    arch = platform.machine()
    cpu = f"{torch.get_num_threads()} threads of {arch}"
    assert names == [cpu, "name of cuda:0", f"mps of {arch}"]


# --- the watch itself -----------------------------------------------------------------------------


def test_the_watch_sees_what_a_real_device_refuses():
    with FakeTensorMode(), Watch():
        cuda, mps = torch.zeros(2, 3, device=CUDA), torch.zeros(2, 3, device=MPS)
        with pytest.raises(AssertionError, match="reads from the device"):
            cuda.cpu()
        with pytest.raises(AssertionError, match="float64"):
            mps.double()
        with pytest.raises(RuntimeError, match="at least two devices"):
            cuda + torch.zeros(2, 3)
        cuda + torch.tensor(1.0)  # a number of the CPU
        torch.zeros(2).to(cuda.device)
    with Watch():
        meta = torch.zeros(2, 3, device=META)
        with pytest.raises(AssertionError, match="of tensors on"):
            meta.gather(1, torch.zeros(2, 3, dtype=torch.int64))
        for read in (meta.cpu, meta.tolist, meta.sum().item, meta.numpy):
            with pytest.raises((RuntimeError, TypeError, NotImplementedError)):
                read()
