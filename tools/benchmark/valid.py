"""The parts of an evaluation.

The parts are timed one after the other in one process; then the whole evaluation as valid.py runs
it, with its loader processes and its grouping thread. With --oracle the network runs, but people
are decoded from ground-truth maps, so that their number does not depend on the network's training.
Without weights (--model or TEST.MODEL_FILE) the network is random.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lib.analysis.oracle import Oracle
from lib.core.evaluate import score_predictions
from lib.core.inference import InferenceSettings, find_people, network_maps, prepare
from lib.core.pipeline import LoaderSettings
from lib.core.predictions import predict_set
from lib.core.results import Prediction
from lib.dataset.build import EvaluationSet, build_evaluation_set
from lib.models import build_model, place
from lib.models.load import read_network
from lib.search.latency import machine, now
from lib.utils.tables import markdown
from tools.benchmark.network import add_network_flags, name_of, read_settings

PARTS = ("read", "warp", "network", "up-sample", "group", "score")


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_network_flags(parser)
    parser.add_argument("--oracle", action="store_true", help="people of the annotations")


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    cfg, arch = read_settings(args)
    if weights := args.model or cfg.TEST.MODEL_FILE:
        file = read_network(weights, cfg=args.cfg, superconfig=args.superconfig, opts=args.opts)
        cfg, network = file.cfg, file.build(device)
    else:
        network = place(build_model(cfg, arch), device, cfg.MODEL.CHANNELS_LAST).eval()
    data = build_evaluation_set(cfg)
    clock = Clock(device)
    clock.time_calls(network, "network")
    model = Oracle.from_config(cfg, network) if args.oracle else network
    if args.oracle:
        clock.time_calls(model, "oracle")
    settings = InferenceSettings.from_config(cfg)
    people = time_parts(settings, model, data, clock)
    count = len(data.records)
    begin = time.perf_counter()
    predict_set(settings, model, data, loading=LoaderSettings.from_config(cfg))
    whole = time.perf_counter() - begin
    return {
        "machine": machine(device),
        "network": name_of(args),
        "pictures": count,
        "people_a_picture": people / count,
        "ms_a_picture": {part: 1000 * clock.seconds[part] / count for part in PARTS},
        "whole_ms_a_picture": 1000 * whole / count,
    }


def time_parts(
    settings: InferenceSettings, model: nn.Module, data: EvaluationSet, clock: Clock
) -> int:
    """Evaluate `data` image by image; return the number of people found."""
    warm_up = prepare(settings, data.files.read(data.records[0]))
    if isinstance(model, Oracle):
        model.set_records(data.records[:1])
    network_maps(settings, model, [warm_up])
    clock.seconds.clear()
    predictions = []
    for record in data.records:
        with clock.time("read"):
            image = data.files.read(record)
        with clock.time("warp"):
            prepared = prepare(settings, image)
        if isinstance(model, Oracle):
            model.set_records([record])
        with clock.time("maps"):
            maps = network_maps(settings, model, [prepared])
        with clock.time("group"):
            people, scores, _ = find_people(settings, *maps, prepared)
        predictions.append(Prediction(record.id, people, scores))
    inner = "oracle" if isinstance(model, Oracle) else "network"
    clock.seconds["up-sample"] = clock.seconds["maps"] - clock.seconds[inner]
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
        self._add(name, -1)
        yield
        self._add(name, 1)

    def time_calls(self, module: nn.Module, name: str) -> None:
        """Count the forward passes of `module` as `name`."""
        module.register_forward_pre_hook(lambda *_: self._add(name, -1))
        module.register_forward_hook(lambda *_: self._add(name, 1))

    def _add(self, name: str, sign: int) -> None:
        self.seconds[name] += sign * now(self.device)


def table(report: dict[str, Any]) -> str:
    parts = report["ms_a_picture"]
    total = sum(parts.values())
    rows = [[part, f"{ms:.1f}", f"{ms / total:.0%}"] for part, ms in parts.items()]
    rows.append(["sum", f"{total:.1f}", ""])
    people = f"{report['people_a_picture']:.1f} people found in each"
    return (
        f"{report['machine']}\n{report['network']}, {report['pictures']} images, {people}\n\n"
        f"{markdown(['part', 'ms per image', 'share'], rows)}\n\n"
        f"as valid.py runs it: {report['whole_ms_a_picture']:.1f} ms per image"
    )
