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
import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from lib.utils import cli
from lib.utils.device import resolve_device

KINDS = "train memory loader keys depthwise pieces latency decode valid track gpu".split()


def module_of(kind: str) -> Any:
    """The module that measures; only that of one kind is imported, as some need more packages."""
    return importlib.import_module(f"tools.benchmark.{kind}" + (".run" if kind == "gpu" else ""))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    argv = sys.argv[1:] if argv is None else argv
    parser = cli.new_parser(__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name in argv[:1] if argv and argv[0] in KINDS else KINDS:
        module = module_of(name)
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
    kind = module_of(args.kind)
    report = kind.measure(args, device)
    print(json.dumps(report, indent=2) if args.json else kind.table(report))


if __name__ == "__main__":
    cli.run(main)
