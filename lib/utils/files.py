"""Files that are written as a whole or not at all, and older versions of them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def atomic_write(
    path: str | Path, data: bytes | memoryview | str, sync: bool = False, keep: int | None = None
) -> None:
    """Write `data` (text as UTF-8) to PATH.partial, then rename it: a kill leaves the old file.

    sync: wait until the bytes are on the disk; a rename may reach it before what it renames.
    keep: how many versions stay: the previous one as PATH.1, the one before it as PATH.2, ...
    OSError where the file cannot be written; the old file is intact then.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
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


def write_file(path: str | Path, data: bytes | str) -> None:
    """`atomic_write` to a file that the user named: ValueError where it cannot be written."""
    try:
        atomic_write(path, data)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None


def versions_of(path: Path) -> list[Path]:
    """`path`, PATH.1, PATH.2, ..., as far as they exist; newest first."""
    older = [p for p in path.parent.glob(f"{path.name}.*") if p.suffix[1:].isdigit()]
    newest = [path] if path.exists() else []
    return [*newest, *sorted(older, key=lambda p: int(p.suffix[1:]))]


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
