"""Jagged operations against lists."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Jagged

Lists = list[list[int]]
lists = st.lists(st.lists(st.integers(1, 99), max_size=6), min_size=1, max_size=8)


def histories(items: Lists) -> Histories:
    flat = [i for history in items for i in history]
    offsets = np.cumsum([0, *map(len, items)])
    return Histories(
        user=np.arange(len(items)) + 10,
        row=np.arange(len(items)),
        offsets=offsets,
        item=np.asarray(flat, dtype=np.int64),
        timestamp=np.arange(len(flat)),
        event=np.zeros(len(flat), dtype=np.int8),
        rating=np.asarray(flat, dtype=np.float32) / 2,
        split=np.zeros(len(flat), dtype=np.int8),
    )


def items_of(h: Histories) -> Lists:
    return [h.item[a:b].tolist() for a, b in zip(h.offsets, h.offsets[1:], strict=False)]


@given(lists, st.integers(1, 7))
def test_last(items: Lists, n: int) -> None:
    assert items_of(histories(items).last(n)) == [history[-n:] for history in items]


@given(lists, st.data())
def test_take(items: Lists, data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, len(items) - 1), max_size=10))
    taken = histories(items).take(np.asarray(index, dtype=np.int64))
    assert items_of(taken) == [items[i] for i in index]
    assert taken.user.tolist() == [i + 10 for i in index]


@given(lists)
def test_where(items: Lists) -> None:
    h = histories(items)
    assert items_of(h.where(h.item % 2 == 0)) == [
        [i for i in history if i % 2 == 0] for history in items
    ]


@given(lists, lists)
def test_concat_and_positions(first: Lists, second: Lists) -> None:
    h = Histories.concat([histories(first), histories(second)])
    assert items_of(h) == first + second
    assert h.position().tolist() == [i for x in first + second for i in range(len(x))]
    assert h.owner().tolist() == [n for n, x in enumerate(first + second) for _ in x]


@settings(deadline=None)  # the first table imports something
@given(lists)
def test_tables_there_and_back(items: Lists) -> None:
    h = histories(items)
    again = Histories.from_table(h.to_table())
    assert items_of(again) == items
    assert again.rating.tolist() == h.rating.tolist()
    assert again.row.tolist() == h.row.tolist()


def test_a_slice_of_a_table_and_columns_that_are_not_there() -> None:
    table = histories([[1, 2], [3], [4, 5, 6]]).to_table().select([c.USER, c.ITEM]).slice(1, 2)
    h = Histories.from_table(pa.concat_tables([table, table]))
    assert items_of(h) == [[3], [4, 5, 6], [3], [4, 5, 6]]
    assert h.rating.tolist() == [0.0] * 8
    assert len(Histories.empty()) == 0


def knowing(items: Lists, had: Lists, had_of: list[int]) -> Histories:
    flat = np.asarray([i for own in had for i in own], dtype=np.int64)
    jagged = Jagged(np.cumsum([0, *map(len, had)]), flat)
    return replace(histories(items), had=jagged, had_of=np.asarray(had_of, dtype=np.int64))


def had_by_history(h: Histories) -> Lists:
    assert h.had is not None and h.had_of is not None
    each = h.had.take(h.had_of)
    return [each.values[a:b].tolist() for a, b in zip(each.offsets, each.offsets[1:], strict=False)]


@given(lists, st.data())
def test_what_users_have_had_stays_with_their_histories(items: Lists, data: st.DataObject) -> None:
    n = len(items)
    users = data.draw(st.integers(1, n))
    own = st.lists(st.integers(1, 99), max_size=4)
    had = data.draw(st.lists(own, min_size=users, max_size=users))
    had_of = data.draw(st.lists(st.integers(0, users - 1), min_size=n, max_size=n))
    h = knowing(items, had, had_of)
    expected = [had[u] for u in had_of]
    assert had_by_history(h) == expected
    assert had_by_history(h.copy()) == expected
    assert had_by_history(h.last(1)) == expected
    assert had_by_history(Histories.from_table(h.to_table())) == expected
    index = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=6))
    taken = h.take(np.asarray(index))
    assert had_by_history(taken) == [expected[i] for i in index]
    assert had_by_history(taken.copy()) == [expected[i] for i in index]
    both = Histories.concat([Histories.empty(), h, taken])
    assert had_by_history(both) == expected + [expected[i] for i in index]
    table = both.to_table()
    again = Histories.from_table(pa.concat_tables([table.slice(0, n), table.slice(n)]))
    assert had_by_history(again) == had_by_history(both)
