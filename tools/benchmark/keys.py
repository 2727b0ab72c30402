"""What config keys cost in training.

Times samples (in this process, as one loader process makes them) and training steps with the
settings of the command and with each `--with "KEY VALUE ..."` added, in turns at every batch. A
ratio is the median, over the turns, of a time divided by that without the keys in the same turn.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import cv2
import torch
from yacs.config import CfgNode

import dist_train
from lib.dataset.build import build_training_set
from lib.dataset.samples import Sample
from lib.search.latency import machine
from lib.utils.tables import markdown
from tools.benchmark.network import add_network_flags, name_of, read_settings
from tools.benchmark.train import our_step, seconds

PLAIN = "without"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_network_flags(parser)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="turns, after a warm-up")
    teacher = "weights of the network that teaches with keys TEACHER.*"
    parser.add_argument("--teacher", metavar="FILE", help=teacher)
    parser.add_argument(
        "--with",
        dest="keys",
        action="append",
        default=[],
        metavar='"KEY VALUE"',
        help="keys to measure; repeat it for several measurements in one run",
    )


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    cv2.setNumThreads(0)  # as in a loader process
    dist_train.set_backends(read_settings(args)[0])
    makers: dict[str, Callable[[int], list[Sample]]] = {}
    steps: dict[str, Callable[[int], object]] = {}
    for keys in (PLAIN, *args.keys):
        added = [] if keys == PLAIN else keys.split()
        own = argparse.Namespace(**{**vars(args), "opts": [*args.opts, *added]})
        cfg, arch = read_settings(own)
        makers[keys] = sample_maker(cfg, args.batch)
        teacher = args.teacher if "TEACHER." in keys else None
        if "TEACHER." in keys and not teacher:
            raise ValueError(f"--with {keys!r} needs the weights of a teacher: give --teacher FILE")
        steps[keys] = our_step(cfg, arch, makers[keys](0), device, teacher)
    samples, times = ({keys: [] for keys in steps} for _ in range(2))
    for i in range(args.steps + 1):
        for keys, step in steps.items():
            samples[keys].append(seconds(lambda i=i, keys=keys: makers[keys](i), device))
            times[keys].append(seconds(lambda i=i, step=step: step(i), device))
    return {
        "machine": machine(device),
        "network": f"{name_of(args)}, batch {args.batch}, {args.steps} turns",
        "rows": [
            {
                "keys": keys,
                "ms_a_sample": 1000 * statistics.median(samples[keys][1:]) / args.batch,
                "samples": ratio(samples[keys], samples[PLAIN]),
                "ms_a_step": 1000 * statistics.median(times[keys][1:]),
                "step": ratio(times[keys], times[PLAIN]),
            }
            for keys in steps
        ],
    }


def sample_maker(cfg: CfgNode, count: int) -> Callable[[int], list[Sample]]:
    """A function from step number to `count` samples of the training set."""
    data = build_training_set(cfg)

    def make(step: int) -> list[Sample]:
        numbers = range(step * count, (step + 1) * count)
        return [data[divmod(number, len(data))] for number in numbers]

    return make


def ratio(times: list[float], others: list[float]) -> float:
    """Median ratio of the times of the same turn, without the first, the warm-up."""
    pairs = zip(times[1:], others[1:], strict=True)
    return statistics.median(one / other for one, other in pairs)


def table(report: dict[str, Any]) -> str:
    rows = [
        [
            row["keys"],
            f"{row['ms_a_sample']:.2f}",
            f"{row['samples']:.3f}",
            f"{row['ms_a_step']:.1f}",
            f"{row['step']:.3f}",
        ]
        for row in report["rows"]
    ]
    head = ["keys", "ms per sample", "ratio", "ms per step", "ratio"]
    return f"{report['machine']}\n{report['network']}\n\n{markdown(head, rows)}"
