"""Sums over lists: the same for any division into portions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from p5dist.data.catalogue import Catalogue
from p5dist.inference.evaluate import listed
from p5dist.inference.evaluate.listed import ByVectors, Listed, Lister
from p5dist.ranking.list_metrics import ItemCounts
from tests.fake_scorer import FakeScorer, item_matrix

KS = (1, 4, 10)
ITEMS = 40


def lists(rows: int) -> np.ndarray:
    rng = np.random.default_rng(rows)
    ids = np.stack([rng.permutation(ITEMS)[:10] + 1 for _ in range(rows)])
    for row, length in enumerate(rng.integers(0, 11, rows)):
        ids[row, length:] = 0
    return ids


def read(parts: list[dict[str, pa.Array]]) -> Listed:
    found = Listed(KS)
    for columns in parts:
        found.read(pa.table(columns), "model")
    return found


@pytest.mark.parametrize("waiting", [0, 1 << 20])
def test_portions_add_up_to_the_last_bit(waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listed, "_WAITING", waiting)
    ids, model = lists(60), ByVectors(FakeScorer(Catalogue(ITEMS)))
    whole = Lister(KS, model)
    whole.add({"model": ids, "popularity": ids[:, ::-1]})
    parts = []
    for part in (ids[:7], ids[7:7], ids[7:40], ids[40:]):
        lister = Lister(KS, model)
        for batch in (part[:5], part[5:]):
            lister.add({"model": batch, "popularity": batch[:, ::-1]})
        parts.append(lister.columns())
    one, several = read([whole.columns()]), read(parts[::-1])
    assert several.mean_diversity() == one.mean_diversity()
    assert several.counts.keys.tolist() == ItemCounts.of(ids, KS).keys.tolist()
    assert several.counts.counts.tolist() == one.counts.counts.tolist()
    unit = item_matrix(ITEMS).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    means = []
    for row in ids:
        shown = row[row > 0]
        pairs = [1 - unit[a - 1] @ unit[b - 1] for i, a in enumerate(shown) for b in shown[:i]]
        means.append(np.mean(pairs) if pairs else 0.0)
    assert one.mean_diversity()["diversity@10"] == pytest.approx(np.mean(means), abs=1e-9)


def test_no_lists() -> None:
    lister = Lister(KS, ByVectors(FakeScorer(Catalogue(ITEMS))))
    lister.add({"model": np.zeros((0, 10), dtype=np.int64)})
    found = read([lister.columns()])
    assert found.mean_diversity() == {} and found.counts.lists.sum() == 0
    assert Listed(KS).mean_diversity() == {}
