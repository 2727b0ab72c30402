"""Text from outside: file names, names in JSON files."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with U+FFFD in place of characters that XML and UTF-8 files cannot hold.

    These are control characters and lone surrogates (bytes of a file name that is not UTF-8).
    """
    return "".join(
        char if char.isprintable() or char in "\t\n" else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )
