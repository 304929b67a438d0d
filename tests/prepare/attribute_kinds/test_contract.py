"""Every registered kind of attribute turns a raw column into values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from p5dist.config.raw_files import AttributeTable, Columns
from p5dist.config.registry import ATTRIBUTES
from p5dist.prepare.attribute_kinds.kind import AttributeKind, Values, kinds_of

SETTINGS: dict[str, dict[str, Any]] = {"numeric": {"bins": [2, 5]}}
"""What a kind cannot do without."""

RAW = ["3", None, "", "NULL", " 3 ", "7"]
"""Two values, of every kind."""


@pytest.fixture(params=ATTRIBUTES.names())
def kind(request: pytest.FixtureRequest) -> AttributeKind:
    return attribute(request.param)


def attribute(kind: str, **settings: Any) -> AttributeKind:
    values = {"kind": kind, **SETTINGS.get(kind, {}), **settings}
    table = {"files": "x", "format": "parquet", "id": "i", "attributes": {"a": values}}
    found = kinds_of(AttributeTable.model_validate(table).attributes)["a"]
    assert isinstance(found, AttributeKind) and found.kind == kind
    return found


def lists(found: Values) -> list[list[str]]:
    parts = np.split(np.array(found.value.to_pylist(), object), np.cumsum(found.lengths)[:-1])
    return [list(part) for part in parts]


ENCODINGS: list[Callable[[pa.Array], pa.ChunkedArray]] = [
    lambda a: pa.chunked_array([a]),
    lambda a: pa.chunked_array([a[:2], a[2:]]),
    lambda a: pa.chunked_array([a.dictionary_encode()]),
    lambda a: pa.chunked_array([a[:2].dictionary_encode(), a[2:].dictionary_encode()]),
]


@pytest.mark.parametrize("encoded", ENCODINGS)
def test_a_row_without_a_value_has_none(
    kind: AttributeKind, encoded: Callable[[pa.Array], pa.ChunkedArray]
) -> None:
    found = kind.parse(encoded(pa.array(RAW, pa.string())))
    assert found.value.null_count == 0 and found.value.type == pa.string()
    first, none, empty, null, again, other = lists(found)
    assert none == empty == null == []
    assert first == again != other and len(first) == len(other) == 1


def test_a_column_without_rows_and_one_of_nothing_but_nulls(kind: AttributeKind) -> None:
    assert len(kind.parse(pa.chunked_array([], pa.string())).lengths) == 0
    found = kind.parse(pa.chunked_array([pa.nulls(3, pa.string())]))
    assert found.lengths.tolist() == [0, 0, 0] and len(found.value) == 0


def test_a_value_twice_in_a_row_counts_once() -> None:
    found = attribute("multi", separator=",").parse(pa.chunked_array([["b,a, b", "a,a", ","]]))
    assert lists(found) == [["b", "a"], ["a"], []]
    found = attribute("words").parse(pa.chunked_array([["Red red RED", "a-b"]]))
    assert lists(found) == [["red"], ["a", "b"]]
    lists_ = pa.chunked_array([pa.array([["x", "x", "y"], None, []])])
    for kind in ("category", "multi"):
        assert lists(attribute(kind).parse(lists_)) == [["x", "y"], [], []]


def test_the_context_of_an_interaction_has_one_value(kind: AttributeKind) -> None:
    settings = {"context": {"a": {"kind": kind.kind, **SETTINGS.get(kind.kind, {})}}}
    if not kind.for_context:
        with pytest.raises(ValidationError, match="use kind category or numeric"):
            Columns.model_validate(settings)
        return
    assert Columns.model_validate(settings).context["a"] == kind
    for encoded in ENCODINGS:
        column = encoded(pa.array(RAW, pa.string()))
        rows = [row[0] if row else "" for row in lists(kind.parse(column))]
        assert kind.context(column).to_pylist() == rows


def test_only_what_models_read_is_counted(kind: AttributeKind) -> None:
    if kind.for_models:
        assert attribute(kind.kind, min_count=2).min_count == 2
        return
    with pytest.raises(ValidationError, match=f"kind '{kind.kind}' has no values to count"):
        attribute(kind.kind, min_count=2)


def test_what_is_written_is_read_again(kind: AttributeKind) -> None:
    table = {"files": "x", "format": "parquet", "id": "i", "attributes": {"a": kind}}
    found = AttributeTable.model_validate(table)
    for defaults in (True, False):
        values = found.model_dump(mode="json", exclude_unset=not defaults)
        assert AttributeTable.model_validate(values) == found


def test_numbers_are_the_same_typed_and_as_text() -> None:
    numeric = attribute("numeric", bins=[1, 2.5])
    numbers = [0.5, 1.0, 1.5, None, 2.5, 9.0]
    text = [None if x is None else str(x) for x in numbers]
    typed, plain = (numeric.parse(pa.chunked_array([pa.array(v)])) for v in (numbers, text))
    assert lists(typed) == lists(plain)
    assert lists(typed) == [
        ["(-inf, 1]"], ["(-inf, 1]"], ["(1, 2.5]"], [], ["(1, 2.5]"], ["(2.5, inf]"],
    ]  # fmt: skip
