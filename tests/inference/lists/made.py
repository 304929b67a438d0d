"""A small run whose lists a test can compute itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.inference import recommend
from p5dist.storage import RunFolder
from tests.fake_scorer import item_matrix, load_fake
from tests.small_data import small_job, write_small_data

ITEMS, K = 24, 5
Lists = dict[str, list[tuple[str, float | None]]]
"""(item, score) in the order of the rank, by user."""


def job_at(tmp_path: Path, *overrides: str) -> RunConfig:
    return small_job(
        tmp_path, f"recommend.k={K}", "recommend.batch_size=6", "feed.unit_rows=5", *overrides
    )


def prepared(tmp_path: Path, *overrides: str) -> tuple[RunConfig, RunFolder]:
    job = job_at(tmp_path, *overrides)
    return job, write_small_data(job, items=ITEMS)


def made(job: RunConfig, folder: RunFolder) -> tuple[Lists, dict[str, Any]]:
    """The lists of the stage, and its result."""
    result = recommend.run(job, folder, load=load_fake)
    assert folder.recommend.children()[-1] == "result.json"  # no scratch/
    return lists_in(folder), result


def lists_in(folder: RunFolder) -> Lists:
    names = [name for name in folder.recommend.children() if name.endswith(".parquet")]
    table = ds.dataset([(folder.recommend / name).path for name in names]).to_table()
    assert table.schema.equals(c.RECOMMENDATION)
    found: Lists = {}
    for row in table.to_pylist():
        own = found.setdefault(row[c.USER_ID], [])
        own.append((row[c.ITEM_ID], row[c.SCORE]))
        assert row[c.RANK] == len(own)
    return found


def histories_of(folder: RunFolder) -> dict[str, list[int]]:
    """Item ids by user."""
    shards = sorted(Path(folder.prepare.path, "shards").glob("*.parquet"))
    rows = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
    return {f"u{row[c.USER]}": row[c.ITEM] for row in rows}


def counts_of(folder: RunFolder) -> np.ndarray:
    """[ITEMS] training interactions."""
    table = (folder.prepare / "vocabulary/item.parquet").read_table()
    found: np.ndarray = table[c.COUNT].to_numpy()
    return found


def scores_of(history: list[int]) -> np.ndarray:
    """[ITEMS] of :class:`FakeScorer`."""
    matrix = item_matrix(ITEMS)
    found: np.ndarray = matrix @ matrix[np.array(history, dtype=np.int64) - 1].sum(0)
    return found


def best(scores: np.ndarray, hidden: set[int], k: int = K) -> list[int]:
    """The k best ids that are not hidden."""
    ids = [i for i in range(1, ITEMS + 1) if i not in hidden]
    return sorted(ids, key=lambda i: (-scores[i - 1], i))[:k]


def ids_of(lists: Lists, user: str) -> list[int]:
    return [int(name[1:]) for name, _ in lists.get(user, [])]


def parts_of(folder: RunFolder) -> dict[str, bytes]:
    """The bytes of every part."""
    names = [name for name in folder.recommend.children() if name.endswith(".parquet")]
    return {name: (folder.recommend / name).read_bytes() for name in names}
