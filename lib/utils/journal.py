"""A journal of expensive results: one JSON line per entry, safe against kill -9.

The first line, the header, says which run the entries belong to. A last line that is incomplete
because the process died while writing it is dropped; `add` returns only when its line is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lib.utils.files import reported

Json = dict[str, Any]


class Journal:
    """Entries by key: lines {"key": [...], ...} after a header."""

    def __init__(
        self,
        path: str | Path,
        header: Mapping[str, Any],
        sync: bool = True,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the journal at `path` or start it; ValueError when it has another header.

        defaults: a tree as `header`, for entries that the header of an older version lacks.

        WriteError, here and in `add`, when the file cannot be written.

        sync: entries are on the disk before `add` returns, safe against a power cut too.
        """
        self.path = Path(path)
        self.sync = sync
        self.entries: dict[Hashable, Json] = {}
        self._file: BinaryIO | None = None  # stays open: a new file of this name is another journal
        plain = json.loads(json.dumps(header))  # tuples become lists, as in the file
        lines = self._read()
        if lines:
            _check_same(self.path, lines[0], plain, json.loads(json.dumps(defaults or {})))
            self.entries = {tuple(entry["key"]): entry for entry in lines[1:]}
        else:
            self._append(plain)

    def add(self, key: tuple, **values: Any) -> Json:
        """Write an entry and return it as it will be read."""
        self.entries[key] = self._append({"key": key, **values})
        return self.entries[key]

    def close(self) -> None:
        """Close the file; a later `add` opens it again."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _append(self, line: Json) -> Json:
        text = json.dumps(line)
        with reported(self.path):
            if self._file is None:
                self._file = self.path.open("ab")
            self._file.write(text.encode() + b"\n")
            self._file.flush()
            if self.sync:
                os.fsync(self._file.fileno())
        return json.loads(text)

    def _read(self) -> list[Json]:
        """All complete lines; an incomplete last one is removed from the file."""
        if not self.path.exists():
            return []
        text = self.path.read_bytes()
        complete = text[: text.rfind(b"\n") + 1]
        if len(complete) < len(text):
            with reported(self.path):
                os.truncate(self.path, len(complete))
        lines = []
        for number, line in enumerate(complete.splitlines(), start=1):
            try:
                lines.append(json.loads(line))
            except ValueError:
                raise ValueError(f"{self.path}, line {number}: not JSON") from None
            if not isinstance(lines[-1], dict) or (number > 1 and "key" not in lines[-1]):
                raise ValueError(f"{self.path}, line {number}: not an entry of a journal")
        return lines


def _check_same(path: Path, saved: Json, header: Json, defaults: Json) -> None:
    """ValueError naming the first setting in which two headers differ."""
    theirs, ours, older = leaves(saved), leaves(header), leaves(defaults)
    theirs |= {name: older[name] for name in ours if name in older and name not in theirs}
    for name in [*ours, *theirs]:
        if theirs.get(name) != ours.get(name):
            raise ValueError(
                f"{path} is of another run: its {name} is {_short(theirs.get(name))}, "
                f"not {_short(ours.get(name))}"
            )


def leaves(tree: Json, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    found = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found |= leaves(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "..."
