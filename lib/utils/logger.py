"""The folders and the log of a run."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from pathlib import Path

import torch
from yacs.config import CfgNode

from lib.utils.files import reported

logger = logging.getLogger(__name__)


class LogFile(logging.FileHandler):
    """A log file that is left, after a line on stderr, once it cannot be written: a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002
        self.setLevel(logging.CRITICAL + 1)
        with contextlib.suppress(OSError):
            print(
                f"the log ends: cannot write {self.baseFilename}: {sys.exc_info()[1]}",
                file=sys.stderr,
            )


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
    log_file = output_dir / f"{run.name}_{time.strftime('%Y-%m-%d-%H-%M-%S')}_{phase}.log"
    console = logging.StreamHandler(sys.stdout)
    console.setLevel(logging.INFO if is_main else logging.WARNING)
    handlers: list[logging.Handler] = [console]
    if is_main:
        with reported(log_file):
            handlers.append(LogFile(log_file, encoding="utf-8", errors="backslashreplace"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    logging.getLogger("lib").setLevel(logging.DEBUG)
    policy = os.environ.get("OMP_WAIT_POLICY", "as OpenMP decides")
    logger.info("threads: %d (OMP_NUM_THREADS), waiting: %s", torch.get_num_threads(), policy)
    return output_dir, log_dir
