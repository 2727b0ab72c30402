"""YAML of others is plain values of bounded size, or one line says what is wrong with it."""

from __future__ import annotations

import os

import pytest
import yaml

from lib.utils.yaml_text import MAX_BYTES, parse_yaml, read_yaml


def tower(lists: bool) -> str:
    """Nine levels that each hold the one below ten times."""
    text = "a0: &a0 [1]\n"
    for i in range(9):
        many = [f"*a{i}"] * 10 if lists else [f"k{j}: *a{i}" for j in range(10)]
        text += f"a{i + 1}: &a{i + 1} {'[{}]' if lists else '{{{}}}'}\n".format(", ".join(many))
    return text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (tower(lists=True), "line 3: *a1 stands for more than a list of values"),
        (tower(lists=False), "line 3: *a1 stands for more than a list of values"),
        ("a: &a [*a]", "line 1: *a stands for more than a list of values"),
        ("a: &a {b: *a}", "line 1: *a stands for more than a list of values"),
        ("a: &a [" + "1," * 999 + "]\nb: [" + "*a," * 99 + "]", "line 2: more than 20000 values"),
        ("- " * 100_000 + "1", "more than 20 levels"),
        ("[" * 20_000, "more than 20 levels"),
        ("{b: " * 20_000, "more than 20 levels"),
        ("a: [" + "1," * 30_000 + "]", "more than 20000 values"),
        ("a: " + "9" * 10**5, "line 1: a number of 100000 characters"),
        ("a: 0x" + "f" * 10**5, "line 1: a number of 100002 characters"),
        ("a: " + ":".join(["1"] * 400) + ".0", "int too large"),
        ("a: 2024-13-01", "month must be"),
        ("a: !!python/object/apply:os.system [date]", "the tag tag:yaml.org,2002:python/object"),
        ("a: !!int ''", "the tag tag:yaml.org,2002:int is not possible"),
        ("a: !!bool maybe", "the tag tag:yaml.org,2002:bool is not possible"),
        ("a: 1\nb: 2\na: 3", "line 3: the key a stands twice"),
        ("a: \0", "unacceptable character"),
        ("a: *b", "undefined alias"),
        ("? [a]\n: 1", "unhashable key"),
        ("a: 1\n---\nb: 2", "another document"),
        (f"a: {'x' * MAX_BYTES}", f"the text has more than {MAX_BYTES} characters"),
    ],
)
def test_text_that_no_config_has_is_refused(text, message):
    with pytest.raises(ValueError, match="^the text ") as caught:
        parse_yaml(text, "the text")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_yaml_dumps_is_read_back():
    """yaml.dump writes aliases where two keys hold the same list."""
    shared = [1.0, 2.0]
    tree = {"a": shared, "b": {"c": shared, "d": True}}
    text = yaml.safe_dump(tree)
    assert "*id001" in text
    assert parse_yaml(text, "the text") == tree


def test_files_are_utf_8_and_may_start_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "mine.yaml"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text("name: Füße", encoding=encoding)
        assert read_yaml(path) == {"name": "Füße"}
    path.write_text("name: Füße", encoding="latin-1")
    with pytest.raises(ValueError, match=r"mine\.yaml is not yaml: 'utf-8' codec"):
        read_yaml(path)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="the config .*pipe is no regular file"):
        read_yaml(tmp_path / "pipe")
