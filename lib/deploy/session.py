"""An ONNX Runtime session; importing this file loads neither PyTorch nor the rest of lib."""

from __future__ import annotations

from pathlib import Path

import onnxruntime


def open_session(path: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """The model in `path` on that many CPU threads (0: all cores); ValueError if it cannot run."""
    if str(path).encode(errors="ignore").decode() != str(path):
        raise ValueError(f"{path}: ONNX Runtime opens only files whose names are UTF-8; rename it")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Idle threads would spin until the next run and slow down everything else.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    except Exception as error:  # the classes of onnxruntime's errors have no other common base
        runtime = f"ONNX Runtime {onnxruntime.__version__}"
        raise ValueError(
            f"{path} cannot be run by {runtime}: {str(error).splitlines()[0]}"
        ) from None
