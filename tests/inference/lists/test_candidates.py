"""The items that may be listed, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.errors import DataError
from p5dist.inference.items import ItemIds
from p5dist.inference.lists.candidates import choose
from p5dist.storage import Folder

# Ids 1…6; no item has id 4.
ITEMS = ItemIds(
    pa.array(["a", "b", "c", None, "e", "f"]),
    np.array([9, 5, 5, 0, 0, 1]),
    None,
    Catalogue(6, np.array([4])),
)


@pytest.fixture
def prepare(tmp_path: Path) -> Folder:
    """genre: a Drama and Comedy, b Comedy, e Horror; year: a 1999, b 2000."""
    folder = Folder.open(str(tmp_path))
    for name, values in (("genre", ["Drama", "Comedy", "Horror"]), ("year", ["1999", "2000"])):
        ids = range(1, len(values) + 1)
        table = pa.table([ids, values, [0] * len(values)], schema=c.VOCABULARY)
        (folder / f"vocabulary/item.{name}.parquet").write_table(table)
    lists = pa.list_(pa.int32())
    (folder / "attributes/item.parquet").write_table(
        pa.table(
            {
                "genre": pa.array([[1, 2], [2], [], [], [3], None], lists),
                "year": pa.array([[1], [2], [], [], [], []], lists),
            }
        )
    )
    return folder


def texts(**lists: list[str]) -> dict[str, pa.StringArray]:
    return {name: pa.array(ids, pa.string()) for name, ids in lists.items()}


def names(found: np.ndarray) -> str:
    return "".join(ITEMS.external.filter(pa.array(found)).to_pylist())


def test_lists_and_rules(prepare: Folder) -> None:
    everything = choose(ITEMS, prepare)
    assert (names(everything.may), everything.number, everything.of) == ("abcef", 5, 5)
    assert everything.offset(ITEMS.count, 0) is None
    both = choose(ITEMS, prepare, allow=texts(allow=["f", "a", "?"], stock=["a", "c", "f"]))
    assert (names(both.may), both.unknown) == ("af", {"allow": 1, "stock": 0})
    assert both.in_words() == "2 of 5 items (allow: 1 unknown; stock)"
    assert names(choose(ITEMS, prepare, deny=texts(deny=["a", "?", "e"])).may) == "bcf"
    one_of = choose(ITEMS, prepare, where={"genre": ["Drama", "Horror"]})
    assert names(one_of.may) == "ae"
    assert names(choose(ITEMS, prepare, where={"genre": "Comedy", "year": ("2000",)}).may) == "b"
    assert names(choose(ITEMS, prepare, not_where={"genre": "Comedy", "year": "1999"}).may) == "cef"


def test_offsets_and_popular_items(prepare: Folder) -> None:
    found = choose(ITEMS, prepare, deny=texts(deny=["b"]))
    offset = found.offset(ITEMS.count, 0.5)
    assert offset is not None and offset.dtype == np.float32
    expected = [-0.5 * np.log(10), -np.inf, -0.5 * np.log(6), -np.inf, 0, -0.5 * np.log(2)]
    assert offset.tolist() == pytest.approx(expected)
    assert found.popular(ITEMS.count, 3).tolist() == [1, 3, 6]
    assert choose(ITEMS, prepare).popular(ITEMS.count, 9).tolist() == [1, 2, 3, 6, 5]


def test_mistakes(prepare: Folder) -> None:
    with pytest.raises(DataError, match=r"(?s)where\.genre.*drama.*did you mean 'Drama'"):
        choose(ITEMS, prepare, where={"genre": ["drama"]})
    with pytest.raises(DataError, match="no such attribute"):
        choose(ITEMS, prepare, not_where={"colour": "red"}, section="recommend.")
    with pytest.raises(DataError, match=r"(?s)no item is left.*0 of 5 items \(allow: 1 unknown"):
        choose(ITEMS, prepare, allow=texts(allow=["?"]), section="recommend.")


def test_hashed_ids() -> None:
    from p5dist.prepare.arrays import stable_hash

    ids = (np.asarray(stable_hash(pa.array(["a", "x"]))) % 6).astype(int) + 1
    items = ItemIds(ITEMS.external, ITEMS.count, 6, Catalogue(6, ids[1:]))
    found = choose(items, Folder.open("."), allow=texts(allow=["a", "x"]))
    assert ids[0] != ids[1]
    assert (np.flatnonzero(found.may) + 1).tolist() == [ids[0]]
    assert found.unknown == {"allow": 1}
