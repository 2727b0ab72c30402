"""The latency and the memory of an exported network in all its forms.

FOLDER is the output of tools/export. PyTorch as in valid.py, a torch.export program, and each
installed runtime in floats and in 8 bits compute the same graph of one image in turns, on each
number of threads; medians are reported. The program is exported again from card.json: loading
FOLDER/model.pt2 could execute code. A matrix product takes its turns, too: as many multiply-adds as
the network's, at its rate, are the arithmetic bound of the machine. Also reported: the memory of a
process that runs one form only, and the costs that do not depend on the machine (multiply-adds and
bytes).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lib.core.images import normalize
from lib.deploy.export import make_program, program_file
from lib.deploy.fold import fold_norms
from lib.deploy.session import installed_runtimes
from lib.search.latency import machine, median_times
from lib.utils.complexity import count_macs_of, count_params
from lib.utils.run_card import hardware
from lib.utils.tables import markdown
from tools.benchmark.activations import PeakActivations, traffic
from tools.export.__main__ import read_size
from tools.export.forms import Form, eager_graph, forms_in, noise_image, open_form, read_card

MIB = 2**20
PROGRAM = "torch.export"  # the row of the program
SIDE = 1024  # of the matrices of the arithmetic bound


class Candidate(NamedTuple):
    """What is timed, and the runtime of *.onnx."""

    form: Form
    runtime: str = "onnxruntime"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="the output of tools/export")
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1 and all")
    parser.add_argument("--size", metavar="WxH", help="of the input; default: as in the card")
    parser.add_argument("--rounds", type=int, default=20)


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    files = forms_in(args.folder)
    card = read_card(args.folder / "card.json")
    size = input_size(card, args.size)
    forms = candidates(files, card)
    images = noise_image(size)
    counts = args.threads or sorted({1, torch.get_num_threads()})
    if min(counts) < 1 or args.rounds < 1:
        raise ValueError("--threads and --rounds are numbers from 1")
    cost = cost_of(card, size)
    times: dict[str, dict[str, float]] = {name: {} for name in forms}
    bound: dict[str, float] = {}
    matrix = torch.rand(SIDE, SIDE)
    for threads in counts:
        runs = [open_form(form, threads, runtime) for form, runtime in forms.values()]
        calls = [lambda run=run: run(images) for run in runs]
        *medians, product = median_times([*calls, lambda: matrix @ matrix], args.rounds)
        for name, ms in zip(forms, medians, strict=True):
            times[name][str(threads)] = ms
        bound[str(threads)] = product * cost["macs"] / SIDE**3
    sizes = {
        name: one.form.stat().st_size
        for name, one in forms.items()
        if isinstance(one.form, Path) and one.form.suffix == ".onnx"
    }
    return {
        "machine": f"{hardware()['cpu']}, {machine(torch.device('cpu'))}",
        "input": f"{size[0]} x {size[1]}",
        "outputs": card["outputs"],
        "rounds": args.rounds,
        "milliseconds": times,
        "process_mb": {name: memory_of(one, size, max(counts)) for name, one in forms.items()},
        "file_mib": {name: count / MIB for name, count in sizes.items()},
        "cost": cost,
        "bound_ms": bound,
    }


def candidates(files: Mapping[str, Path], card: dict[str, Any]) -> dict[str, Candidate]:
    """By name: each file, by each installed runtime, and the program of the card's graph."""
    result = {}
    for name, path in files.items():
        if path.suffix == ".onnx":
            for runtime in installed_runtimes():
                result[f"{name}, {runtime}"] = Candidate(path, runtime)
        else:
            result[name] = Candidate(path)
    return result | {PROGRAM: Candidate(export_again(card))}


def input_size(card: dict[str, Any], text: str | None) -> tuple[int, int]:
    """(width, height) of --size, of the export, or a square with the side in the card."""
    fixed, side = card["input"]["size"], card["input"]["side"]
    if text is None:
        return (fixed[0], fixed[1]) if fixed else (side, side)
    size = read_size(text)
    if fixed and list(size) != list(fixed):
        raise ValueError(f"--size is {text}; exported for {fixed[0]}x{fixed[1]} alone")
    return size


def export_again(card: dict[str, Any]) -> bytes:
    """A torch.export program of the graph in the card, with random weights; BatchNorms folded."""
    graph, size = eager_graph(card), card["input"]["size"]
    graph.network = fold_norms(graph.network)
    return program_file(make_program(graph, (size[0], size[1]) if size else None))


def memory_of(candidate: Candidate, size: tuple[int, int], threads: int) -> list[float]:
    """Peak MB of a new process: with its libraries, with the network open, after five runs."""
    form, runtime = candidate
    name, content = ("-", form) if isinstance(form, bytes) else (str(form), None)
    command = [sys.executable, "-m", "tools.export.forms", name]
    command += [f"{size[0]}x{size[1]}", str(threads), runtime]
    done = subprocess.run(command, input=content, capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()[-500:]
        raise RuntimeError(f"{name} failed in a new process: {reason}")
    return json.loads(done.stdout)


def cost_of(card: dict[str, Any], size: tuple[int, int]) -> dict[str, int]:
    """The costs of the network alone on any machine, in float32, BatchNorms folded."""
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


def table(report: dict[str, Any]) -> str:
    times = report["milliseconds"]
    eager = next(iter(times.values()))
    head = ["", *(f"ms, {n} thread{'' if n == '1' else 's'}" for n in eager)]
    head += ["speed-up over eager", "process, MB: libraries", "open", "running", "file, MiB"]
    rows = []
    for name, ms in times.items():
        speed_ups = ", ".join(f"{eager[n] / ms[n]:.2f}" for n in eager)
        file = report["file_mib"].get(name)
        row = [name, *(f"{ms[n]:.1f}" for n in eager), speed_ups]
        row += [*(f"{mb:.0f}" for mb in report["process_mb"][name])]
        rows.append([*row, f"{file:.2f}" if file else "-"])
    cost = report["cost"]
    network = [f"{cost['parameters']:,}", f"{cost['macs'] / 1e9:.3f}"]
    for key in ("weights_bytes", "activations_bytes", "traffic_bytes"):
        network.append(f"{cost[key] / MIB:.2f}")
    columns = ["network alone, float32: parameters", "GMACs", "weights, MiB"]
    columns += ["peak activations, MiB", "traffic, MiB"]
    bound = ", ".join(f"{ms:.1f} ms on {n}" for n, ms in report["bound_ms"].items())
    bound = f"as many multiply-adds in a float32 matrix product, in the same turns: {bound} threads"
    title = f"{report['input']} px, batch 1, outputs {', '.join(report['outputs'])}"
    return (
        f"{report['machine']}\n{title}; medians of {report['rounds']} turns\n\n"
        f"{markdown(head, rows)}\n\n{bound}\n\n{markdown(columns, [network])}"
    )
