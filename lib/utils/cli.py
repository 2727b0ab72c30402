"""What the scripts share: flags, and one clear line for a user's mistake."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable

logger = logging.getLogger(__name__)

# Exit codes.
MISTAKE = 2  # what one line on stderr says
STOPPED = 75  # asked to by a signal, and saved: the same command goes on


def parser(description: str | None) -> argparse.ArgumentParser:
    """--cfg, --superconfig, --gpu and the trailing KEY VALUE pairs of the original."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--cfg", required=True, help="experiments/*.yaml")
    result.add_argument("--superconfig", help="an architecture, mobile_configs/*.json")
    result.add_argument("--gpu", type=int, help="CUDA device; the CPU is used where there is none")
    result.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")
    return result


def add_process_flags(to: argparse.ArgumentParser) -> None:
    """The original's flags for several processes; torchrun needs none."""
    to.add_argument("--world-size", type=int, default=1, help="processes, without torchrun")
    to.add_argument("--rank", type=int, default=0, help="of this process, without torchrun")
    to.add_argument("--dist-url", default="tcp://127.0.0.1:23456", help="where they meet")


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with its code."""
    sys.exit(code_of(main))


def code_of(main: Callable[[], int | None]) -> int | None:
    """What `main` returns; a ValueError becomes one line and MISTAKE."""
    try:
        return main()
    except ValueError as error:
        logger.debug("", exc_info=True)  # the log file keeps the whole story
        print(f"error: {_last_line(error)}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _last_line(error: Exception) -> str:
    """The message itself; a loader process sends it at the end of its traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^[\w.]+Error: ", "", lines[-1])
