"""YAML of job files: the core schema of YAML 1.2, keys as they are written, every key once."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from p5dist.config.yaml_text import read_yaml, write_yaml
from p5dist.errors import ConfigError


def value(text: str) -> Any:
    return read_yaml(text, "job.yaml")[0]


def error(text: str | bytes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_yaml(text, "job.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", True), ("False", False), ("~", None), ("null", None), ("", None),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("Yes", "Yes"),
        ("12", 12), ("-3", -3), ("+3", 3), ("010", 10), ("0x1f", 31), ("0o17", 15),
        ("1_000", 1000), ("0.5", 0.5), (".5", 0.5), ("5.", 5.0), ("1e3", 1000.0), ("1e-3", 0.001),
        ("-.inf", float("-inf")), ("12:30", "12:30"), ("12:30:45", "12:30:45"),
        ("2024-05-03", "2024-05-03"), ("2024-13-45", "2024-13-45"), ("=", "="), ("1.2.3", "1.2.3"),
        ("'12'", "12"), ("\"yes\"", "yes"), ("1e", "1e"), ("0x", "0x"),
    ],
)  # fmt: skip
def test_values(text: str, expected: object) -> None:
    found = value(f"a: {text}")["a"]
    assert found == expected and type(found) is type(expected)


def test_keys_are_text() -> None:
    text = "{'yes': 1, 1: 2, 1.50: 3, '~': 4, 'null': 5, 0x1f: 6, 2024-05-03: 7, \"true\": 8}"
    assert value(text) == {
        "yes": 1, "1": 2, "1.50": 3, "~": 4, "null": 5, "0x1f": 6, "2024-05-03": 7, "true": 8
    }  # fmt: skip


@pytest.mark.parametrize("word", ["yes", "No", "ON", "off", "true", "False", "null", "~"])
def test_a_key_that_is_a_boolean_elsewhere_must_be_in_quotes(word: str) -> None:
    with pytest.raises(ConfigError, match="must be in quotes") as error:
        read_yaml(f"a:\n  b: 1\n  {word}: 2\n", "job.yaml")
    assert error.value.where == "job.yaml, line 3" and f"'{word}'" in str(error.value.fix)


@pytest.mark.parametrize(
    ("text", "key", "line", "first"),
    [
        ("a: 1\nb: 2\na: 3", "a", 3, 1),
        ("a:\n  b: 1\n  c: 2\n  b: 1\n", "a.b", 4, 2),
        ("a: {b: 1, b: 2}", "a.b", 1, 1),
        ("a:\n- b: 1\n- b: 1\n  c: 2\n  'b': 3", "a.1.b", 5, 3),
        ("1: a\n'1': b", "1", 2, 1),
    ],
)
def test_a_key_that_occurs_twice(text: str, key: str, line: int, first: int) -> None:
    found = error(text)
    assert found.what == f"{key}: this key occurs twice"
    assert found.where == f"job.yaml, line {line}"
    assert f"the first is in line {first};" in str(found.rule)


def test_merged_keys_may_be_replaced() -> None:
    assert value("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}")["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [1\nc: 2", 3), ("a: 1\n\tb: 2", 2), ("a: b: c", 1), ("a: {{ x }}", 1),
        ("a: 1\n? [1, 2]\n: 3", 2), ("a: *x", 1), ("a: 1\nb: \x07", 2), ("a: !own 3", 1),
        ("a: 1\n---\nb: 2", 2), (b"a: 1\nb: \xe9\n", 2),
    ],
)  # fmt: skip
def test_what_is_no_yaml_names_the_line(text: str | bytes, line: int) -> None:
    found = error(text)
    assert found.where == f"job.yaml, line {line}" and found.fix


@pytest.mark.parametrize("text", ["a: !!int x", "a: &a {b: *a}", "[" * 5000])
def test_values_that_cannot_be_built(text: str) -> None:
    assert error(text).fix


def test_lines() -> None:
    lines = read_yaml("a: 1\nb:\n  c: [1,\n    2]\n", "job.yaml")[1]
    assert lines == {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "c", "0"): 3, ("b", "c", "1"): 4}


PLAIN = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=8)
WORDS = st.sampled_from(["yes", "no", "1e3", "010", "0o7", "12:30", "~", "<<", "=", "2024-05-03"])
TEXTS = PLAIN | WORDS
SCALARS = TEXTS | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False)
VALUES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXTS, below, max_size=3)
)


@given(VALUES)
def test_what_is_written_is_read_again_also_by_other_programs(values: object) -> None:
    text = write_yaml(values)
    assert read_yaml(text, "x")[0] == values
    assert yaml.safe_load(text) == values
