"""Text from outside: file names, names in JSON files."""

from __future__ import annotations

from typing import Any


def printable(text: str) -> str:
    """`text` with U+FFFD in place of characters that XML and UTF-8 files cannot hold.

    These are control characters and lone surrogates (bytes of a file name that is not UTF-8).
    """
    return "".join(
        char if char.isprintable() or char in "\t\n" else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )


def escaped(text: str, keep: str = "") -> str:
    """`text` for a terminal or a log: \\x1b in place of a character that it acts on, but `keep`."""
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )


def first_line(error: BaseException) -> str:
    """The first line of the message of `error`, or else its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def brief(value: Any, most: int = 80) -> str:
    """`value` as Python writes it, on one line of at most `most` characters."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no numbers of more than 4300 digits
        return "a number of thousands of digits"
    text = text.replace("\n", " ")  # of a tensor
    return text if len(text) <= most else f"{text[: most - 3]}..."


def brief_name(name: object, most: int = 80) -> str:
    """A key of a file as a message shows it: as it is if it is short and on one line."""
    text = str(name)
    return text if text.isprintable() and len(text) <= most else brief(text, most)
