"""Extended and hashed vocabularies, and vocabularies of training items only."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p5dist.config.prepare import ItemVocabulary
from p5dist.errors import DataError
from p5dist.prepare.arrays import stable_hash
from p5dist.prepare.vocabulary import (
    catalogue_indices,
    expected_collisions,
    item_vocabulary,
    merge_counted,
)
from tests.prepare.runs import make_job, prepared, write_csv


def test_earlier_items_keep_their_ids_and_new_ones_come_behind() -> None:
    catalogue = pa.array([7, 8, 9, 10])
    train, seen = np.array([5, 0, 2, 9]), np.array([5, 1, 2, 9])
    earlier = pa.array(["9", "77"])
    found, ids = item_vocabulary(ItemVocabulary(), catalogue, train, seen, earlier)
    assert found.external.to_pylist() == ["9", "77", "10", "7"]
    assert found.count.tolist() == [2, 0, 9, 5]
    assert ids.tolist() == [4, 0, 1, 3]
    found, ids = item_vocabulary(ItemVocabulary(of="all"), catalogue, train, seen, earlier)
    assert found.external.to_pylist() == ["9", "77", "10", "7", "8"]
    assert ids.tolist() == [4, 5, 1, 3]


def test_hashed_ids_are_a_function_of_the_external_id_alone() -> None:
    names = ["a", "b", "c", "d", "e"]
    count = np.array([1, 5, 3, 5, 2])
    size = 3
    found, ids = item_vocabulary(ItemVocabulary(hashed=size), pa.array(names), count, count, None)
    expected = [int(h) % size + 1 for h in stable_hash(pa.array(names))]
    assert ids.tolist() == expected
    for i in range(1, size + 1):
        mine = [(-n, name) for name, n, id_ in zip(names, count, expected, strict=True) if id_ == i]
        best = min(mine)[1] if mine else None
        assert found.external[i - 1].as_py() == best
        assert found.count[i - 1] == -sum(n for n, _ in mine)
    named = [name for name in found.external.to_pylist() if name is not None]
    assert found.unnamed == len(names) - len(named) > 0
    # An item that the log no longer has gives no id a name.
    left = np.array([1, 0, 3, 0, 2])
    found, _ = item_vocabulary(ItemVocabulary(hashed=50), pa.array(names), left, left, None)
    assert {name for name in found.external.to_pylist() if name} == {"a", "c", "e"}
    # The same ids where the log has numbers and where it has their text.
    numbers = pa.array([5, 17, 300])
    one = item_vocabulary(ItemVocabulary(hashed=10), numbers, *[np.ones(3, int)] * 2, None)[1]
    text = numbers.cast(pa.string())
    two = item_vocabulary(ItemVocabulary(hashed=10), text, *[np.ones(3, int)] * 2, None)[1]
    assert one.tolist() == two.tolist()


def test_expected_collisions() -> None:
    # Two items in two ids: they meet in half of the cases, and then both share.
    assert expected_collisions(2, 2) == pytest.approx(1.0)
    assert expected_collisions(1, 5) == 0
    draw = np.random.default_rng(1).integers(0, 50, (4000, 30))
    shared = np.mean([30 - (np.bincount(row) == 1).sum() for row in draw])
    assert expected_collisions(30, 50) == pytest.approx(shared, rel=0.02)


def merged(parts: list[pa.Array]) -> pa.Array:
    tables = [pa.table({"item": p, "count": np.arange(len(p)) + 1}) for p in parts]
    found = merge_counted(tables)
    expected = Counter()
    for table in tables:
        expected.update(dict(zip(*table.to_pydict().values(), strict=True)))
    assert dict(zip(*found.to_pydict().values(), strict=True)) == expected
    return found["item"].combine_chunks()


def test_places_in_the_catalogue() -> None:
    parts = [pa.array([30, 2]), pa.array([7, 30]), pa.array([], pa.int64())]
    catalogue = merged(parts)
    assert catalogue.to_pylist() == [2, 7, 30]
    assert [catalogue_indices(p, catalogue).tolist() for p in parts] == [[2, 0], [1, 2], []]
    text = merged([p.cast(pa.string()) for p in parts])
    assert [catalogue_indices(p.cast(pa.string()), text).tolist() for p in parts] == [
        [2, 0],
        [1, 2],
        [],
    ]


def rows(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [
        {"user": u, "item": i, "rating": "", "timestamp": str(t)} for t, (u, i) in enumerate(pairs)
    ]


def vocabulary(prepare: Path) -> list[str]:
    return pq.read_table(prepare / "vocabulary/item.parquet")["external_id"].to_pylist()


def test_a_run_that_goes_on_from_the_vocabulary_of_another(tmp_path: Path) -> None:
    first = write_csv(tmp_path / "first.csv", rows(("u", "a"), ("u", "b"), ("v", "b")))
    _, before = prepared(make_job(tmp_path / "one", {"files": first}))
    assert vocabulary(before) == ["b", "a"]
    later = write_csv(tmp_path / "later.csv", rows(("u", "c"), ("v", "c"), ("w", "a")))
    rule = {"extend": str(tmp_path / "one" / "run")}
    manifest, after = prepared(make_job(tmp_path / "two", {"files": later}, vocabulary=rule))
    assert vocabulary(after) == ["b", "a", "c"] and manifest.items == 3
    rule = {"extend": str(tmp_path / "nowhere")}
    with pytest.raises(DataError, match="no prepared data there"):
        prepared(make_job(tmp_path / "three", {"files": later}, vocabulary=rule))


def test_values_of_attributes_and_context_keep_their_ids_as_well(tmp_path: Path) -> None:
    def run(name: str, pairs: list[tuple[str, str]], **rule: str) -> Path:
        """Over interactions of one user: item and device; an item's only tag is its device."""
        log, tags = tmp_path / f"{name}.csv", tmp_path / f"{name}-items.csv"
        lines = [f"u,{item},{t},{device}" for t, (item, device) in enumerate(pairs)]
        log.write_text("\n".join(["user,item,timestamp,shown_on", *lines]))
        tags.write_text("\n".join(["item,tag", *{f"{i},{d}" for i, d in pairs}]))
        columns = {"user": "user", "item": "item", "timestamp": "timestamp",
                   "context": {"device": {"column": "shown_on"}}}  # fmt: skip
        items = {"files": str(tags), "id": "item", "attributes": {"tag": {}}}
        job = make_job(tmp_path / name, {"files": str(log), "columns": columns}, items=items,
                       vocabulary={"of": "all", **rule})  # fmt: skip
        return prepared(job)[1]

    def values(folder: Path, name: str) -> dict[str, int]:
        table = pq.read_table(folder / f"vocabulary/{name}.parquet")
        return dict(zip(table["external_id"].to_pylist(), table["id"].to_pylist(), strict=True))

    one = run("one", [("a", "tv"), ("b", "tv"), ("c", "pc")])
    later = [("d", "car"), ("e", "car"), ("f", "car"), ("g", "pc")]
    two = run("two", later, extend=str(tmp_path / "one/run"))
    for name in ("item.tag", "context.device"):
        assert values(one, name) == {"tv": 1, "pc": 2}
        assert values(two, name) == {"tv": 1, "pc": 2, "car": 3}
    items = values(two, "item")
    tags = pq.read_table(two / "attributes/item.parquet")["tag"].to_pylist()
    assert [tags[items[i] - 1] for i in "adg"] == [[], [3], [2]]


def test_hashed_items_of_a_run(tmp_path: Path) -> None:
    log = write_csv(tmp_path / "log.csv", rows(*[("u", str(i)) for i in range(20)]))
    manifest, prepare = prepared(make_job(tmp_path, {"files": log}, vocabulary={"hashed": 8}))
    table = vocabulary(prepare)
    assert manifest.items == len(table) == 8
    assert manifest.unnamed_items == 20 - sum(name is not None for name in table)
    profile = json.loads((prepare / "profile.json").read_text())
    assert profile["items"] == 20 and profile["density"] == 1
    assert profile["item_counts"]["count"] == sorted(profile["item_counts"]["count"])[::-1]
    assert manifest.rows_kept == 20 and "unknown_item" not in manifest.rows_rejected
    assert "20 items share 8 hashed ids" in (prepare / "profile.json").read_text()
