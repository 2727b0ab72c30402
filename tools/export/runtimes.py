"""Networks in the files of other runtimes, run by these alone (`tools.export --to`).

The libraries are optional: none is imported before a network is opened.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lib.utils import text
from lib.utils.files import write_file
from tools.export.forms import Run, read_card

INSTALL = {
    "openvino": "pip install openvino",
    "ncnn": "pip install pnnx ncnn",
    "executorch": "pip install executorch",
}


def load(module: str, runtime: str) -> Any:
    """A module; ValueError, with the command that installs it, where it cannot be imported."""
    try:
        with quiet():
            return import_module(module)
    except (ImportError, OSError) as error:  # OSError: of a library that it loads
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{runtime} cannot be used ({reason}): {INSTALL[runtime]}") from None


def save_openvino(model: Any, path: Path) -> None:
    """Write a model of OpenVINO as `path`, *.xml, and the *.bin next to it, weights as they are."""
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / path.name
        load("openvino", "openvino").save_model(model, saved, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            write_file(path.with_suffix(suffix), saved.with_suffix(suffix).read_bytes())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of libraries about one another."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def open_ncnn(path: Path, threads: int) -> Run:
    """The network in *.bin and *.param, for one image at a time, as the card next to them says."""
    ncnn = load("ncnn", "ncnn")
    card = read_card(path.with_name("card.json"))
    try:
        [rules] = [rules for rules in card["runtimes"].values() if path.name in rules["files"]]
        entrance, mean, norm = (rules["input"][key] for key in ("name", "mean", "norm"))
        names = [output["name"] for output in rules["outputs"]]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"the card next to {path} does not describe it; export it again") from None
    net = ncnn.Net()
    net.opt.num_threads = threads
    if net.load_param(str(path.with_suffix(".param"))) or net.load_model(str(path)):
        raise ValueError(f"{path} cannot be run by ncnn")

    def run(images: np.ndarray) -> list[np.ndarray]:
        [image] = images
        height, width = image.shape[:2]
        mat = ncnn.Mat.from_pixels(image, ncnn.Mat.PixelType.PIXEL_RGB, width, height)
        mat.substract_mean_normalize(mean, norm)
        extractor = net.create_extractor()
        extractor.input(entrance, mat)
        outputs = [extractor.extract(name) for name in names]
        if any(code for code, _ in outputs):
            raise ValueError(f"{path}: ncnn fails on an input of {width} x {height}")
        return [np.array(output)[None] for _, output in outputs]

    return run


def open_executorch(path: Path, threads: int) -> Run:
    """The program in a *.pte file; the number of threads is that of the whole process."""
    import torch

    library = load("executorch.extension.pybindings.portable_lib", "executorch")
    runtime = load("executorch.runtime", "executorch").Runtime.get()
    if threads:
        library._unsafe_reset_threadpool(threads)  # of networks that are not running
    try:
        program = runtime.load_program(str(path))
        method = program.load_method("forward")
    except Exception as error:  # the runtime's errors have no other common base
        raise ValueError(f"{path} cannot be run by ExecuTorch: {first_line(error)}") from None

    def run(images: np.ndarray) -> list[np.ndarray]:
        return [output.numpy().copy() for output in method.execute([torch.from_numpy(images)])]

    return run


def first_line(error: BaseException, limit: int = 200) -> str:
    """The message of the first cause of an error, in one line."""
    while error.__cause__:
        error = error.__cause__
    return text.first_line(error)[:limit]
