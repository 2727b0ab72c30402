"""How fast maps become people: `python -m tools.benchmark decode`.

Compared, on the same scenes and in turns, with the readable decoder that the tests keep as the
specification (tests/core/decoder_specification.py), which looks at whole maps for every person.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch

from lib.config import load_config
from lib.core.group import HeatmapParser
from lib.search.latency import machine, median_times
from tests.core.decoder_specification import decode
from tests.core.scenes import draw_scene

Row = dict[str, Any]


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", default="experiments/crowd_pose/mobilenet/mobile.yaml")
    parser.add_argument("--people", type=int, nargs="+", default=[0, 2, 8, 20, 40])
    parser.add_argument("--sizes", nargs="+", default=["256x384", "448x640"], metavar="HxW")
    parser.add_argument("--tags", type=int, default=2, help="dimensions: 2 with the flip test")
    parser.add_argument("--grain", type=int, default=4, help="maps are enlarged so many times")
    parser.add_argument("--rounds", type=int, default=9, help="ours; a third of it for the other")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")


def run(args: argparse.Namespace, device: torch.device) -> None:
    parser = HeatmapParser(load_config(args.cfg, args.opts))
    rows = [
        {"map": size, "people": people} | time_scene(parser, size, people, args, device)
        for size in args.sizes
        for people in args.people
    ]
    if args.json:
        print(json.dumps({"machine": machine(device), "rows": rows}, indent=2))
        return
    print(f"{machine(device)}\nK {parser.params.num_joints}, L {args.tags}, median milliseconds\n")
    print("| map | people | specification | ours | times as fast |\n|---|---|---|---|---|")
    for row in rows:
        speed_up = row["specification_ms"] / row["ours_ms"]
        times = f"{row['specification_ms']:.0f} | {row['ours_ms']:.1f} | {speed_up:.0f}"
        print(f"| {row['map']} | {row['people']} | {times} |")
    for size in args.sizes:
        print(f"\n{size}: {growth([row for row in rows if row['map'] == size])}")


def time_scene(
    parser: HeatmapParser,
    size: str,
    people: int,
    args: argparse.Namespace,
    device: torch.device,
) -> Row:
    """Median milliseconds of both decoders on one drawn scene."""
    height, width = map(int, size.split("x"))
    joints = parser.params.num_joints
    det, tag = draw_scene(people, joints, height, width, args.tags, seed=1, grain=args.grain)
    # As `network_maps` leaves them: each tag dimension is a plane.
    planes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(tag, -1, 0))).to(device)
    maps = torch.from_numpy(det).to(device)[None], planes.movedim(0, -1)[None]
    ours, *_ = median_times([lambda: parser.parse(*maps)], args.rounds)
    specification, *_ = median_times(
        [lambda: decode(det, tag, parser.params)], max(args.rounds // 3, 1)
    )
    return {"specification_ms": specification, "ours_ms": ours}


def growth(rows: list[Row]) -> str:
    """What one more person costs, between the fewest and the most."""
    first, last = rows[0], rows[-1]
    people = last["people"] - first["people"]
    if people <= 0:
        return "one scene, no growth"
    ours, theirs = ((last[name] - first[name]) / people for name in ("ours_ms", "specification_ms"))
    return f"{ours:.2f} ms a person, {ours / theirs:.1%} of the specification's {theirs:.0f}"
