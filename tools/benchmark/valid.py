"""Where the time of an evaluation goes: `python -m tools.benchmark valid`.

Each part of each picture is timed alone, one after the other, in one process; then the whole
evaluation as valid.py runs it, with its loader processes and its grouping thread. With --oracle the
network runs, but people are decoded from ideal maps: as many as are annotated, whatever the
network has learned.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lib.analysis.oracle import Oracle
from lib.config import load_config
from lib.core.evaluate import score_predictions
from lib.core.inference import InferenceSettings, find_people, network_maps, prepare
from lib.core.pipeline import LoaderSettings
from lib.core.predictions import predict_set
from lib.core.results import Prediction
from lib.dataset.build import EvaluationSet, build_evaluation_set
from lib.dataset.reader import ImageRecord
from lib.models import build_model
from lib.models.arch import ArchSpec
from lib.search.latency import machine
from lib.utils.checkpoint import load_weights

PARTS = ("read", "warp", "network", "up-sample", "group", "score")


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", default="experiments/coco/mobilenet/mobile.yaml")
    parser.add_argument("--superconfig", default="mobile_configs/search-XS.json")
    parser.add_argument("--oracle", action="store_true", help="people of the annotations")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")


def run(args: argparse.Namespace, device: torch.device) -> None:
    arch = ArchSpec.from_json(args.superconfig)
    cfg = load_config(args.cfg, args.opts, img_size=arch.img_size)
    data = build_evaluation_set(cfg)
    clock = Clock(device)
    network = build_model(cfg, arch)
    if cfg.TEST.MODEL_FILE:
        load_weights(network, cfg.TEST.MODEL_FILE)
    memory = torch.channels_last if cfg.MODEL.CHANNELS_LAST else torch.contiguous_format
    network = Timed(network.to(device, memory_format=memory).eval(), clock, "network")
    model = Outer(Oracle.from_config(cfg, network) if args.oracle else network, clock, "model")
    settings = InferenceSettings.from_config(cfg)
    people = time_parts(settings, model, data, clock)
    per_picture = {part: 1000 * clock.seconds[part] / len(data.records) for part in PARTS}
    begin = time.perf_counter()
    predict_set(settings, model, data, loading=LoaderSettings.from_config(cfg))
    whole = time.perf_counter() - begin
    report = {
        "machine": machine(device),
        "network": args.superconfig,
        "pictures": len(data.records),
        "people_a_picture": people / len(data.records),
        "ms_a_picture": per_picture,
        "whole_ms_a_picture": 1000 * whole / len(data.records),
    }
    print(json.dumps(report, indent=2) if args.json else table(report))


def time_parts(settings: InferenceSettings, model: Outer, data: EvaluationSet, clock: Clock) -> int:
    """Evaluate `data` picture by picture; the number of people found."""
    warm_up = prepare(settings, data.files.read(data.records[0]))
    model.set_records(data.records[:1])
    network_maps(settings, model, [warm_up])
    clock.seconds.clear()
    predictions = []
    for picture in data.records:
        with clock.time("read"):
            image = data.files.read(picture)
        with clock.time("warp"):
            given = prepare(settings, image)
        model.set_records([picture])
        with clock.time("maps"):
            maps = network_maps(settings, model, [given])
        with clock.time("group"):
            predictions.append(Prediction(picture.id, *find_people(settings, *maps, given)))
    clock.seconds["up-sample"] = clock.seconds["maps"] - clock.seconds["model"]
    with clock.time("score"):
        score_predictions(data, predictions)
    return sum(len(prediction.people) for prediction in predictions)


class Clock:
    """Seconds by name; waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        begin = self._now()
        yield
        self.seconds[name] += self._now() - begin

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Timed(nn.Module):
    """A module whose forward passes are counted on a clock."""

    def __init__(self, module: nn.Module, clock: Clock, name: str) -> None:
        super().__init__()
        self.module = module
        self.clock = clock
        self.name = name

    def forward(self, images: Tensor) -> list[Tensor]:
        with self.clock.time(self.name):
            return self.module(images)


class Outer(Timed):
    """What the evaluation calls: the network, or an oracle in front of it."""

    def set_records(self, records: Sequence[ImageRecord]) -> None:
        """Tell the oracle, where there is one."""
        if isinstance(self.module, Oracle):
            self.module.set_records(records)


def table(report: dict[str, Any]) -> str:
    """The report as markdown."""
    parts = report["ms_a_picture"]
    total = sum(parts.values())
    rows = "\n".join(f"| {part} | {ms:.1f} | {ms / total:.0%} |" for part, ms in parts.items())
    return (
        f"{report['machine']}\n{report['network']}, {report['pictures']} pictures, "
        f"{report['people_a_picture']:.1f} people found in each\n\n"
        f"| part | ms a picture | share |\n|---|---|---|\n{rows}\n| sum | {total:.1f} | |\n\n"
        f"valid.py's way: {report['whole_ms_a_picture']:.1f} ms a picture"
    )
