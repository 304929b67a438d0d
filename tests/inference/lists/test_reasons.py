"""``recommend.explain``: the reasons in the files, and their fidelity in the result."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest

from p5dist.data import columns as c
from p5dist.inference import recommend
from tests.fake_scorer import load_fake
from tests.inference.lists.made import ITEMS, histories_of, lists_in, prepared, scores_of


def log_p(history: list[int], item: int) -> float:
    scores = scores_of(history) if history else np.zeros(ITEMS)
    return float(scores[item - 1]) - math.log(np.exp(scores.astype(np.float64)).sum())


def test_every_listed_item_has_the_interactions_without_which_it_falls(tmp_path: Path) -> None:
    job, folder = prepared(tmp_path, "recommend.explain=2")
    result = recommend.run(job, folder, load=load_fake)
    names = [name for name in folder.recommend.children() if name.endswith(".parquet")]
    table = ds.dataset([(folder.recommend / name).path for name in names]).to_table()
    assert table.schema.equals(c.EXPLAINED)
    histories, reasons = histories_of(folder), 0
    for row in table.to_pylist():
        own, item = histories[row[c.USER_ID]], int(row[c.ITEM_ID][1:])
        falls = [max(log_p(own, item) - log_p(own[:j] + own[j + 1 :], item), 0.0)
                 for j in range(len(own))]  # fmt: skip
        order = sorted(range(len(own)), key=lambda j: (-round(falls[j], 6), -j))[:2]
        expected = [(f"i{own[j]}", falls[j] / sum(falls)) for j in order if falls[j] > 1e-6]
        found = [(r[c.ITEM_ID], r["share"]) for r in row[c.REASONS] if r["share"] > 1e-5]
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert [s for _, s in found] == pytest.approx([s for _, s in expected], abs=1e-3)
        assert row[c.COUNTED] == 0
        reasons += len(found)
    assert reasons > 200
    told = result["explanations"]
    assert told["histories"] > 20 and told["named"] == 2
    assert told["margin"]["low"] > 0, "named interactions matter more than random ones"
    assert told["control"]["low"] < 0 < told["control"]["high"]
    assert 0 < told["still_listed_random"] <= 1


def test_without_the_setting_the_lists_are_the_same(tmp_path: Path) -> None:
    job, folder = prepared(tmp_path / "plain")
    recommend.run(job, folder, load=load_fake)
    plain = lists_in(folder)
    job, folder = prepared(tmp_path / "explained", "recommend.explain=1")
    recommend.run(job, folder, load=load_fake)
    names = [name for name in folder.recommend.children() if name.endswith(".parquet")]
    table = ds.dataset([(folder.recommend / name).path for name in names]).to_table()
    rows = [(r[c.USER_ID], r[c.ITEM_ID], r[c.SCORE]) for r in table.to_pylist()]
    assert rows == [(user, item, s) for user, own in plain.items() for item, s in own]
