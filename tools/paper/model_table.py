"""What the networks of the paper's tables cost here, beside the paper's figures.

    python -m tools.paper.model_table --no-latency
    python -m tools.paper.model_table --onnx --csv table.csv --json table.json --figures docs
    python -m tools.paper.model_table --doc docs/results.md --figures docs

Parameters, multiply-adds (lib/utils/complexity.py) and activations
(tools/benchmark/activations.py) are computed; latency is measured at batch 1 with random weights,
medians of --rounds turns. OMP_NUM_THREADS sets the number of threads. Measure on an idle machine.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.analysis.report import make_folders
from lib.search.latency import machine
from lib.utils import cli
from lib.utils.plots import families, save_figure
from lib.utils.run_card import hardware
from tools.paper.networks import (
    SLOW,
    Cost,
    Times,
    cost_of,
    default_device,
    measure,
    ratios,
    timed,
)
from tools.paper.tables import DEVICES, TABLES, Row

SHOWN = "channels last"  # in the figure; what MODEL.CHANNELS_LAST has by default
FAMILIES = {  # folder of the experiment -> name
    "mobilenet": "LitePose",
    "higher_hrnet": "HigherHRNet",
    "efficient_hrnet": "EfficientHRNet",
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-latency", action="store_true", help="only what is computed")
    parser.add_argument("--onnx", action="store_true", help="time ONNX Runtime, too")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each network (default 20)")
    parser.add_argument("--csv", metavar="PATH", help="write a line for each row of the tables")
    parser.add_argument("--json", metavar="PATH", help="the same, with machine and date")
    parser.add_argument("--figures", metavar="FOLDER", help="AP over MACs, and over latency")
    parser.add_argument("--doc", type=Path, help="put the tables between the marks in this page")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.rounds < 1:
        raise ValueError(f"--rounds is {args.rounds}; at least 1")
    make_folders(args.csv, args.json, args.figures and f"{args.figures}/ap_macs.png")
    page = read_page(args.doc) if args.doc else ""
    costs = {row: cost_of(row) for rows in TABLES.values() for row in rows}
    times = {} if args.no_latency else measure(args.rounds, args.onnx)
    parts = {"costs": costs_text(costs)}
    if times:
        parts["latency"] = latency_text(times, args.rounds)
    print("\n\n".join(parts.values()))
    if args.csv:
        write_csv(args.csv, records(costs, times))
    if args.json:
        tree = {**where_and_when(), "rows": records(costs, times), "times_as_fast": ratios(times)}
        Path(args.json).write_text(json.dumps(tree, indent=2) + "\n")
    if args.figures:
        draw(Path(args.figures), costs, times)
    if args.doc:
        for name, text in parts.items():
            page = with_part(page, name, text)
        args.doc.write_text(page)


# -------------------------------------------------------------------------------- the tables
def costs_text(costs: Mapping[Row, Cost]) -> str:
    """The tables of what is computed, each below its title."""
    head = (
        *("network", "input", "parameters, M", "*paper*", "GMACs", "paper's rule", "*paper*"),
        *("activations, MiB", "AP *paper*"),
    )
    parts = []
    for title, rows in TABLES.items():
        cells = [cost_cells(row, costs[row]) for row in rows]
        parts.append(f"### {title}\n\n{markdown(head, cells)}")
    return "\n\n".join(parts)


def cost_cells(row: Row, cost: Cost) -> list[str]:
    said = row.said
    return [
        *(row.name, str(cost.size), f"{cost.params / 1e6:.2f}", cell(said.params)),
        *(f"{cost.macs / 1e9:.2f}", f"{cost.paper_macs / 1e9:.2f}", cell(said.gmacs)),
        *(f"{cost.activations / 2**20:.0f}", cell(said.ap)),
    ]


def latency_text(times: Times, rounds: int) -> str:
    """Milliseconds of each network, then the pairs; above them, what was done where and when."""
    told, ways = where_and_when(), ways_of(times)
    rows = sorted(timed().values(), key=lambda row: row.name)
    cells = [
        [
            *(row.name, *(f"{times[row.name][way]:.0f}" for way in ways)),
            *map(cell, row.said.milliseconds or (None,) * len(DEVICES)),
        ]
        for row in rows
    ]
    papers = [f"{device} *paper*" for device in DEVICES]
    pairs = [
        [
            f"{pair['fast']} : {pair['slow']}",
            *(f"{ratio:.1f} x" for part in ("here", "paper") for ratio in pair[part].values()),
        ]
        for pair in ratios(times)
    ]
    return (
        f"{told['machine']}; {told['date']}. Milliseconds, medians of {rounds} turns, of "
        f"{', '.join(SLOW)} a quarter:\n\n"
        f"{markdown(('network', *ways, *papers), cells)}\n\n"
        f"Times as fast:\n\n{markdown(('', *ways, *papers), pairs)}"
    )


def ways_of(times: Times) -> list[str]:
    """The columns of what was measured."""
    return list(next(iter(times.values()), ()))


def cell(value: float | None) -> str:
    return "-" if value is None else str(value)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def where_and_when() -> dict[str, str]:
    return {
        "machine": f"{hardware()['cpu']}, {machine(default_device())}",
        "date": time.strftime("%Y-%m-%d"),
    }


def records(costs: Mapping[Row, Cost], times: Times) -> list[dict[str, Any]]:
    """A flat dict for each row of the tables, all with the same keys."""
    found = []
    for title, rows in TABLES.items():
        for row in rows:
            record = {"table": title, "network": row.name, **costs[row]._asdict()}
            said = row.said._asdict()
            milliseconds = said.pop("milliseconds") or (None,) * len(DEVICES)
            record |= {f"paper {key}": value for key, value in said.items()}
            for device, value in zip(DEVICES, milliseconds, strict=True):
                record[f"paper {device} ms"] = value
            for way in ways_of(times):
                record[f"{way} ms"] = times.get(row.name, {}).get(way)
            found.append(record)
    return found


def write_csv(path: str, rows: Sequence[Mapping[str, Any]]) -> None:
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def draw(folder: Path, costs: Mapping[Row, Cost], times: Times) -> None:
    """The paper's AP on CrowdPose over what was computed and measured here."""
    rows = TABLES["CrowdPose test"]
    across = {"macs": ({row: costs[row].paper_macs / 1e9 for row in rows}, "GMACs, paper's rule")}
    if times:
        unit = f"milliseconds here, {SHOWN}"
        across["latency"] = ({row: times[row.name][SHOWN] for row in rows}, unit)
    for name, (values, label) in across.items():
        series: dict[str, list] = {}
        for row in rows:
            family = FAMILIES[row.experiment.split("/")[1]]
            short = row.name.removeprefix(f"{family}-")
            series.setdefault(family, []).append((short, (values[row], row.said.ap)))
        figure = families(series, (label, "AP, CrowdPose test (paper)"))
        save_figure(folder / f"ap_{name}.png", figure)


# ------------------------------------------------------------------------------------ the page
def marks(name: str) -> tuple[str, str]:
    """The lines around a part that this tool writes."""
    return f"<!-- {name}: written by tools/paper/model_table.py -->", f"<!-- end of {name} -->"


def read_page(path: Path) -> str:
    """The text of a page that has all marks."""
    try:
        text = path.read_text()
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
