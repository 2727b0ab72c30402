"""Studies: equal trainings that differ in one thing, with several seeds, and a table of their AP.

    python -m tools.study supernet --seeds 0 1 2
    python -m tools.study ablation --seeds 0 1 2 --kernels 7 5 3 9
    python -m tools.study modern --jobs 2 --threads 1
    python -m tools.study modern --people real MODEL.PRETRAINED search-XS.pth.tar

supernet (docs/supernet.md), for every seed: a small supernet trained by uniform sampling, and one
by the sandwich rule with in-place distillation; three widths extracted from each and scored before
calibration, after it, and fine-tuned with a tenth of the steps; each width trained from scratch
with as many steps as the supernet; the narrowest also distilled from the widest.

ablation (docs/ablations.md), for every seed and kernel size: the same network trained from scratch
with the same steps; with the first kernel size also without the raw half of its head (paper,
section 3).

modern (docs/modern.md), for every seed: the recipe of the paper, the same with each option beyond
it, and with those of modern.yaml together; scored with and without the flip test.

Every run is a command of the scripts at the root. The same command again does not repeat finished
runs, and resumes a training that was interrupted. On SIGTERM or Ctrl-C the trainings at work save
their checkpoints and end.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from lib.config import is_key
from lib.utils import cli
from tools.study import ablation, modern, supernet


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    studies = parser.add_subparsers(required=True)
    for study in (supernet, ablation, modern):
        study.add_parser(studies)
    flags, keys = keys_apart(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(flags)
    args.opts += keys
    return args


def keys_apart(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags, and all KEY VALUE, which flags of several words (--seeds 0 1) would take."""
    flags, keys = [], []
    words = iter(argv)
    for word in words:
        if is_key(word):
            keys += [word, *([value] if (value := next(words, None)) is not None else [])]
        else:
            flags.append(word)
    return flags, keys


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    print(args.study(args))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    cli.run(main)
