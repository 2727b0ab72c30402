"""How long each form of an exported network takes: `python -m tools.benchmark latency FOLDER`.

FOLDER is what tools/export wrote. PyTorch as valid.py runs it, the torch.export program, ONNX
Runtime in floats and in 8 bits compute the same graph of one picture, in turns, on each number of
threads; medians. Then the memory of a process that does nothing else, and what does not depend on
the machine: multiply-adds and bytes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from lib.core.images import normalize
from lib.deploy.fold import fold_norms
from lib.search.latency import machine, median_times
from lib.utils.complexity import count_macs_of, count_params
from lib.utils.run_card import hardware
from tools.benchmark.activations import PeakActivations
from tools.benchmark.train import traffic
from tools.export.__main__ import read_size
from tools.export.forms import eager_graph, forms_in, noise_image, open_form

MIB = 2**20


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="what tools/export wrote")
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1 and all")
    parser.add_argument("--size", metavar="WxH", help="of the input; default: what the card says")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace, device: torch.device) -> None:
    forms = forms_in(args.folder)
    card = json.loads((args.folder / "card.json").read_text())
    size = input_size(card, args.size)
    picture = noise_image(size)
    counts = args.threads or sorted({1, torch.get_num_threads()})
    if min(counts) < 1 or args.rounds < 1:
        raise ValueError("--threads and --rounds are numbers from 1")
    times: dict[str, dict[int, float]] = {name: {} for name in forms}
    for threads in counts:
        calls = [open_form(path, threads) for path in forms.values()]
        bound = [lambda call=call: call(picture) for call in calls]
        for name, ms in zip(forms, median_times(bound, args.rounds), strict=True):
            times[name][threads] = ms
    report = {
        "machine": f"{hardware()['cpu']}, {machine(torch.device('cpu'))}",
        "input": f"{size[0]} x {size[1]}",
        "outputs": card["outputs"],
        "rounds": args.rounds,
        "milliseconds": times,
        "process_mb": {name: memory_of(path, size, max(counts)) for name, path in forms.items()},
        "file_mib": {
            name: path.stat().st_size / MIB for name, path in forms.items() if name == path.name
        },
        "cost": cost_of(card, size),
    }
    print(json.dumps(report, indent=2) if args.json else tables(report))


def input_size(card: dict[str, Any], text: str | None) -> tuple[int, int]:
    """(width, height) as told, as exported, or a square of the side that the card names."""
    fixed, side = card["input"]["size"], card["input"]["side"]
    if text is None:
        return tuple(fixed) if fixed else (side, side)
    size = read_size(text)
    if fixed and list(size) != list(fixed):
        raise ValueError(f"--size is {text}; exported for {fixed[0]}x{fixed[1]} alone")
    return size


def memory_of(path: Path, size: tuple[int, int], threads: int) -> list[float]:
    """MB of a process of its own: with its libraries, with the network open, after five runs."""
    command = [
        sys.executable,
        "-m",
        "tools.export.forms",
        path,
        f"{size[0]}x{size[1]}",
        str(threads),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{path} could not be run alone: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def cost_of(card: dict[str, Any], size: tuple[int, int]) -> dict[str, int]:
    """What the network alone costs on any machine, in float32, BatchNorms folded."""
    network = fold_norms(eager_graph(card).network)
    image = normalize(torch.from_numpy(noise_image(size)))
    passes = 1 + card["flip_test"]
    with torch.no_grad(), PeakActivations() as memory:
        network(torch.cat([image] * passes))
    params = count_params(network)
    return {
        "parameters": params,
        "macs": passes * count_macs_of(network, image)["true"],
        "weights_bytes": 4 * params,
        "activations_bytes": memory.peak,
        "traffic_bytes": passes * traffic(network, image),
    }


def tables(report: dict[str, Any]) -> str:
    """The report as markdown."""
    times, memory = report["milliseconds"], report["process_mb"]
    counts = list(next(iter(times.values())))
    head = ["", *(f"ms, {n} thread{'s' * (n > 1)}" for n in counts), "times as fast as eager"]
    head += ["process, MB: libraries", "open", "running", "file, MiB"]
    eager = next(iter(times))
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, own in times.items():
        ratio = ", ".join(f"{times[eager][n] / own[n]:.2f}" for n in counts)
        file = report["file_mib"].get(name)
        cells = [name, *(f"{own[n]:.1f}" for n in counts), ratio]
        cells += [*(f"{mb:.0f}" for mb in memory[name]), f"{file:.2f}" if file else "-"]
        lines.append(f"| {' | '.join(cells)} |")
    cost = report["cost"]
    return "\n".join(
        [
            f"{report['machine']}\n{report['input']} px, batch 1, outputs "
            f"{', '.join(report['outputs'])}; medians of {report['rounds']} turns\n",
            *lines,
            "\n| network alone, float32 | parameters | GMACs | weights, MiB | largest sum of maps, "
            "MiB | read and written, MiB |\n|---|---|---|---|---|---|",
            f"| | {cost['parameters']:,} | {cost['macs'] / 1e9:.3f} | "
            f"{cost['weights_bytes'] / MIB:.2f} | {cost['activations_bytes'] / MIB:.1f} | "
            f"{cost['traffic_bytes'] / MIB:.1f} |",
        ]
    )
