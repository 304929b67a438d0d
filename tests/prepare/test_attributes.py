from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p5dist.config.raw_files import AttributeTable
from p5dist.errors import DataError, MissingColumnError
from p5dist.prepare import reading
from p5dist.prepare.attributes import write_attributes
from p5dist.prepare.layout import Layout
from p5dist.prepare.sources import find_files
from p5dist.prepare.vocabulary import Vocabulary
from p5dist.storage import Folder


def vocabulary(*ids: str) -> Vocabulary:
    return Vocabulary(pa.array(ids, pa.string()), np.arange(len(ids))[::-1].astype(np.int64))


def write(
    tmp: Path, side: str, ids: Vocabulary, **settings: Any
) -> tuple[list[dict[str, Any]], dict[str, int], list[str]]:
    table = AttributeTable.model_validate({"files": str(tmp / "table"), **settings})
    files = find_files(table.files, Layout.of_attributes(table, f"prepare.{side}s"))
    found = write_attributes(table, files, side, ids, Folder.open(str(tmp)), lambda name: None)
    rows = pq.read_table(tmp / f"attributes/{side}.parquet").to_pylist()
    return rows, found.sizes, found.warnings


def values(tmp: Path, name: str) -> list[tuple[int, str, int]]:
    rows = pq.read_table(tmp / "vocabulary" / f"{name}.parquet").to_pylist()
    return [(row["id"], row["external_id"], row["count"]) for row in rows]


def test_items_with_a_title_and_many_genres(tmp_path: Path) -> None:
    (tmp_path / "table").write_text(
        "id\tname\tgenres\n"
        "7\tSeven\tDrama| Crime|Drama\n"
        "9\tNine\t\n"
        "1\tOne\tComedy|Drama\n"
        "7\tAgain\tWar\n"
        "\tNobody\tWar\n"
        "55\tNot in the log\tWar|Crime\n"
    )
    rows, sizes, warnings = write(
        tmp_path, "item", vocabulary("1", "9", "8", "7"), format="tsv", id="id", title="name",
        attributes={"genres": {"kind": "multi"}},
    )  # fmt: skip
    # Drama and Crime occur in two rows each, then Comedy and War in one.
    assert values(tmp_path, "item.genres") == [
        (1, "Crime", 2), (2, "Drama", 2), (3, "Comedy", 1), (4, "War", 1),
    ]  # fmt: skip
    assert sizes == {"genres": 4}
    assert [(r["id"], r["title"], sorted(r["genres"])) for r in rows] == [
        (1, "One", [2, 3]), (2, "Nine", []), (3, None, []), (4, "Seven", [1, 2]),
    ]  # fmt: skip
    assert warnings == [
        "1 of 6 rows of prepare.items are without an id and left out",
        "1 of 6 rows of prepare.items are left out, since an earlier row has the same id",
        "1 of 4 items are not in prepare.items",
    ]


def test_words_of_titles(tmp_path: Path) -> None:
    (tmp_path / "table").write_text(
        'id,name\n1,"Crème, 8-oz CRÈME"\n2,crème (Rose)\n3,8 oz of ROSE!\n4,\n5,Ω3 oil\n'
    )
    words = {"column": "name", "kind": "words"}
    rows, sizes, _ = write(
        tmp_path, "item", vocabulary("3", "1", "2", "4", "5"), id="id", title="name",
        attributes={"every": words, "common": {**words, "min_count": 2}},
    )  # fmt: skip
    common = [(1, "8", 2), (2, "crème", 2), (3, "oz", 2), (4, "rose", 2)]
    assert values(tmp_path, "item.common") == common
    rare = [(5, "of", 1), (6, "oil", 1), (7, "ω3", 1)]
    assert values(tmp_path, "item.every") == common + rare
    assert [sorted(r["every"]) for r in rows] == [[1, 3, 4, 5], [1, 2, 3], [2, 4], [], [6, 7]]
    assert [sorted(r["common"]) for r in rows] == [[1, 3, 4], [1, 2, 3], [2, 4], [], []]
    assert rows[0]["title"] == "8 oz of ROSE!" and sizes == {"every": 7, "common": 4}


def test_values_that_few_rows_have(tmp_path: Path) -> None:
    (tmp_path / "table").write_text("id,shop,tags\n1,a,x|z\n2,b,y|x\n3,a,x\n4,,\n")
    tags = {"kind": "multi", "min_count": 2}
    rows, sizes, warnings = write(
        tmp_path, "item", vocabulary("1", "2", "3", "4"), id="id",
        attributes={"shop": {"min_count": 3}, "tags": tags},
    )  # fmt: skip
    assert values(tmp_path, "item.tags") == [(1, "x", 3)]
    assert [r["tags"] for r in rows] == [[1], [1], [1], []]
    assert [r["shop"] for r in rows] == [[], [], [], []] and sizes == {"shop": 0, "tags": 1}
    assert warnings == ["prepare.items.attributes.shop: no value is in min_count 3 rows"]


def test_bins_hold_their_upper_edge(tmp_path: Path) -> None:
    ages = ["17", "17.5", "24", "25", "90", "old", "", "-3"]
    lines = [f"u{i},{age}" for i, age in enumerate(ages)]
    (tmp_path / "table").write_text("\n".join(["user,age", *lines]))
    ids = vocabulary(*(f"u{i}" for i in range(8)))
    rows, sizes, _ = write(
        tmp_path, "user", ids, id="user", attributes={"age": {"kind": "numeric", "bins": [17, 24]}}
    )
    assert values(tmp_path, "user.age") == [
        (1, "(-inf, 17]", 2), (2, "(17, 24]", 2), (3, "(24, inf]", 2),
    ]  # fmt: skip
    assert [r["age"] for r in rows] == [[1], [2], [2], [3], [3], [], [], [1]]
    assert list(rows[0]) == ["id", "age"] and sizes == {"age": 3}


def test_categories_of_whole_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"i": [1, 2, 3], "shop": [10, 9, None], "tags": [["a", "b"], None, ["b"]]}),
        tmp_path / "table",
    )
    rows, _, _ = write(
        tmp_path, "item", vocabulary("3", "2", "1"), format="parquet", id="i",
        attributes={"shop": {}, "tags": {"kind": "multi"}},
    )  # fmt: skip
    assert values(tmp_path, "item.shop") == [(1, "9", 1), (2, "10", 1)]
    assert [r["shop"] for r in rows] == [[], [1], [2]]
    assert values(tmp_path, "item.tags") == [(1, "b", 2), (2, "a", 1)]
    assert [r["tags"] for r in rows] == [[1], [], [2, 1]]
    assert [r["title"] for r in rows] == [None, None, None]


@pytest.mark.parametrize("format_", ["csv", "tsv", "jsonl", "parquet"])
def test_the_same_table_in_any_format(tmp_path: Path, format_: str) -> None:
    rows: list[dict[str, Any]] = [
        {"id": 2, "name": "Two", "price": 5.0, "tags": "a|b", "about": "long"},
        {"id": 1, "name": None, "price": 5.5, "tags": "b", "about": None},
        {"id": 3, "name": "Three", "price": None, "tags": None, "about": "short"},
    ]
    path = tmp_path / "table"
    if format_ == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif format_ == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        mark = {"csv": ",", "tsv": "\t"}[format_]
        lines = [mark.join("" if v is None else str(v) for v in row.values()) for row in rows]
        path.write_text("\n".join([mark.join(rows[0]), *lines]))
    found, sizes, _ = write(
        tmp_path, "item", vocabulary("1", "2", "4"), format=format_, id="id", title="name",
        attributes={
            "price": {"kind": "numeric", "bins": [5]}, "tags": {"kind": "multi"},
            "about": {"kind": "text"},
        },
    )  # fmt: skip
    assert [row["id"] for row in found] == [1, 2, 3]
    assert values(tmp_path, "item.tags") == [(1, "b", 2), (2, "a", 1)]
    assert values(tmp_path, "item.price") == [(1, "(-inf, 5]", 1), (2, "(5, inf]", 1)]
    assert [(r["title"] or "", r["price"], r["tags"], r["about"] or "") for r in found] == [
        ("", [2], [1], ""), ("Two", [1], [2, 1], "long"), ("", [], [], ""),
    ]  # fmt: skip
    assert sizes == {"price": 2, "tags": 2}
    assert not (tmp_path / "vocabulary/item.about.parquet").exists()


def test_a_table_in_several_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a table may differ in what is typed and what is text."""
    monkeypatch.setattr(reading, "MAX_ROWS", 2)
    (tmp_path / "table").mkdir()
    for name, ids, tags, sizes_ in (
        ("a", [1, 2, 3], [["x"], ["x", "y"], None], [1, 2, 3]),
        ("b", [3, 4, 5], [["z"], ["y"], ["y"]], [30, 40, None]),
    ):
        rows = pa.table({"id": ids, "tags": tags, "size": sizes_})
        pq.write_table(rows, tmp_path / "table" / f"{name}.parquet")
    found, sizes, warnings = write(
        tmp_path, "item", vocabulary("5", "4", "3", "2", "1", "0"), format="parquet", id="id",
        attributes={"tags": {"kind": "multi"}, "size": {"kind": "numeric", "bins": [2]}},
    )  # fmt: skip
    # Row 3 comes twice: its tag z does not count.
    assert values(tmp_path, "item.tags") == [(1, "y", 3), (2, "x", 2)]
    assert [r["tags"] for r in found] == [[1], [1], [], [2, 1], [2], []]
    assert values(tmp_path, "item.size") == [(1, "(-inf, 2]", 2), (2, "(2, inf]", 2)]
    assert [r["size"] for r in found] == [[], [2], [2], [1], [1], []]
    assert sizes == {"tags": 2, "size": 2}
    assert warnings[0] == (
        "1 of 6 rows of prepare.items are left out, since an earlier row has the same id"
    )


def test_lists_in_json_lines(tmp_path: Path) -> None:
    lines = [{"id": "a", "tags": ["x", 2, "x"]}, {"id": "b", "tags": "x"}, {"id": "c"}]
    (tmp_path / "table").write_text("\n".join(map(json.dumps, lines)))
    found, _, _ = write(
        tmp_path, "item", vocabulary("a", "b", "c"), format="jsonl", id="id",
        attributes={"tags": {"kind": "multi"}},
    )  # fmt: skip
    assert values(tmp_path, "item.tags") == [(1, "x", 2), (2, "2", 1)]
    assert [r["tags"] for r in found] == [[1, 2], [1], []]


def test_rows_that_are_left_out_are_counted_and_named(tmp_path: Path) -> None:
    (tmp_path / "table").write_text(
        "id,name,price\n1,Toy Story, The (1995),3\n2,Heat,5.5\n2,Again,1\n,None,1\n"
        '3,Dear,"1,000"\n4,Free,free\n5,Unknown,NaN\n'
    )
    table = AttributeTable.model_validate(
        {"files": str(tmp_path / "table"), "id": "id", "title": "name",
         "attributes": {"price": {"kind": "numeric", "bins": [4]}}}
    )  # fmt: skip
    files = find_files(table.files, Layout.of_attributes(table, "prepare.items"))
    ids = vocabulary("1", "2", "3", "4", "5")
    found = write_attributes(table, files, "item", ids, Folder.open(str(tmp_path)), lambda n: None)
    assert found.rows == {"in": 7, "kept": 4, "malformed": 1, "null_id": 1, "repeated_id": 1}
    assert found.warnings == [
        "1 of 7 rows of prepare.items are malformed and left out (the first: "
        "'1,Toy Story, The (1995),3')",
        "1 of 7 rows of prepare.items are without an id and left out",
        "1 of 7 rows of prepare.items are left out, since an earlier row has the same id",
        "1 of 5 items are not in prepare.items",
        "prepare.items.attributes.price: 2 values are no numeric value and count as none (the "
        "first: '1,000')",
    ]


@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
def test_lists_in_lists_are_the_values_of_the_row(tmp_path: Path, format_: str) -> None:
    """Category trees, as shops publish them."""
    rows = [
        {"id": "a", "tree": [["Home", "Kitchen"], ["Home", "Garden"]]},
        {"id": "b", "tree": [["Home"], []]}, {"id": "c", "tree": []}, {"id": "d", "tree": None},
    ]  # fmt: skip
    if format_ == "jsonl":
        (tmp_path / "table").write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table")
    found, _, warnings = write(
        tmp_path, "item", vocabulary("a", "b", "c", "d"), format=format_, id="id",
        attributes={"tree": {"kind": "multi"}},
    )  # fmt: skip
    assert values(tmp_path, "item.tree") == [(1, "Home", 2), (2, "Garden", 1), (3, "Kitchen", 1)]
    assert [sorted(r["tree"]) for r in found] == [[1, 2, 3], [1], [], []] and not warnings


def test_an_attribute_without_values_and_a_table_without_rows(tmp_path: Path) -> None:
    (tmp_path / "table").write_text("id,x\n1,\n2,\n")
    rows, sizes, warnings = write(tmp_path, "item", vocabulary("1"), id="id", attributes={"x": {}})
    assert rows == [{"id": 1, "title": None, "x": []}] and sizes == {"x": 0}
    assert warnings == ["prepare.items.attributes.x: no row has a value"]
    (tmp_path / "table").write_text("id,x\n")
    rows, sizes, _ = write(tmp_path, "item", vocabulary("1"), id="id", attributes={"x": {}})
    assert rows == [{"id": 1, "title": None, "x": []}] and sizes == {"x": 0}


def test_wrong_tables_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes("id,x\n1,Zo\u00eb\n".encode("latin-1"))
    with pytest.raises(DataError) as error:
        write(tmp_path, "item", vocabulary("1"), id="id", attributes={"x": {}})
    assert error.value.where == f"{tmp_path}/table, byte 9" and "encoding: latin-1" in str(
        error.value
    )
    for settings, knob in (
        ({"id": "no"}, "prepare.items.id"),
        ({"id": "id", "title": "no"}, "prepare.items.title"),
        ({"id": "id", "attributes": {"no": {}}}, "prepare.items.attributes.no"),
    ):
        with pytest.raises(MissingColumnError) as missing:
            write(tmp_path, "item", vocabulary("1"), **settings)
        assert f"correct {knob}" in str(missing.value)
