"""The forms of an exported network, each run with its own library and nothing else.

    python -m tools.export.forms exported/model.onnx 256x256 2 openvino   # with two threads

prints the peak memory of a process that does only this, in MB: with the library loaded, with the
network open, after five runs. PyTorch is imported only for the forms that need it.

Loading a torch.export program executes what is pickled in it. So none is loaded from a file: the
process that made a program passes its content, to `-` through standard input.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.deploy.session import open_session, package_of
from lib.utils.reading import read_json

if TYPE_CHECKING:
    from lib.deploy.graph import Graph

Form = Path | bytes  # a file; or the content of a torch.export program that this code made
Run = Callable[[np.ndarray], Sequence[Any]]  # images (B, H, W, 3) uint8 -> outputs
MAX_CARD, MAX_SIDE = 2**22, 4096  # bytes; pixels
FORMS = {  # file in the folder -> name
    "card.json": "PyTorch eager",  # the network that the card describes, with random weights
    "model.onnx": "model.onnx",
    "model-int8.onnx": "model-int8.onnx",
}
# Of other runtimes (--to):
OTHERS = ("model.xml", "model.ncnn.bin", "model-fp16.ncnn.bin", "model.pte")
OPENERS = {".bin": "open_ncnn", ".pte": "open_executorch"}  # in tools.export.runtimes
LIBRARIES = {".bin": "ncnn", ".onnx": None, ".xml": "openvino"}  # None: that of the runtime


def forms_in(folder: Path) -> dict[str, Path]:
    """Name -> file; ValueError where tools/export wrote nothing."""
    names = {**FORMS, **dict(zip(OTHERS, OTHERS, strict=True))}
    forms = {name: folder / file for file, name in names.items() if (folder / file).is_file()}
    if "PyTorch eager" not in forms or len(forms) == 1:
        raise ValueError(f"{folder} holds no exported network; write one: python -m tools.export")
    return forms


def read_card(path: Path) -> dict[str, Any]:
    """The card that tools/export wrote; ValueError if the file is none."""
    card = read_json(path, "card", MAX_CARD)
    try:
        sides = [card["input"]["side"], *(card["input"]["size"] or ())]
        known = [card["provenance"]["config"], *card["outputs"]]
        is_card = all(type(side) is int and 0 < side <= MAX_SIDE for side in sides)
        is_card = is_card and len(sides) in (1, 3) and all(type(text) is str for text in known)
        is_card = is_card and "arch" in card["provenance"] and "flip_test" in card
    except (KeyError, TypeError):
        is_card = False
    if not is_card:
        raise ValueError(f"{path} is not the card of an exported network")
    return card


def open_form(form: Form, threads: int, runtime: str = "onnxruntime") -> Run:
    """A function that runs the form on that many threads; ValueError if it cannot be opened.

    runtime: of *.onnx, one of `lib.deploy.session.RUNTIMES`.
    """
    if isinstance(form, Path) and form.suffix in (".onnx", ".xml"):
        return open_session(form, "openvino" if form.suffix == ".xml" else runtime, threads)
    if isinstance(form, Path) and form.suffix in OPENERS:
        opener = getattr(importlib.import_module("tools.export.runtimes"), OPENERS[form.suffix])
        return opener(form, threads)
    import torch

    torch.set_num_threads(threads)
    if isinstance(form, bytes):
        module = torch.export.load(io.BytesIO(form)).module()
    elif form.suffix == ".json":
        module = eager_graph(read_card(form))
    else:
        raise ValueError(f"{form} is not opened: loading a torch.export program can execute code")

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
    try:
        arch = ArchSpec.from_dict(provenance["arch"]) if provenance["arch"] else None
        model = place(build_model(cfg, arch), torch.device("cpu"), channels_last=True).eval()
    except ValueError as error:
        raise ValueError(f"the network in the card: {error}") from None
    settings = InferenceSettings.from_config(cfg)
    for graph in (graph(settings, model).eval() for graph in GRAPHS.values()):
        if list(graph.outputs) == card["outputs"]:
            return graph
    raise ValueError(f"the card names outputs of no graph: {', '.join(card['outputs'])[:80]}")


def noise_image(size: tuple[int, int]) -> np.ndarray:
    """(1, H, W, 3) uint8 of noise; size: width, height."""
    width, height = size
    return np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)


def peak_memory() -> float:
    """MB that this process used at most (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    form = sys.stdin.buffer.read() if sys.argv[1] == "-" else Path(sys.argv[1])
    width, height = map(int, sys.argv[2].split("x"))
    images = noise_image((width, height))
    runtime = sys.argv[4]
    library = LIBRARIES.get(Path(sys.argv[1]).suffix, "torch")
    importlib.import_module(library or package_of(runtime))
    peaks = [peak_memory()]
    run_form = open_form(form, int(sys.argv[3]), runtime)
    peaks.append(peak_memory())
    for _ in range(5):
        run_form(images)
    print(json.dumps([*peaks, peak_memory()]))
