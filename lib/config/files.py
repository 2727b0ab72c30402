"""Reads YAML files; errors are one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def read_yaml(path: Path, what: str = "config") -> dict[str, Any]:
    """The top-level dict of a YAML file; errors call it "the `what` PATH"."""
    try:
        return parse_yaml(path.read_text(), str(path))
    except OSError as error:
        raise ValueError(f"cannot read the {what} {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not yaml: {error}") from None


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """The top-level dict of YAML `text`; errors name `source`."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", error)
        raise ValueError(f"{source} is not yaml{line}: {problem}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{source} holds no keys")
    return tree
