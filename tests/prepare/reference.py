"""The prepare stage once more, row by row in plain Python: slow, and nothing shared with p5dist."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from p5dist.config import RunConfig

NULLS = {"", "NULL", "null", "NaN", "nan", r"\N"}
NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)

Row = dict[str, str]
History = list[tuple[str, int, float | None, str]]  # item, time, rating, split


def expected(
    job: RunConfig, log: list[Row], test: list[Row] | None = None
) -> tuple[dict[str, History], Counter[str], Counter[str]]:
    """Histories by user, rejected rows by reason, training count of every item."""
    clean, rejected, kept = job.prepare.clean, Counter[str](), []
    for number, row in enumerate([*log, *(test or [])]):
        reason, time, rating = judge(row, clean, job.prepare.source.timestamp_unit)
        if reason is None:
            kept.append((row["user"], row["item"], time, rating, number >= len(log)))
        else:
            rejected[reason] += 1
    if clean.duplicates == "drop":
        distinct = list(dict.fromkeys(kept))
        rejected["duplicate"] += len(kept) - len(distinct)
        kept = distinct
    for field, name, least in (
        (1, "rare_item", clean.min_item_interactions),
        (0, "rare_user", clean.min_user_interactions),
    ):
        number_of = Counter(row[field] for row in kept)
        common = [row for row in kept if number_of[row[field]] >= least]
        rejected[name] += len(kept) - len(common)
        kept = common
    histories: dict[str, History] = {}
    by_user: dict[str, list[Any]] = {}
    for row in kept:
        by_user.setdefault(row[0], []).append(row)
    for user, unsorted in by_user.items():
        rows = sorted(unsorted, key=lambda row: row[2])
        splits = ["test" if row[4] else "train" for row in rows]
        if test is None and len(rows) >= 3:
            splits[-2:] = ["validation", "test"]
        histories[user] = [(r[1], r[2], r[3], s) for r, s in zip(rows, splits, strict=True)]
    items = Counter({row[1]: 0 for row in kept})
    items.update(i for h in histories.values() for i, _, _, s in h if s == "train")
    return histories, +rejected, items


def judge(row: Row, clean: Any, unit: str) -> tuple[str | None, int, float | None]:
    """Reason or None, seconds, rating (None: no rating)."""
    if row["user"] in NULLS:
        return "null_user", 0, None
    if row["item"] in NULLS:
        return "null_item", 0, None
    text = row["timestamp"].strip()
    if not NUMBER.fullmatch(text):
        return "bad_timestamp", 0, None
    per_second = {"s": 1, "ms": 1000, "us": 1_000_000}[unit]
    whole = text.lstrip("-").isdigit() and len(text) < 19
    time = int(text) // per_second if whole else math.floor(float(text) / per_second)
    if abs(time) > 2**62:
        return "bad_timestamp", 0, None
    if clean.time_range and not clean.time_range[0] <= time <= clean.time_range[1]:
        return "time_out_of_range", 0, None
    if row["rating"] in NULLS:
        return None, time, None
    if not NUMBER.fullmatch(row["rating"].strip()):
        return "bad_rating", 0, None
    rating = float(row["rating"])
    if abs(rating) > 3.4028235e38:  # the largest float32
        return "bad_rating", 0, None
    if clean.rating_range and not clean.rating_range[0] <= rating <= clean.rating_range[1]:
        return "rating_out_of_range", 0, None
    return None, time, rating


def written(prepare: Path) -> dict[str, History]:
    """Histories as they are on disk, with external ids."""

    def names(side: str) -> list[str]:
        table = pq.read_table(prepare / "vocabulary" / f"{side}.parquet")
        assert table["id"].to_pylist() == list(range(1, len(table) + 1))
        return table["external_id"].to_pylist()

    users, items, splits = names("user"), names("item"), ["train", "validation", "test"]
    found: dict[str, History] = {}
    for shard in sorted((prepare / "shards").iterdir()):
        for row in pq.read_table(shard).to_pylist():
            assert users[row["user"] - 1] not in found
            found[users[row["user"] - 1]] = [
                (items[i - 1], t, None if math.isnan(r) else r, splits[s])
                for i, t, r, s in zip(
                    row["item"], row["timestamp"], row["rating"], row["split"], strict=True
                )
            ]
    return found
