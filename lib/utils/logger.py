"""The folders and the log of a run."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from yacs.config import CfgNode


def create_logger(
    cfg: CfgNode, cfg_path: str | Path, phase: str, is_main: bool = True
) -> tuple[Path, Path]:
    """Set up logging to the console and to a file; return the output and the TensorBoard folder.

    They are OUTPUT_DIR (LOG_DIR) / <data set> / <model> / <yaml name>. Processes other than rank 0
    log only warnings, and only to the console.
    """
    run = Path(cfg.DATASET.DATASET) / cfg.MODEL.NAME / Path(cfg_path).stem
    output_dir, log_dir = Path(cfg.OUTPUT_DIR) / run, Path(cfg.LOG_DIR) / run
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"OUTPUT_DIR: cannot make {output_dir}: {error.strerror}") from None
    console = logging.StreamHandler(sys.stdout)
    console.setLevel(logging.INFO if is_main else logging.WARNING)
    handlers: list[logging.Handler] = [console]
    if is_main:
        stamp = time.strftime("%Y-%m-%d-%H-%M-%S")
        handlers.append(logging.FileHandler(output_dir / f"{run.name}_{stamp}_{phase}.log"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    logging.getLogger("lib").setLevel(logging.DEBUG)
    return output_dir, log_dir
