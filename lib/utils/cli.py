"""Shared by scripts and tools: flags, exit codes, and one-line errors for a user's mistake."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import logging
import math
import os
import re
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from lib.utils.text import escaped

logger = logging.getLogger(__name__)

MISTAKE = 2  # exit code after a user's mistake
STOPPED = 75  # exit code after a signal: a checkpoint is saved, the same command resumes from it
BROKEN_PIPE = 141  # exit code after the reader of standard output has left, as in a shell
ANSWER = timedelta(seconds=5)  # longest wait for torchrun's store, and for another process there
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
DISK_ERRORS |= {errno.EACCES, errno.EPERM}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are printed by one of several processes."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_end(f"{self.format_usage()}{self.prog}: error: {message}", MISTAKE))


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose --help shows the command and, line by line, the docstring `description`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else ""
    return Parser(
        prog=f"python -m {module}" if module.startswith("tools.") else None,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the original's --cfg, --superconfig, --gpu and trailing KEY VALUE pairs."""
    result = new_parser(description)
    result.add_argument("--cfg", required=True, help="experiments/*.yaml")
    result.add_argument("--superconfig", help="architecture, mobile_configs/*.json")
    add_device_flag(result)
    result.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")
    return result


def add_device_flag(to: argparse.ArgumentParser) -> None:
    """Add --gpu, an argument of `lib.utils.device.resolve_device`."""
    to.add_argument(
        "--gpu",
        type=lambda text: int(text) if text.isdecimal() else text,
        metavar="N",
        help="CUDA device, or the CPU where there is none; or a name: cpu, mps, xpu (untried)",
    )


def add_network_flags(to: argparse.ArgumentParser) -> None:
    """Add flags for settings that override those in a file of weights, or that it lacks."""
    to.add_argument("--cfg", help="experiments/*/*/*.yaml; default: the settings in the file")
    to.add_argument("--superconfig", help="mobile_configs/*.json; default: as in the file")
    add_device_flag(to)
    to.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")


def add_runtime_flag(to: argparse.ArgumentParser) -> None:
    """Add --runtime, an argument of `Predictor.load`."""
    names = "pytorch, onnxruntime, openvino or openvino-bf16"
    to.add_argument("--runtime", metavar="NAME", help=f"{names}; all but the first use the CPU")


def add_process_flags(to: argparse.ArgumentParser) -> None:
    """Add the original's flags to start several processes without torchrun."""
    to.add_argument("--world-size", type=int, default=1, help="number of processes")
    to.add_argument("--rank", type=int, default=0, help="rank of this process")
    to.add_argument("--dist-url", default="tcp://127.0.0.1:23456", help="address of rank 0")


def check_range(flag: str, value: float, low: float, high: float = math.inf) -> None:
    """ValueError if the value of `flag` is not a finite number from `low` to `high`."""
    if not (low <= value <= high and math.isfinite(value)):
        wanted = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
        raise ValueError(f"{flag} is {value:g}; wanted a number {wanted}")


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with its code.

    Control characters in names are escaped where they are printed or logged. A log that cannot be
    written does not end the program; standard output that cannot be written is its last error.
    """
    logging.setLogRecordFactory(_Record)
    logging.raiseExceptions = False  # no traceback for each line on a full disk
    if os.environ.get("RANK", "0") != "0":
        logging.lastResort = None  # until `create_logger`, the first of several processes warns
    with contextlib.suppress(AttributeError, io.UnsupportedOperation):  # closed; in a test
        sys.stdout = _Output(
            open(sys.stdout.fileno(), "wb", closefd=False),  # noqa: SIM115
            encoding=sys.stdout.encoding,
            errors="backslashreplace",
            line_buffering=sys.stdout.isatty(),
        )
    try:
        code = code_of(main)
    except SystemExit as ended:  # argparse
        code = ended.code
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        code = code or _code_of_disk(error)
        sys.stdout = None  # the interpreter flushes it once more
    sys.exit(code)


def code_of(main: Callable[[], int | None]) -> int | None:
    """The exit code of `main`; a user's mistake or a full disk is one line and becomes MISTAKE.

    A user's mistake is a ValueError.
    """
    try:
        return main()
    except ValueError as error:
        logger.debug("", exc_info=True)  # the log file keeps the traceback
        return _end(f"error: {_one_line(error)}", MISTAKE)
    except OSError as error:
        logger.debug("", exc_info=True)
        return _code_of_disk(error)
    except KeyboardInterrupt:
        _print("interrupted")
        return 130


def _code_of_disk(error: OSError) -> int:
    """The exit code of an error of a disk, which is printed, or of a pipe; raises any other."""
    if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has enough
        return BROKEN_PIPE
    if error.errno not in DISK_ERRORS:
        raise error
    where = escaped(str(error.filename or "standard output or a file"))
    return _end(f"error: cannot write or read {where}: {error.strerror}", MISTAKE)


def _end(text: str, code: int) -> int:
    """Print the `text`, in one process, and return the `code`."""
    once(text, lambda: _print(text))
    return code


def once(text: str, say: Callable[[], None]) -> None:
    """Call `say`; of the processes that torchrun started, in the first one that has this `text`.

    Most mistakes of a user are found by every process, but some by one alone, and not always by
    rank 0. So each asks the store of torchrun, which is there before a process group is, and lives
    as long as torchrun. The others return when the text is out, since torchrun ends all processes
    as soon as one has failed. Without an answer of the store, each process speaks.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        say()
        return
    from torch.distributed.rendezvous import rendezvous  # here: most commands are one process

    key = f"said in start {os.environ.get('TORCHELASTIC_RESTART_COUNT')}: {text}"
    try:
        store, _, _ = next(rendezvous("env://", timeout=ANSWER))
        is_first = store.add(key, 1) == 1
    except (RuntimeError, ValueError):
        say()
        return
    if is_first:
        say()
    with contextlib.suppress(RuntimeError):
        if is_first:
            store.set(f"{key}, out", "")
        else:
            store.wait([f"{key}, out"], ANSWER)


def _print(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _one_line(error: Exception) -> str:
    """The message alone: errors of loader processes start with a traceback."""
    text = str(error).strip() or type(error).__name__
    if "Traceback (most recent call last)" in text:
        text = re.sub(r"^[\w.]+Error: ", "", text.splitlines()[-1])
    return escaped(text)


class _Output(io.TextIOWrapper):
    """Standard output without control characters; what its encoding lacks is escaped, too."""

    def write(self, text: str) -> int:
        return super().write(escaped(text, keep="\t\n\r"))


class _Record(logging.LogRecord):
    """A log record whose names, and whatever else is text in `args`, are printable."""

    def getMessage(self) -> str:
        if isinstance(self.args, tuple):
            self.args = tuple(
                escaped(str(arg)) if isinstance(arg, (str, Path, Exception)) else arg
                for arg in self.args
            )
        return escaped(super().getMessage(), keep="\t\n")
