"""Reads YAML that others wrote: plain values only, of bounded size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lib.utils.reading import read_bytes

MAX_BYTES = 2**19
MAX_VALUES = 20_000  # a config has about 200, a joints file 10 per joint
MAX_DEPTH = 20
MAX_NUMBER = 100  # characters of a number


def read_yaml(path: Path, what: str = "config") -> dict[str, Any]:
    """The top-level dict of a YAML file in UTF-8; errors call it "the `what` PATH"."""
    data = read_bytes(path, what, MAX_BYTES)
    try:
        return parse_yaml(data.decode(), str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not yaml: {error}") from None


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """The top-level dict of YAML `text`; errors name `source`, and the line where there is one."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"{source} has more than {MAX_BYTES} characters")
    try:
        tree = PlainLoader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"{source} is not yaml{line}: {problem}") from None
    except (ValueError, OverflowError) as error:  # a date such as 2024-13-01
        raise ValueError(f"{source} is not yaml: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{source} holds no keys")
    return tree


class PlainLoader(yaml.SafeLoader):
    """yaml.SafeLoader without tags (!!...), repeated keys, and content that outgrows its text.

    Nine lists that each name the one before ten times are 10^9 values in 500 bytes. So an alias may
    only stand for a list of plain values: yaml.dump writes such where two keys hold one list.
    """

    values = depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        self.values += 1
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise problem(event, f"more than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(event, yaml.AliasEvent) and isinstance(node, yaml.CollectionNode):
            is_whole = node.end_mark is not None  # an alias within what it stands for is not
            if not is_whole or not all(isinstance(one, yaml.ScalarNode) for one in node.value):
                raise problem(event, f"*{event.anchor} stands for more than a list of values")
            self.values += len(node.value)
        elif tag := getattr(event, "tag", None):
            raise problem(event, f"the tag {tag} is not possible")
        if self.values > MAX_VALUES:
            raise problem(event, f"more than {MAX_VALUES} values")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise problem(key, f"the key {key.value} stands twice")
                seen.add(key.value)
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > MAX_NUMBER:
            raise problem(node, f"a number of {len(node.value)} characters")
        return node


def problem(place: yaml.Event | yaml.Node, message: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=message, problem_mark=place.start_mark)
