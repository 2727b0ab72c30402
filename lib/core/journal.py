"""A journal of what was paid for: one JSON line per entry, safe against kill -9.

The first line says what the entries belong to. A line that was being written when the process
died is dropped; all others are on the disk before `add` returns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class Journal:
    """Entries by their key: {"key": [...], ...} lines below a header."""

    def __init__(self, path: str | Path, header: Mapping[str, Any]) -> None:
        """Open `path` or start it; ValueError when it belongs to another header."""
        self.path = Path(path)
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
        entry = json.loads(json.dumps({"key": key, **values}))
        self._append(entry)
        self.entries[key] = entry
        return entry

    def _append(self, line: Json) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

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
                f"{path} is of another search: its {name} is {_short(theirs.get(name))}, "
                f"not {_short(ours.get(name))}; give the same, or another folder"
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
