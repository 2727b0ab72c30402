"""Code around training that has a GPU path of its own, compared with the CPU; and the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

import dist_train
from lib.analysis.oracle import Oracle
from lib.config import as_opts, load_config
from lib.core.calibrate import recalibrate
from lib.core.distill import Distillation
from lib.core.evaluate import average_precision
from lib.core.inference import InferenceSettings
from lib.core.loss import MultiLossFactory
from lib.core.pipeline import LoaderSettings
from lib.core.trainer import StepSettings, train_step
from lib.core.views import make_view
from lib.dataset.build import build_evaluation_set
from lib.dataset.samples import Batch, collate
from lib.deploy.fold import fold_norms
from lib.models import build_model, place
from lib.models.arch import ArchSpec, make_divisible
from lib.models.pose_mobilenet import LitePose
from lib.models.refit import refit
from lib.models.reorder import sort_channels
from lib.models.subnet import extract_subnet, supernet_of
from lib.training.average import WeightAverage
from tools.benchmark.gpu.common import (
    ROOT,
    Context,
    Network,
    Row,
    attempt,
    backends,
    read_network,
    rendered,
    seconds_of,
)
from tools.benchmark.gpu.parity import CPU, difference, state_of
from tools.benchmark.train import random_samples


def methods_part(device: torch.device, context: Context) -> Iterator[Row]:
    """What the device computes, compared with the CPU: norm of the difference over the norm."""
    size = 64 if context.small else 128
    network = context.network("search-XS")._replace(size=size, batch=4)
    supernet = context.network("supernet")._replace(size=size, batch=4)
    methods: dict[str, Callable[[torch.device], Tensor]] = {
        "recalibrated statistics": lambda where: recalibrated(network, where),
        "outputs of sorted channels": lambda where: sorted_outputs(network, where),
        "outputs of a refitted slice": lambda where: refitted_outputs(network, where),
        "losses with a teacher": lambda where: losses_with_teacher(network, where),
        "steps: accumulated, clipped, skipping": lambda where: steps(
            network,
            where,
            {"TRAIN.CLIP_NORM": 1.0, "TRAIN.ACCUMULATE": 2, "TRAIN.NON_FINITE": "skip"},
        ),
        "steps: frozen BatchNorm, SGD": lambda where: steps(
            network, where, {"TRAIN.FREEZE_NORMS": True, "TRAIN.OPTIMIZER": "sgd"}
        ),
        "steps: sandwich, elastic kernels": lambda where: steps(
            supernet, where, {"SUPERNET.SAMPLING": "sandwich", "MODEL.ELASTIC_KERNEL": True}
        ),
        "EMA": lambda where: average(network, where),
    }
    for name, method in methods.items():

        def compare(method: Callable[[torch.device], Tensor] = method) -> Row:
            with backends(benchmark=False, allow_tf32=False):
                values = [method(where).cpu().double() for where in (CPU, device)]
            return difference("difference", values[1], values[0])

        yield attempt({"method": name}, compare, device)
    for half in (False, True):
        labels = {"method": f"AP of ground-truth maps, {'float16' if half else 'float32'}"}
        yield attempt(labels, lambda half=half: evaluated(context, device, half), device)


def start(network: Network, device: torch.device) -> tuple[CfgNode, LitePose, list[Tensor]]:
    """Config, a network with random weights in evaluation mode, and two batches of images."""
    cfg, arch = read_network(network, {})
    torch.manual_seed(0)
    model = build_model(cfg, arch)
    assert isinstance(model, LitePose)
    images = torch.rand(2, network.batch, 3, network.size, network.size)
    place(model, device, cfg.MODEL.CHANNELS_LAST).eval()
    return cfg, model, [*images.to(device)]


@torch.no_grad()
def outputs_of(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([output.flatten() for output in model(images)])


def recalibrated(network: Network, device: torch.device) -> Tensor:
    _, model, batches = start(network, device)
    recalibrate(model, batches, 6)
    return torch.cat([b.flatten() for b in model.buffers() if b.is_floating_point()])


def sorted_outputs(network: Network, device: torch.device) -> Tensor:
    _, model, batches = start(network, device)
    sort_channels(model, batches)
    return outputs_of(model, batches[0])


def refitted_outputs(network: Network, device: torch.device) -> Tensor:
    _, model, batches = start(network, device)
    supernet = supernet_of(model)
    narrow = extract_subnet(supernet, narrower(model.arch))
    refit(narrow, supernet, batches)
    return outputs_of(narrow, batches[0])


def narrower(arch: ArchSpec) -> ArchSpec:
    """Three quarters of the widths."""
    stages = tuple(
        replace(stage, channel=make_divisible(0.75 * stage.channel)) for stage in arch.stages
    )
    return replace(arch, stages=stages)


def losses_with_teacher(network: Network, device: torch.device) -> Tensor:
    cfg, model, batches = start(network, device)
    teacher = fold_norms(model).requires_grad_(False)
    criterion = Distillation(
        MultiLossFactory.from_config(cfg),
        teacher,
        img_size=network.size // 2,
        tags_factor=1,
        flip_index=dist_train.flip_index(cfg, device),
    )
    batch = collate(random_samples(cfg, network.batch)).to(device)
    view = make_view(batch, network.size, StepSettings.from_config(cfg))
    with torch.no_grad():
        terms = criterion(batches[0], model(batches[0]), view.targets)
    return torch.stack([*terms.values()])


def steps(network: Network, device: torch.device, opts: Mapping[str, Any]) -> Tensor:
    """Losses and gradient norms of two steps."""
    cfg, arch = read_network(network, opts)
    torch.manual_seed(0)
    model = place(build_model(cfg, arch), device, cfg.MODEL.CHANNELS_LAST).train()
    state, plan = state_of(cfg, model, device), dist_train.supernet_plan(cfg, model)
    criterion, settings = MultiLossFactory.from_config(cfg), StepSettings.from_config(cfg)
    batches = [collate(random_samples(cfg, network.batch))] * cfg.TRAIN.ACCUMULATE
    values: list[Tensor] = []
    for i in range(2):
        archs = plan.archs(i) if plan else [None]
        imitate = plan.imitate if plan else None
        result = train_step(state, criterion, settings, batches, archs, imitate)
        assert result.gradient_norm is not None
        values += [*result.losses.values(), result.gradient_norm]
    return torch.stack(values)


def average(network: Network, device: torch.device) -> Tensor:
    _, model, _ = start(network, device)
    ema = WeightAverage(model, 0.99)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    ema.update(model)
    return torch.cat([value.flatten() for value in ema.network.state_dict().values()])


def evaluated(context: Context, device: torch.device, half: bool) -> Row:
    """AP of people decoded from ground-truth maps, as valid.py computes it on each device."""
    opts = {
        "DATASET.ROOT": rendered(context),
        "TEST.IMAGES_PER_GPU": 2,
        "VERBOSE": False,
        "FP16.ENABLED": half,
    }
    cfg = load_config(ROOT / "experiments/coco/mobilenet/mobile.yaml", as_opts(opts), img_size=128)
    data, loading = build_evaluation_set(cfg), LoaderSettings(batch_size=2, workers=1)
    row: Row = {}
    for name, where in (("CPU", CPU), ("device", device)):
        network = place(build_model(cfg), where, channels_last=True).eval()
        oracle = Oracle.from_config(cfg, network).to(where)
        row[f"AP, {name}"] = average_precision(
            InferenceSettings.from_config(cfg), oracle, data, loading
        )
    return row


# --- targets ------------------------------------------------------------------------------


def targets_part(device: torch.device, context: Context) -> Iterator[Row]:
    """Milliseconds to normalize a batch and to render its targets, by people in each image."""
    network = context.network("search-S")
    cfg, _ = read_network(network, {})
    settings = StepSettings.from_config(cfg)
    for people, slots in ((4, 4), (4, 30), (30, 30)):

        def measure(people: int = people, slots: int = slots) -> Row:
            batch = with_slots(collate(random_samples(cfg, network.batch, people)), slots)
            on_device = batch.to(device)
            seconds = seconds_of(
                lambda: make_view(on_device, network.size, settings), device, context.seconds / 4
            )
            copy = seconds_of(lambda: batch.to(device), device, context.seconds / 4)
            return {"ms": 1000 * seconds, "ms, copy to the device": 1000 * copy}

        labels = {"targets": f"{people} people in {slots} slots", "px": network.size}
        yield attempt({**labels, "batch": network.batch}, measure, device)
    count = 2**12 if context.small else 2**22
    for name, places in (("one place", 1), ("1000 places", 1000)):

        def scatter(places: int = places) -> Row:
            target, zeros = torch.zeros(2, count, device=device)
            address = torch.arange(count, device=device) % places
            seconds = seconds_of(
                lambda: target.scatter_reduce_(0, address, zeros, reduce="amax"),
                device,
                context.seconds / 4,
            )
            return {"ms": 1000 * seconds}

        yield attempt({"targets": f"maxima of {count} zeros at {name}"}, scatter, device)


def with_slots(batch: Batch, slots: int) -> Batch:
    """`batch` with absent people up to `slots`, as next to an image of so many."""
    missing = slots - batch.joints.shape[1]
    joints = nn.functional.pad(batch.joints, (0, 0, 0, 0, 0, missing))
    return batch._replace(
        joints=joints, sigmas=nn.functional.pad(batch.sigmas, (0, missing), value=1.0)
    )
