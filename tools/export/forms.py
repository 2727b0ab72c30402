"""The forms of an exported network, each run with its own library and nothing else.

    python -m tools.export.forms exported/model.onnx 256x256 2   # with two threads

prints the peak memory of a process that does only this, in MB: with the library loaded, with the
network open, after five runs. PyTorch is imported only for the forms that need it.
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
    from lib.deploy.graph import Graph

Run = Callable[[np.ndarray], Sequence[Any]]  # images (B, H, W, 3) uint8 -> outputs
FORMS = {  # file in the folder -> name
    "card.json": "PyTorch eager",  # the network that the card describes, with random weights
    "model.pt2": "model.pt2",
    "model.onnx": "model.onnx",
    "model-int8.onnx": "model-int8.onnx",
}


def forms_in(folder: Path) -> dict[str, Path]:
    """Name -> file; ValueError where tools/export wrote nothing."""
    forms = {name: folder / file for file, name in FORMS.items() if (folder / file).is_file()}
    if "PyTorch eager" not in forms or len(forms) == 1:
        raise ValueError(f"{folder} holds no exported network; write one: python -m tools.export")
    return forms


def open_form(path: Path, threads: int) -> Run:
    """A function that runs the form in `path` on that many threads."""
    if path.suffix == ".onnx":
        from lib.deploy.session import open_session

        session = open_session(path, threads)
        [image_input] = session.get_inputs()
        return lambda images: session.run(None, {image_input.name: images})
    import torch

    torch.set_num_threads(threads)
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
    else:
        module = eager_graph(json.loads(path.read_text(encoding="utf-8")))

    @torch.inference_mode()
    def run(images: np.ndarray) -> Sequence[Any]:
        return module(torch.from_numpy(images))

    return run


def eager_graph(card: dict[str, Any]) -> Graph:
    """The card's graph as PyTorch runs it in valid.py: channels last, BatchNorms not folded."""
    import torch

    from lib.config import read_config
    from lib.core.inference import InferenceSettings
    from lib.deploy.graph import GRAPHS
    from lib.models import build_model, place
    from lib.models.arch import ArchSpec

    provenance = card["provenance"]
    cfg = read_config(provenance["config"], "the config in the card")
    arch = ArchSpec.from_dict(provenance["arch"]) if provenance["arch"] else None
    model = place(build_model(cfg, arch), torch.device("cpu"), channels_last=True).eval()
    settings = InferenceSettings.from_config(cfg)
    graphs = (graph(settings, model) for graph in GRAPHS.values())
    return next(graph.eval() for graph in graphs if list(graph.outputs) == card["outputs"])


def noise_image(size: tuple[int, int]) -> np.ndarray:
    """(1, H, W, 3) uint8 of noise; size: width, height."""
    width, height = size
    return np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)


def peak_memory() -> float:
    """MB that this process used at most (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    form = Path(sys.argv[1])
    width, height = map(int, sys.argv[2].split("x"))
    images = noise_image((width, height))
    importlib.import_module("onnxruntime" if form.suffix == ".onnx" else "torch")
    peaks = [peak_memory()]
    run_form = open_form(form, int(sys.argv[3]))
    peaks.append(peak_memory())
    for _ in range(5):
        run_form(images)
    print(json.dumps([*peaks, peak_memory()]))
