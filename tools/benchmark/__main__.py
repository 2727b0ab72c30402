"""Measure speed and memory on this machine.

    python -m tools.benchmark train --superconfig mobile_configs/search-XS.json --batch 8
    python -m tools.benchmark memory --superconfig mobile_configs/search-XS.json --steps 500
    python -m tools.benchmark loader DATASET.ROOT data/coco
    python -m tools.benchmark keys --with "LOSS.WAHR True" DATASET.ROOT data/coco
    python -m tools.benchmark depthwise --superconfig mobile_configs/search-XS.json
    python -m tools.benchmark pieces --cfg experiments/crowd_pose/mobilenet/supermobile.yaml \\
        --out latency.json --check mobile_configs/search-XS.json
    python -m tools.benchmark latency exported --threads 1 2
    python -m tools.benchmark decode --people 2 20 --sizes 448x640
    python -m tools.benchmark valid --oracle DATASET.ROOT data/synthetic
    python -m tools.benchmark track --model checkpoint.pth.tar
    python -m tools.benchmark gpu --out gpu.json

`python -m tools.benchmark KIND --help` explains each kind of measurement. OMP_NUM_THREADS sets the
number of threads. Measure on an idle machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from lib.utils import cli
from lib.utils.device import resolve_device
from tools.benchmark import (
    decode,
    depthwise,
    keys,
    latency,
    loader,
    memory,
    pieces,
    track,
    train,
    valid,
)
from tools.benchmark.gpu import run as gpu

KINDS = {
    "train": train,
    "memory": memory,
    "loader": loader,
    "keys": keys,
    "depthwise": depthwise,
    "pieces": pieces,
    "latency": latency,
    "decode": decode,
    "valid": valid,
    "track": track,
    "gpu": gpu,
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name, module in KINDS.items():
        kind = kinds.add_parser(
            name,
            help=(module.__doc__ or "").splitlines()[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        kind.add_argument("--json", action="store_true", help="print JSON instead of a table")
        cli.add_device_flag(kind)
        module.add_flags(kind)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    device = resolve_device(args.gpu)
    kind = KINDS[args.kind]
    report = kind.measure(args, device)
    print(json.dumps(report, indent=2) if args.json else kind.table(report))


if __name__ == "__main__":
    cli.run(main)
