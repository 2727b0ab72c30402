"""Opens an exported network with a runtime; this file loads neither PyTorch nor the rest of lib.

    run = open_session(Path("exported/model.onnx"), "openvino")
    positions, values, tags, *_ = run(images)

Each runtime is loaded when it is first asked for: OpenVINO is optional. Several threads may call
`run` at the same time.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Run = Callable[[np.ndarray], list[np.ndarray]]  # the input -> the outputs, in the graph's order

# OpenVINO rounds to bfloat16 by default where the CPU computes with it, which moves people.
PRECISIONS = {"openvino": "f32", "openvino-bf16": "bf16"}
RUNTIMES = ("onnxruntime", *PRECISIONS)

# Two threads whose first inferences overlap make the Python types of OpenVINO 2026.4 at the same
# time: one fails ("Object of type 'iterator' is not an instance of 'iterator'"), or both hang.
STARTING = threading.Lock()


def open_session(
    model: Path | bytes, runtime: str = "onnxruntime", threads: int = 0, callers: int = 1
) -> Run:
    """A function that runs a network of one input on that many CPU threads (0: all cores).

    model: *.onnx, the content of such a file, or *.xml of OpenVINO. callers: how many threads will
    call it at the same time; a call has its share of the CPU threads. Two calls on one core each
    take less time than two on two cores, one after the other. ValueError, in one line, if the
    runtime is not installed or cannot run it.
    """
    if isinstance(model, Path) and str(model).encode(errors="ignore").decode() != str(model):
        raise ValueError(f"{model}: runtimes open only files whose names are UTF-8; rename it")
    name = "the network" if isinstance(model, bytes) else str(model)
    if runtime == "onnxruntime" and name.endswith(".xml"):
        raise ValueError(f"{name} is a network for OpenVINO: the runtime is openvino")
    library = load_runtime(runtime)
    try:
        if runtime == "onnxruntime":
            return _open_onnxruntime(library, model, threads and max(1, threads // callers))
        return _open_openvino(library, model, PRECISIONS[runtime], threads, callers)
    except Exception as error:  # the errors of a runtime have no other common base
        used = f"{package_of(runtime)} {library.__version__}"
        raise ValueError(f"{name} cannot be run by {used}: {_reason(error)}") from None


def installed_runtimes() -> list[str]:
    """Those of RUNTIMES whose library is there."""
    return [name for name in RUNTIMES if find_spec(package_of(name))]


def package_of(runtime: str) -> str:
    """The package to install for a runtime."""
    return runtime.removesuffix("-bf16")


def load_runtime(runtime: str) -> ModuleType:
    """The library of a runtime; ValueError, in one line, if there is none."""
    if runtime not in RUNTIMES:
        possible = f"{', '.join(RUNTIMES)}, and pytorch for weights"
        raise ValueError(f"the runtime is {runtime!r}; possible: {possible}")
    try:
        return importlib.import_module(package_of(runtime))
    except ImportError as error:
        raise ValueError(
            f"the runtime {runtime} is missing ({error}); "
            f"install it: pip install {package_of(runtime)}"
        ) from None


def _open_onnxruntime(onnxruntime: ModuleType, model: Path | bytes, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Idle threads would spin until the next run and slow down everything else.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name  # "images"; "pictures" in older files
    return lambda images: session.run(None, {name: images})


def _open_openvino(
    openvino: ModuleType, model: Path | bytes, precision: str, threads: int, callers: int
) -> Run:
    compiled = _compile(openvino, model, precision, threads, NUM_STREAMS=callers)
    mine = threading.local()  # a request computes one input at a time

    def run(images: np.ndarray) -> list[np.ndarray]:
        if hasattr(mine, "request"):
            return list(mine.request.infer([images]).values())
        with STARTING:
            mine.request = compiled.create_infer_request()
            return list(mine.request.infer([images]).values())

    return run


def _compile(
    openvino: ModuleType, model: Path | bytes, precision: str, threads: int, **more: Any
) -> Any:
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # two programs would be pinned to the same cores
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    return core.compile_model(core.read_model(model), "CPU", options | more)


def open_layer_times(model: bytes, runtime: str, threads: int = 0) -> Callable[[np.ndarray], float]:
    """A function input -> milliseconds of the layers of one inference by OpenVINO, once warm.

    runtime: one of PRECISIONS. Changes of the memory layout do not count: inside of a network,
    layers hand their maps on in the layout that the next one reads.
    """
    precision = PRECISIONS[runtime]
    options = {"NUM_STREAMS": 1, "PERF_COUNT": True}
    compiled = _compile(load_runtime(runtime), model, precision, threads, **options)
    request = compiled.create_infer_request()

    def measure(x: np.ndarray) -> float:
        for _ in range(2):  # the first one warms up
            request.infer([x])
        layers = (one for one in request.profiling_info if one.node_type != "Reorder")
        return 1000 * sum(one.real_time.total_seconds() for one in layers)

    return measure


def _reason(error: Exception) -> str:
    """What an error says, in one line, without the lines that name OpenVINO's source files."""
    lines = [line.strip() for line in str(error).splitlines() if "src/" not in line]
    return "; ".join([line for line in lines if line][:2]) or type(error).__name__
