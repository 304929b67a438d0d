"""Metrics of lists against RecTools 0.19, whose values make_rectools_values.py has written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from p5dist.data.jagged import offsets_of
from p5dist.ranking.list_metrics import (
    ItemCounts,
    attribute_diversity,
    diversity,
    novelty,
    serendipity,
    unit_vectors,
    user_counts,
)
from p5dist.ranking.metrics import list_values
from tests.ranking.histories_of import histories
from tests.ranking.plain import list_means
from tests.ranking.rectools_case import ITEMS, KS, LISTED, USERS, make

EXPECTED = json.loads(Path(__file__).with_name("rectools_values.json").read_text())
CASE = make()
LISTS = np.zeros((USERS, LISTED), dtype=np.int64)
for user, order in enumerate(CASE.order):
    LISTS[user, : len(order[:LISTED])] = order[:LISTED]
OWNER = np.repeat(np.arange(USERS), [len(items) for items in CASE.targets])
ITEM = np.concatenate(CASE.targets)
RANK = np.array([CASE.rank(u, i) for u, i in zip(OWNER.tolist(), ITEM.tolist(), strict=True)])
COUNT = np.bincount(np.concatenate(CASE.train) - 1, minlength=ITEMS)
NOVELTY = novelty(user_counts(histories(CASE.train), ITEMS), USERS)


def same(found: dict[str, np.ndarray], prefix: str = "") -> None:
    for name, values in found.items():
        assert values == pytest.approx(np.array(EXPECTED[prefix + name]), abs=1e-9), name


def test_the_case_has_repeats_seen_targets_cold_items_and_a_short_list() -> None:
    assert any(len(set(items)) < len(items) for items in CASE.targets)
    assert (RANK > ITEMS).any() and (COUNT == 0).any() and (LISTS[:, 3:] == 0).any()


def test_hits() -> None:
    found = list_values(RANK, ITEM, OWNER, KS)
    assert len(found) == 12
    same(found)


def test_popularity_and_novelty() -> None:
    same(list_means("popularity", LISTS, COUNT, KS))
    same(list_means("novelty", LISTS, NOVELTY, KS))


def test_serendipity() -> None:
    same(serendipity(RANK, ITEM, OWNER, (LISTS > 0).sum(1), COUNT, ITEMS, KS))


def test_diversity() -> None:
    same(diversity(LISTS, np.arange(1, ITEMS + 1), unit_vectors(CASE.vectors), KS))
    lengths = np.array([0, *map(len, CASE.values)])
    values = np.concatenate([np.array(v, dtype=np.int64) for v in CASE.values])
    same(attribute_diversity(LISTS, offsets_of(lengths), values, KS), "attribute_")


def test_sums_over_parts() -> None:
    parts = [ItemCounts.of(LISTS[a : a + 9], KS) for a in range(0, USERS, 9)]
    counts = sum(parts[3:], parts[2]) + parts[1] + parts[0]
    for k in KS:
        assert counts.coverage(ITEMS)[f"coverage@{k}"] == EXPECTED[f"coverage@{k}"]
        for name, values in (("popularity", COUNT), ("novelty", NOVELTY)):
            mean = np.mean(EXPECTED[f"{name}@{k}"])
            assert counts.means(name, values)[f"{name}@{k}"] == pytest.approx(mean, abs=1e-9)
