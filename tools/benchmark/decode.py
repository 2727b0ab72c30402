"""From maps to people: the decoder compared with its readable specification.

Both decode the same synthetic scenes in turns. The specification
(tools/benchmark/decoder_specification.py) searches whole maps for every person.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

from lib.config import load_config
from lib.core.group import HeatmapParser
from lib.search.latency import machine, median_times
from lib.utils.tables import markdown
from tools.benchmark.decoder_specification import decode
from tools.benchmark.scene import Scene

TAGS = 2  # dimensions, as with the flip test
UPSAMPLING = 4  # of a network's maps


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", default="experiments/crowd_pose/mobilenet/mobile.yaml")
    parser.add_argument("--people", type=int, nargs="+", default=[0, 2, 8, 20, 40])
    parser.add_argument("--sizes", nargs="+", default=["256x384", "448x640"], metavar="HxW")
    parser.add_argument("--rounds", type=int, default=9, help="the specification runs a third")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    parser = HeatmapParser(load_config(args.cfg, args.opts))
    rows = []
    for size in args.sizes:
        height, width = map(int, size.split("x"))
        for people in args.people:
            joints = parser.params.num_joints
            scene = Scene(people, joints, height, width, TAGS, seed=1, upsampling=UPSAMPLING)
            times = time_scene(parser, scene, args.rounds, device)
            rows.append({"map": size, "people": people, **times})
    return {"machine": machine(device), "rows": rows}


def time_scene(
    parser: HeatmapParser, scene: Scene, rounds: int, device: torch.device
) -> dict[str, float]:
    """Median milliseconds of both decoders."""
    det, tag = scene.render()
    # As `network_maps` leaves them: each tag dimension is a plane.
    planes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(tag, -1, 0))).to(device)
    maps = torch.from_numpy(det).to(device)[None], planes.movedim(0, -1)[None]
    [ours] = median_times([lambda: parser.parse(*maps)], rounds)
    [other] = median_times([lambda: decode(det, tag, parser.params)], max(rounds // 3, 1))
    return {"specification_ms": other, "ours_ms": ours}


def table(report: dict[str, Any]) -> str:
    rows, cells = report["rows"], []
    for row in rows:
        other, ours = row["specification_ms"], row["ours_ms"]
        times = f"{other:.0f}", f"{ours:.1f}", f"{other / ours:.0f}"
        cells.append([row["map"], row["people"], *times])
    lines = [report["machine"], "median milliseconds\n"]
    lines.append(markdown(["map", "people", "specification", "ours", "speed-up"], cells))
    for size in dict.fromkeys(row["map"] for row in rows):
        lines.append(f"\n{size}: {growth([row for row in rows if row['map'] == size])}")
    return "\n".join(lines)


def growth(rows: list[dict[str, Any]]) -> str:
    """Milliseconds of one more person, between the fewest and the most."""
    first, last = rows[0], rows[-1]
    people = last["people"] - first["people"]
    if people <= 0:
        return "one scene, no growth"
    ours, other = ((last[key] - first[key]) / people for key in ("ours_ms", "specification_ms"))
    return f"{ours:.2f} ms per person, {ours / other:.1%} of the specification's {other:.0f}"
