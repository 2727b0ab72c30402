"""Shared by scripts and tools: flags, exit codes, and one-line errors for a user's mistake."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable

logger = logging.getLogger(__name__)

MISTAKE = 2  # exit code after a user's mistake
STOPPED = 75  # exit code after a signal: a checkpoint is saved, the same command resumes from it


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose --help shows the command and, line by line, the docstring `description`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else ""
    return argparse.ArgumentParser(
        prog=f"python -m {module}" if module.startswith("tools.") else None,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the original's --cfg, --superconfig, --gpu and trailing KEY VALUE pairs."""
    result = new_parser(description)
    result.add_argument("--cfg", required=True, help="experiments/*.yaml")
    result.add_argument("--superconfig", help="architecture, mobile_configs/*.json")
    result.add_argument("--gpu", type=int, help="CUDA device; the CPU is used where there is none")
    result.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")
    return result


def add_network_flags(to: argparse.ArgumentParser) -> None:
    """Add flags for settings that override those in a file of weights, or that it lacks."""
    to.add_argument("--cfg", help="experiments/*/*/*.yaml; default: the settings in the file")
    to.add_argument("--superconfig", help="mobile_configs/*.json; default: as in the file")
    to.add_argument("--gpu", type=int, help="CUDA device; the CPU is used where there is none")
    to.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")


def add_process_flags(to: argparse.ArgumentParser) -> None:
    """Add the original's flags to start several processes without torchrun."""
    to.add_argument("--world-size", type=int, default=1, help="number of processes")
    to.add_argument("--rank", type=int, default=0, help="rank of this process")
    to.add_argument("--dist-url", default="tcp://127.0.0.1:23456", help="address of rank 0")


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with its code."""
    sys.exit(code_of(main))


def code_of(main: Callable[[], int | None]) -> int | None:
    """The exit code of `main`; a ValueError is printed as one line and becomes MISTAKE."""
    try:
        return main()
    except ValueError as error:
        logger.debug("", exc_info=True)  # the log file keeps the traceback
        print(f"error: {_last_line(error)}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _last_line(error: Exception) -> str:
    """The message alone: errors of loader processes start with a traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^[\w.]+Error: ", "", lines[-1])
