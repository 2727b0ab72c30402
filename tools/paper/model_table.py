"""The costs and latencies of the networks in the paper's tables, next to the paper's figures.

    python -m tools.paper.model_table --no-latency
    python -m tools.paper.model_table --onnx --json table.json --figures docs
    python -m tools.paper.model_table --doc docs/results.md --figures docs

Parameters, multiply-adds (lib/utils/complexity.py) and activations
(tools/benchmark/activations.py) are computed; latency is measured at batch 1 with random weights:
medians of --rounds turns. OMP_NUM_THREADS sets the number of threads. Measure on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.analysis.report import make_folders
from lib.search.latency import machine
from lib.utils import cli
from lib.utils.files import write_file
from lib.utils.plots import families, save_figure
from lib.utils.run_card import hardware
from lib.utils.tables import markdown
from tools.paper.networks import (
    SLOW,
    Cost,
    Times,
    cost_of,
    default_device,
    measure,
    speed_ups,
    timed,
)
from tools.paper.tables import DEVICES, TABLES, Row

PLOTTED = "channels last"  # the way of the figure; the default of MODEL.CHANNELS_LAST
FAMILIES = {  # folder of the experiment -> name
    "mobilenet": "LitePose",
    "higher_hrnet": "HigherHRNet",
    "efficient_hrnet": "EfficientHRNet",
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--no-latency", action="store_true", help="only computed costs, no latency")
    parser.add_argument("--onnx", action="store_true", help="time ONNX Runtime, too")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each network (default 20)")
    parser.add_argument("--json", metavar="PATH", help="write all figures, with machine and date")
    parser.add_argument("--figures", metavar="FOLDER", help="plot AP over MACs and over latency")
    parser.add_argument("--doc", type=Path, help="write the tables into this page")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.rounds < 1:
        raise ValueError(f"--rounds is {args.rounds}; at least 1")
    make_folders(args.json, args.figures and f"{args.figures}/ap_macs.png")
    page = read_page(args.doc) if args.doc else ""
    costs = {row: cost_of(row) for rows in TABLES.values() for row in rows}
    times = {} if args.no_latency else measure(args.rounds, args.onnx)
    parts = {"costs": cost_tables(costs)}
    if times:
        parts["latency"] = latency_tables(times, args.rounds)
    print("\n\n".join(parts.values()))
    if args.json:
        rows = records(costs, times)
        tree = {**where_and_when(), "rows": rows, "times_as_fast": speed_ups(times)}
        write_file(args.json, json.dumps(tree, indent=2) + "\n")
    if args.figures:
        plot(Path(args.figures), costs, times)
    if args.doc:
        for name, text in parts.items():
            page = with_part(page, name, text)
        write_file(args.doc, page)


# -------------------------------------------------------------------------------- the tables
def cost_tables(costs: Mapping[Row, Cost]) -> str:
    """Markdown: what is computed, a table for each of the paper's."""
    head = ["network", "input", "parameters, M", "*paper*", "GMACs", "paper's rule", "*paper*"]
    head += ["activations, MiB", "AP *paper*"]
    parts = []
    for title, rows in TABLES.items():
        cells = [cost_cells(row, costs[row]) for row in rows]
        parts.append(f"### {title}\n\n{markdown(head, cells)}")
    return "\n\n".join(parts)


def cost_cells(row: Row, cost: Cost) -> list[object]:
    params, macs = f"{cost.params / 1e6:.2f}", f"{cost.macs / 1e9:.2f}"
    cells = [row.name, cost.size, params, row.params, macs, f"{cost.paper_macs / 1e9:.2f}"]
    cells += [row.gmacs, f"{cost.activations / 2**20:.0f}", row.ap]
    return ["-" if cell is None else cell for cell in cells]


def latency_tables(times: Times, rounds: int) -> str:
    """Markdown: milliseconds of each network, then the pairs; first, where, when and how."""
    ways = ways_of(times)
    rows = [
        [name, *(f"{times[name][way]:.0f}" for way in ways), *(row.milliseconds or ["-"] * 3)]
        for name, row in sorted(timed().items())
    ]
    pairs = [
        [
            f"{pair['fast']} : {pair['slow']}",
            *(f"{ratio:.1f} x" for part in ("here", "paper") for ratio in pair[part].values()),
        ]
        for pair in speed_ups(times)
    ]
    columns = [*ways, *(f"{device} *paper*" for device in DEVICES)]
    circumstances = where_and_when()
    return (
        f"{circumstances['machine']}; {circumstances['date']}. Milliseconds, medians of {rounds} "
        f"turns, of {', '.join(SLOW)} a quarter:\n\n{markdown(['network', *columns], rows)}\n\n"
        f"Speed-up:\n\n{markdown(['', *columns], pairs)}"
    )


def ways_of(times: Times) -> list[str]:
    """The names of the measured columns."""
    return list(next(iter(times.values()), ()))


def where_and_when() -> dict[str, str]:
    return {
        "machine": f"{hardware()['cpu']}, {machine(default_device())}",
        "date": time.strftime("%Y-%m-%d"),
    }


def records(costs: Mapping[Row, Cost], times: Times) -> list[dict[str, Any]]:
    """A flat dict for each row of the tables, all with the same keys."""
    records = []
    for title, rows in TABLES.items():
        for row in rows:
            record = {"table": title, "network": row.name, **costs[row]._asdict()}
            for name in ("ap", "gmacs", "params"):
                record[f"paper {name}"] = getattr(row, name)
            milliseconds = row.milliseconds or [None] * len(DEVICES)
            for device, value in zip(DEVICES, milliseconds, strict=True):
                record[f"paper {device} ms"] = value
            for way in ways_of(times):
                record[f"{way} ms"] = times.get(row.name, {}).get(way)
            records.append(record)
    return records


def plot(folder: Path, costs: Mapping[Row, Cost], times: Times) -> None:
    """The paper's AP on CrowdPose over what was computed and measured here."""
    rows = TABLES["CrowdPose test"]
    axes = {"macs": ({row: costs[row].paper_macs / 1e9 for row in rows}, "GMACs, paper's rule")}
    if times:
        label = f"milliseconds here, {PLOTTED}"
        axes["latency"] = ({row: times[row.name][PLOTTED] for row in rows}, label)
    for name, (values, label) in axes.items():
        series: dict[str, list[tuple[str, tuple[float, float]]]] = {}
        for row in rows:
            family = FAMILIES[row.experiment.split("/")[1]]
            short = row.name.removeprefix(f"{family}-")
            series.setdefault(family, []).append((short, (values[row], row.ap)))
        figure = families(series, (label, "AP, CrowdPose test (paper)"))
        save_figure(folder / f"ap_{name}.png", figure)


# ------------------------------------------------------------------------------------ the page
def marks(name: str) -> tuple[str, str]:
    """The lines around a part that this tool writes."""
    return f"<!-- {name}: written by tools/paper/model_table.py -->", f"<!-- end of {name} -->"


def read_page(path: Path) -> str:
    """The text of a page that has all marks."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    for name in ("costs", "latency"):
        first, last = marks(name)
        if text.count(first) != 1 or text.count(last) != 1 or text.index(first) > text.index(last):
            raise ValueError(f"{path} must have one line {first} and, below it, one {last}")
    return text


def with_part(page: str, name: str, text: str) -> str:
    """`page` with `text` between its marks."""
    first, last = marks(name)
    before, _, rest = page.partition(first)
    _, _, after = rest.partition(last)
    return f"{before}{first}\n{text}\n{last}{after}"


if __name__ == "__main__":
    cli.run(main)
