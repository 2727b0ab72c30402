"""Tables as Markdown text."""

from __future__ import annotations

from collections.abc import Sequence

from lib.utils.text import escaped


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of columns `head`, one line a row: `| AP | px |`, `|---|---|`, `| 0.5 | 64 |`."""
    cells = [[escaped(str(cell)) for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
