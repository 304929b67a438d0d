"""Returns to own items, against plain loops; and what a mixture remembers of a history."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.ranking import item_to_item
from p5dist.ranking.item_to_item import ItemToItem
from p5dist.ranking.mixture import Mixture
from p5dist.ranking.returns import PLACES, Returns, count_returns, returns_of
from tests.data.test_histories import histories
from tests.ranking.plain import whole

EVENTS = 2
ITEMS = 12


def random_histories(seed: int) -> Histories:
    rng = np.random.default_rng(seed)
    lists = [rng.integers(1, ITEMS + 1, n).tolist() for n in rng.integers(0, 30, 40)]
    made = histories(lists)
    return replace(made, event=rng.integers(0, EVENTS + 1, len(made.item)).astype(np.int8))


def own_items(items: list[int], events: list[int]) -> list[tuple[int, int, int]]:
    """(item, event of its last interaction, place) of the own items, the latest first."""
    found: list[tuple[int, int, int]] = []
    for item, event in zip(reversed(items), reversed(events), strict=True):
        if item not in [one for one, _, _ in found] and len(found) < PLACES:
            found.append((item, event, len(found)))
    return found


def by_user(made: Histories) -> list[tuple[list[int], list[int]]]:
    cuts = zip(made.offsets[:-1], made.offsets[1:], strict=True)
    return [(made.item[a:b].tolist(), made.event[a:b].tolist()) for a, b in cuts]


@pytest.mark.parametrize("targets", [(True, True, True), (False, False, True)])
@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_plain_loops(seed: int, targets: tuple[bool, ...]) -> None:
    made = random_histories(seed)
    seen, hit = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for items, events in by_user(made):
        for at in range(1, len(items)):
            if targets[events[at]]:
                for item, event, place in own_items(items[:at], events[:at]):
                    seen[event, place] += 1
                    hit[event, place] += item == items[at]
    found = count_returns(made, np.asarray(targets))
    for of, counts in zip(found, (seen, hit), strict=True):
        expected = np.zeros((EVENTS + 1, PLACES))
        for key, number in counts.items():
            expected[key] = number
        assert of.tolist() == expected.tolist()
    assert found.sum() > 100


def test_counts_of_parts_add_up() -> None:
    made, every = random_histories(9), np.ones(3, dtype=bool)
    parts = [count_returns(made.between(a, b), every) for a, b in ((0, 13), (13, 40))]
    assert (parts[0] + parts[1]).tolist() == count_returns(made, every).tolist()


def test_probabilities_of_a_history_are_those_of_the_table() -> None:
    made = random_histories(1)
    table = np.random.default_rng(0).uniform(0, 0.04, (EVENTS + 1, PLACES))
    found = Returns(Catalogue(ITEMS), table).scores(made).toarray()
    for row, (items, events) in zip(found, by_user(made), strict=True):
        expected = np.zeros(ITEMS)
        for item, event, place in own_items(items, events):
            expected[item - 1] = table[event, place]
        assert row.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_they_sum_to_less_than_one() -> None:
    found = Returns(Catalogue(ITEMS), np.full((3, PLACES), 0.5)).scores(histories([[1, 2, 3], [4]]))
    assert found.toarray().sum(axis=1).tolist() == pytest.approx([0.95, 0.5])


def test_the_table_by_hand() -> None:
    """User: 1, 2, 1, with one kind of event. Before 2, item 1 is at place 1; before the second 1,
    item 2 is at place 1 and item 1 at place 2."""
    table = returns_of(count_returns(histories([[1, 2, 1]]), np.array([True])))
    assert table[0, :3].tolist() == pytest.approx([0 / 3, 1 / 2, 0])


def test_an_item_without_event_is_described_by_its_place() -> None:
    made = random_histories(2)
    made = replace(made, event=np.maximum(made.event, 1).astype(np.int8))
    counts = count_returns(made, np.ones(3, dtype=bool))
    table = returns_of(counts)
    pooled = counts[1].sum(axis=0) / (counts[0].sum(axis=0) + 1)
    assert not counts[0, 0].any() and table[0].tolist() == pytest.approx(pooled.tolist())
    assert table[1:].tolist() == returns_of(counts)[1:].tolist()


@pytest.mark.parametrize("sparse", [False, True])
def test_returns_come_first_and_counts_divide_what_they_leave(
    sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sparse:
        monkeypatch.setattr(item_to_item, "DENSE", 0)
    catalogue = Catalogue(4)
    counts = ItemToItem.fit([histories([[1, 2], [1, 3], [1, 3]])], catalogue)
    table = np.zeros((1, PLACES))
    table[0, 0] = 0.2
    given = histories([[1], [4], []])
    found = whole(Mixture(counts, 0.5, Returns(catalogue, table)).remembered(given))
    score = whole(counts.scores(given))[0]
    first = 0.8 * 0.5 * score / score.sum()
    first[0] += 0.2
    assert found[0].tolist() == pytest.approx(first.tolist(), rel=1e-5)
    assert found[1].tolist() == pytest.approx([0, 0, 0, 0.2])
    assert not found[2].any()
