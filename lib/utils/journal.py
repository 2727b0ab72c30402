"""A journal of what was paid for: one JSON line per entry, safe against kill -9.

The first line says what the entries belong to. A line that was being written when the process
died is dropped; all others are kept by the system before `add` returns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

Json = dict[str, Any]


class Journal:
    """Entries by their key: {"key": [...], ...} lines below a header."""

    def __init__(self, path: str | Path, header: Mapping[str, Any], sync: bool = True) -> None:
        """Open `path` or start it; ValueError when it belongs to another header.

        With `sync`, entries are on the disk before `add` returns, safe against a power cut too.
        """
        self.path = Path(path)
        self.sync = sync
        self._file: BinaryIO | None = None  # stays open: another file of this name is another's
        self.entries: dict[Hashable, Json] = {}
        header = json.loads(json.dumps(header))  # tuples become lists, as in the file
        lines = self._whole_lines()
        if not lines:
            self._append(header)
            return
        _expect_same(self.path, lines[0], header)
        for entry in lines[1:]:
            self.entries[tuple(entry["key"])] = entry

    def add(self, key: tuple, **values: Any) -> Json:
        """Write an entry, whatever happens next; the entry as it will be read."""
        entry = self._append({"key": key, **values})
        self.entries[key] = entry
        return entry

    def close(self) -> None:
        """Nothing more is added for now."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _append(self, line: Json) -> Json:
        if self._file is None:
            self._file = self.path.open("ab")
        text = json.dumps(line)
        self._file.write(text.encode() + b"\n")
        self._file.flush()
        if self.sync:
            os.fsync(self._file.fileno())
        return json.loads(text)

    def _whole_lines(self) -> list[Json]:
        """What the file holds, cut to its whole lines."""
        if not self.path.exists():
            return []
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            os.truncate(self.path, len(whole))
        lines = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                lines.append(json.loads(line))
            except ValueError:
                raise ValueError(f"{self.path}, line {number}: not JSON") from None
            if not isinstance(lines[-1], dict) or (number > 1 and "key" not in lines[-1]):
                raise ValueError(f"{self.path}, line {number}: not an entry of a journal")
        return lines


def _expect_same(path: Path, found: Json, wanted: Json) -> None:
    """ValueError naming the first setting in which two headers differ."""
    theirs, ours = _leaves(found), _leaves(wanted)
    for name in [*ours, *theirs]:
        if theirs.get(name) != ours.get(name):
            raise ValueError(
                f"{path} is of another run: its {name} is {_short(theirs.get(name))}, "
                f"not {_short(ours.get(name))}"
            )


def _leaves(tree: Json, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    leaves = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        leaves |= _leaves(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return leaves


def _short(value: Any, length: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= length else text[:length] + "..."
