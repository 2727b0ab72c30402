"""The forms of an exported network, each run with what it needs and nothing else.

    python -m tools.export.forms exported/model.onnx 256x256 2   # with two threads

prints the most memory that a process which does only this ever held, in MB: as the code is loaded,
as the network is opened, as it has run. PyTorch is imported where a form needs it.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

Run = Callable[[np.ndarray], Sequence[Any]]  # pictures (B, H, W, 3) uint8 -> outputs
FORMS = {  # file in the folder -> name
    "card.json": "PyTorch eager",  # the network that the card describes, weights at random
    "model.pt2": "model.pt2",
    "model.onnx": "model.onnx",
    "model-int8.onnx": "model-int8.onnx",
}


def forms_in(folder: Path) -> dict[str, Path]:
    """Name -> file; ValueError where tools/export wrote nothing."""
    found = {name: folder / file for file, name in FORMS.items() if (folder / file).is_file()}
    if "PyTorch eager" not in found or len(found) == 1:
        raise ValueError(f"{folder} holds no exported network; write one: python -m tools.export")
    return found


def open_form(path: Path, threads: int) -> Run:
    """A call that runs the form in `path` on so many threads."""
    if path.suffix == ".onnx":
        return open_onnx(path, threads)
    import torch

    torch.set_num_threads(threads)
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
    else:
        module = eager_graph(json.loads(path.read_text()))

    @torch.inference_mode()
    def run(pictures: np.ndarray) -> Sequence[Any]:
        return module(torch.from_numpy(pictures))

    return run


def open_onnx(path: Path, threads: int) -> Run:
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would wait for the next run with the processor busy, and slow down whatever else.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = InferenceSession(path, options, ["CPUExecutionProvider"])
    return lambda pictures: session.run(None, {"pictures": pictures})


def eager_graph(card: dict[str, Any]) -> nn.Module:
    """The card's graph, its network as valid.py runs it: channels last, BatchNorms not folded."""
    import torch

    from lib.config import read_config
    from lib.deploy.graph import GRAPHS
    from lib.models import build_model
    from lib.models.arch import ArchSpec

    said = card["provenance"]
    cfg = read_config(said["config"], "the config in the card")
    model = build_model(cfg, ArchSpec.from_dict(said["arch"]) if said["arch"] else None)
    model = model.eval().to(memory_format=torch.channels_last)
    graphs = {tuple(graph(cfg, model).outputs): graph for graph in GRAPHS.values()}
    return graphs[tuple(card["outputs"])](cfg, model).eval()


def noise_image(size: tuple[int, int]) -> np.ndarray:
    """(1, H, W, 3) uint8 of noise."""
    width, height = size
    return np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)


def peak_memory() -> float:
    """MB that this process held at most; of Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    form = Path(sys.argv[1])
    width, height = map(int, sys.argv[2].split("x"))
    given = noise_image((width, height))
    importlib.import_module("onnxruntime" if form.suffix == ".onnx" else "torch")
    peaks = [peak_memory()]
    call = open_form(form, int(sys.argv[3]))
    peaks.append(peak_memory())
    for _ in range(5):
        call(given)
    print(json.dumps([*peaks, peak_memory()]))
