"""The command-line tools, `python -m tools.NAME`."""

import lib  # noqa: F401  # before torch
