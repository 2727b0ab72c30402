"""Files that are written as a whole or not at all, and older versions of them.

A new file is written next to its place and renamed. So an interrupted program or a full disk leaves
the file that was there, and nothing is ever written through a symbolic or a hard link: the rename
replaces the link, not the file that it leads to.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path


class WriteError(ValueError):
    """A file that cannot be written, in one line."""


def atomic_write(
    path: str | Path, data: bytes | memoryview | str, sync: bool = False, keep: int | None = None
) -> None:
    """Write `data` (text as UTF-8) to PATH.partial, then rename it: a kill leaves the old file.

    sync: wait until the bytes are on the disk; a rename may reach it before what it renames.
    keep: how many versions stay: the previous one as PATH.1, the one before it as PATH.2, ...
    OSError where the file cannot be written; the old file is intact then. A device or a pipe, such
    as /dev/stdout, is written directly.
    """
    path = Path(path)
    content = data.encode(errors="backslashreplace") if isinstance(data, str) else data
    if is_stream(path):
        with path.open("ab") as file:
            file.write(content)
        return
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)  # it may be a link
        with partial.open("xb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if keep is not None:
            _rotate(path, keep)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def write_file(path: str | Path, data: bytes | memoryview | str) -> None:
    """`atomic_write` to a file that the user named: WriteError where it cannot be written."""
    with reported(path):
        atomic_write(path, data)


@contextlib.contextmanager
def reported(path: str | Path) -> Iterator[None]:
    """WriteError, naming `path`, in place of an OSError."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from None


class Partial:
    """A file that grows at `path`, next to `target`, until it is published or discarded."""

    def __init__(self, target: Path) -> None:
        """`path` has the suffix of `target`, by which libraries choose the format."""
        self.target = target
        self.path = target.with_name(f"{target.stem}.partial{target.suffix}")
        with reported(target):
            if target.is_dir():
                raise IsADirectoryError(None, "it is a folder")
            self.path.unlink(missing_ok=True)  # it may be a link

    def publish(self) -> None:
        """Wait for the disk, then rename `path` to `target`; WriteError where that fails."""
        try:
            with reported(self.target):
                with self.path.open("rb") as file:
                    os.fsync(file.fileno())
                self.path.replace(self.target)
        except WriteError:
            self.discard()
            raise

    def discard(self) -> None:
        """Delete the file at `path`; what is at `target` stays."""
        with contextlib.suppress(OSError):
            self.path.unlink()


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """The path of a `Partial`, published at the end, discarded after an exception."""
    partial = Partial(target)
    try:
        with reported(target):
            yield partial.path
    except BaseException:
        partial.discard()
        raise
    partial.publish()


def check_outputs(
    outputs: Iterable[str | Path | None], inputs: Iterable[str | Path | None]
) -> None:
    """ValueError where an output is an input, under its name or through a link; None is skipped."""
    inputs = [Path(path) for path in inputs if path]
    for output in (Path(path) for path in outputs if path):
        for path in inputs:
            if output.exists() and path.exists() and output.samefile(path):
                raise ValueError(f"{output} is the file of the input {path}; name another output")


def versions_of(path: Path) -> list[Path]:
    """`path`, PATH.1, PATH.2, ..., as far as they exist; newest first."""
    older = [p for p in path.parent.glob(f"{path.name}.*") if p.suffix[1:].isdigit()]
    newest = [path] if path.exists() else []
    return [*newest, *sorted(older, key=lambda p: int(p.suffix[1:]))]


def is_stream(path: Path) -> bool:
    """Whether `path` is a device or a pipe, or stands for an open file, as /dev/stdout does."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    is_file = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    return not is_file or path.parent in (Path("/dev"), Path("/dev/fd"))


def _rotate(path: Path, keep: int) -> None:
    """PATH becomes PATH.1, PATH.1 becomes PATH.2, ...; versions beyond `keep` are deleted.

    The oldest moves first: wherever this is interrupted, each file is whole under some name.
    """
    files = [path, *(path.with_name(f"{path.name}.{age}") for age in range(1, keep))]
    for newer, older in zip(files[-2::-1], files[:0:-1], strict=True):
        if newer.exists():
            newer.replace(older)
    for file in versions_of(path):
        if file not in files:
            file.unlink()
