"""DuckDB and polars follow the documented steps, on a log full of ties and repeats."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PROGRAM = Path(__file__).parent.parent.parent / "benchmarks" / "prepare_peers.py"

Row = tuple[int, int, int]


def reference(log: list[Row]) -> tuple[dict[int, list[tuple[int, int, int]]], dict[int, int]]:
    """(item, timestamp, split) lists by external user, and item ids by external item."""
    rows = list(dict.fromkeys(log))
    before = None
    while before != len(rows):
        before = len(rows)
        users, items = Counter(r[0] for r in rows), Counter(r[1] for r in rows)
        rows = [r for r in rows if users[r[0]] >= 5 and items[r[1]] >= 5]
    histories: dict[int, list[tuple[int, int, int]]] = {}
    for user in {r[0] for r in rows}:
        own = sorted((r for r in rows if r[0] == user), key=lambda r: r[2])  # stable
        splits = [0] * (len(own) - 2) + [1, 2]
        histories[user] = [(r[1], r[2], s) for r, s in zip(own, splits, strict=True)]
    count = Counter(item for h in histories.values() for item, _, split in h if split == 0)
    ids = {item: n for n, item in enumerate(sorted(count, key=lambda i: (-count[i], i)), 1)}
    kept = {u: [(ids[i], t, s) for i, t, s in h if i in ids] for u, h in histories.items()}
    return kept, ids


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    """3,000 rows in two files: many of one user and second, a tenth of them repeated later; users
    and items that fall out one after the other, and an item of test interactions only."""
    draw = random.Random(5)
    rows = [
        (draw.randint(1, 150) ** 2, int(draw.paretovariate(0.7)) % 400 + 1, draw.randint(0, 9))
        for _ in range(2_700)
    ]
    rows += [(7_000_000 + u, u % 3 + 1, t) for u in range(6) for t in range(5)]
    rows += [(7_000_000 + u, 999, 50) for u in range(6)]
    # A user with four rows, whose item 998 then has four, whose users then have four.
    rows += [(8_000_000, item, 20) for item in (998, 1, 2, 3)]
    rows += [(8_000_000 + u, item, 20) for u in range(1, 5) for item in (998, 1, 2, 3, 4)]
    rows += draw.sample(rows, 264)
    folder = tmp_path_factory.mktemp("log")
    for number, part in enumerate((rows[:1_300], rows[1_300:])):
        columns = [pa.array(c, pa.int64()) for c in zip(*part, strict=True)]
        table = pa.table(columns, names=["user_id", "item_id", "timestamp"])
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=500)
    return folder, rows


@pytest.mark.parametrize("tool", ["duckdb", "polars"])
def test_peer_leaves_the_histories_of_the_reference(
    tool: str, log: tuple[Path, list[Row]], tmp_path: Path
) -> None:
    pytest.importorskip(tool)
    folder, rows = log
    command = [sys.executable, str(PROGRAM), tool, str(folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    kept, ids = reference(rows)
    assert 999 not in ids
    assert 500 < printed["rows_kept"] < len(rows) - 500
    assert printed["rows_in"] == len(rows)
    assert printed["duplicates"] == len(rows) - len(set(rows))
    assert printed["rows_kept"] == sum(map(len, kept.values()))
    assert (printed["users"], printed["items"]) == (len(kept), len(ids))
    assert printed["iterations"] > 1

    item = pq.read_table(tmp_path / "item.parquet").to_pylist()
    assert {row["external_id"]: row["id"] for row in item} == ids
    users = pq.read_table(tmp_path / "user.parquet").to_pylist()
    external = {row["id"]: row["external_id"] for row in users}
    found = pq.read_table(tmp_path / "histories.parquet").to_pylist()
    assert sorted(external) == sorted(row["user"] for row in found)
    for row in found:
        history = list(zip(row["item"], row["timestamp"], row["split"], strict=True))
        assert history == kept[external[row["user"]]]
