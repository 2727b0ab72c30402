"""Reads files that others wrote: regular files only, and never more than a limit."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

MAX_BYTES = 4 * 2**30  # of any file: COCO's training annotations have 0.24 GB


def open_file(path: str | Path, what: str) -> BinaryIO:
    """A regular file, open for reading; a ValueError names it as "the `what` PATH".

    A pipe, a device and a folder are refused: the first two may never end.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = getattr(error, "strerror", error)
        raise ValueError(f"cannot read the {what} {path}: {reason}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError(f"the {what} {path} is no regular file")
    return file


def read_bytes(path: str | Path, what: str, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file of at most `limit` bytes, opened by `open_file`."""
    with open_file(path, what) as file:
        try:
            size = os.fstat(file.fileno()).st_size or limit  # 0 also stands for unknown
            data = file.read(min(size, limit) + 1)  # allocates as many bytes
        except OSError as error:
            raise ValueError(f"cannot read the {what} {path}: {error.strerror}") from None
    if len(data) > limit:
        raise ValueError(f"the {what} {path} has more than {limit} bytes")
    return data


def read_json(
    path: str | Path, what: str, limit: int = MAX_BYTES, unique_keys: bool = False
) -> Any:
    """The content of a JSON file in UTF-8; a ValueError names it as "the `what` PATH".

    unique_keys: refuse a key that stands twice; without it, the last one counts.
    """
    data = read_bytes(path, what, limit)
    try:
        return json.loads(data, object_pairs_hook=_unique if unique_keys else None)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def hash_of(path: str | Path) -> str:
    """sha256 of a file."""
    with open_file(path, "file") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
        return digest.hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return tree
