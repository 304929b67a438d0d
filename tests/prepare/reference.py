"""A reference of the prepare stage in plain pandas: slow, and shares no code with p5dist."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from p5dist.config import RunConfig

NULLS = {"", "NULL", "null", "NaN", "nan", r"\N"}
NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)

Row = dict[str, str]
History = list[tuple[str, int, float | None, str]]  # item, microseconds, rating, split
SECOND = 1_000_000


@dataclass
class Expected:
    """What the stage must write."""

    histories: dict[str, list[History]]
    """By user, in the order of time."""
    rejected: Counter[str]
    items: dict[str, int]
    """Training interactions of every item of the vocabulary, in the order of ids: by falling count,
    ties as numbers if all items of the log are whole numbers, else by their bytes."""


def expected(job: RunConfig, log: list[Row], test: list[Row] | None = None) -> Expected:
    prepare, clean = job.prepare, job.prepare.clean
    rejected, kept = Counter[str](), []
    for number, row in enumerate([*log, *(test or [])]):
        reason, time, rating = judge(row, prepare)
        event = "" if row.get("event", "") in NULLS else row["event"]
        if reason is None and prepare.events is not None:
            weights = prepare.events
            if weights.get(event, weights.get("*", 1)) == 0:
                reason = "dropped_event"
        if reason is None:
            if "timestamp" not in row:  # the number of the row is the time
                time = len(kept)
            kept.append((row["user"], row["item"], time, rating, event, number >= len(log)))
        else:
            rejected[reason] += 1
    names = ["user", "item", "time", "rating", "event", "test"]
    rows = pd.DataFrame(kept, columns=names).astype({"rating": object})

    def drop(rows: pd.DataFrame, name: str, bad: Any) -> pd.DataFrame:
        rejected[name] += int(bad.sum())
        return rows[~bad]

    if clean.duplicates == "drop":
        rows = drop(rows, "duplicate", rows.duplicated())
    rows = rows.sort_values(["user", "time"], kind="stable")
    if clean.repeat_window is not None:
        before = rows.groupby(["user", "item", "event"])["time"].shift()
        rows = drop(rows, "repeat", rows["time"] - before <= clean.repeat_window * SECOND)
    if clean.max_user_interactions is not None:
        size = rows.groupby("user")["item"].transform("size")
        rows = drop(rows, "bot", size > clean.max_user_interactions)
    catalogue = set(rows["item"])
    while len(rows):
        size = rows.groupby("item")["item"].transform("size")
        users = rows.groupby("item")["user"].transform("nunique")
        rare = size < clean.min_item_interactions
        fewer = drop(rows, "rare_item", rare)
        few = users[~rare] < prepare.privacy.min_item_users
        fewer = drop(fewer, "few_users", few)
        size = fewer.groupby("user")["user"].transform("size")
        fewer = drop(fewer, "rare_user", size < clean.min_user_interactions)
        if len(fewer) == len(rows):
            break
        rows = fewer
    pieces = [piece for _, user in rows.groupby("user") for piece in sessions(user, prepare)]
    cut = []
    for piece in pieces:
        if prepare.longer == "last" and prepare.max_length is not None:
            rejected["over_length"] += max(len(piece) - prepare.max_length, 0)
            piece = piece[-prepare.max_length :]
        cut.append(piece)
    everything = pd.concat(cut) if cut else rows
    split_of = [codes(piece, everything, prepare.split) for piece in cut]
    train = Counter[str]()
    for piece, codes_of in zip(cut, split_of, strict=True):
        train.update(i for i, s in zip(piece["item"], codes_of, strict=True) if s == "train")
    seen = {
        i for piece, codes_of in zip(cut, split_of, strict=True)
        for i, s in zip(piece["item"], codes_of, strict=True) if s != "after"
    }  # fmt: skip
    known = set(train) if prepare.vocabulary.of == "train" else seen
    histories: dict[str, list[History]] = {}
    for piece, codes_of in zip(cut, split_of, strict=True):
        events = [
            (i, t, None if pd.isna(r) else float(r), s)
            for i, t, r, s in zip(
                piece["item"], piece["time"], piece["rating"], codes_of, strict=True
            )
        ]
        size = prepare.max_length or len(events)
        edges = sorted({0, *range(len(events), 0, -size)})
        for a, b in pairwise(edges):
            before = [event for event in events[a:b] if event[3] != "after"]
            rejected["after_test"] += b - a - len(before)
            window = [event for event in before if event[0] in known]
            rejected["unknown_item"] += len(before) - len(window)
            if window:
                histories.setdefault(piece["user"].iloc[0], []).append(window)
    numbers = all(re.fullmatch(r"-?[0-9]{1,18}", item) for item in catalogue)
    by_id = sorted(known, key=lambda item: (int(item) if numbers else 0, item.encode()))
    by_count = sorted(by_id, key=lambda item: -train[item])
    return Expected(histories, +rejected, {item: train[item] for item in by_count})


def sessions(user: pd.DataFrame, prepare: Any) -> list[pd.DataFrame]:
    if prepare.session_gap is None:
        return [user]
    number = (user["time"].diff() > prepare.session_gap * SECOND).cumsum()
    return [session for _, session in user.groupby(number)]


def codes(piece: pd.DataFrame, everything: pd.DataFrame, rule: Any) -> list[str]:
    n = len(piece)
    if rule.kind == "given":
        return ["test" if t else "train" for t in piece["test"]]
    if rule.kind == "time":
        times = sorted(everything["time"])

        def cut(share: Fraction) -> int:  # the latest time with at least the share from there on
            return max(t for t in times if sum(x >= t for x in times) >= share * len(times))

        if isinstance(rule.test, datetime):
            test = since_1970(rule.test)
            first = since_1970(rule.validation) if rule.validation else test
        else:
            test = cut(exact(rule.test))
            first = cut(exact(rule.test) + exact(rule.validation)) if rule.validation else test
        return [
            "test" if t >= test else "validation" if t >= first else "train" for t in piece["time"]
        ]
    if rule.kind == "ratio":
        tested = math.floor(n * exact(rule.test))
        validated = math.floor(n * exact(rule.validation))
    elif rule.events:
        last = [at for at, event in enumerate(piece["event"]) if event in rule.events][-2:]
        if len(last) < 2 or last[0] == 0:
            return ["train"] * n
        return (["train"] * last[0] + ["validation"] * (last[1] - last[0]) + ["test"]
                + ["after"] * (n - last[1] - 1))  # fmt: skip
    else:
        tested = validated = int(n >= 3)
    rest = n - tested - validated
    return ["train"] * rest + ["validation"] * validated + ["test"] * tested


def exact(share: float) -> Fraction:
    return Fraction(str(share))


def judge(row: Row, prepare: Any) -> tuple[str | None, int, float | None]:
    """Reason or None, microseconds, rating (None: no rating)."""
    clean = prepare.clean
    if row["user"] in NULLS:
        return "null_user", 0, None
    if row["item"] in NULLS:
        return "null_item", 0, None
    time = microseconds(row["timestamp"], prepare) if "timestamp" in row else 0
    if time is None or abs(time) > 2**62:
        return "bad_timestamp", 0, None
    if clean.time_range:
        first, last = clean.time_range
        if not first * SECOND <= time <= last * SECOND:
            return "time_out_of_range", 0, None
    if row.get("rating", "") in NULLS:
        return None, time, None
    if not NUMBER.fullmatch(row["rating"].strip()):
        return "bad_rating", 0, None
    rating = float(row["rating"])
    if abs(rating) > 3.4028235e38:  # the largest float32
        return "bad_rating", 0, None
    if clean.rating_range and not clean.rating_range[0] <= rating <= clean.rating_range[1]:
        return "rating_out_of_range", 0, None
    return None, time, rating


def microseconds(text: str, prepare: Any) -> int | None:
    text = text.strip()
    if prepare.source.timestamp_unit == "iso":
        try:
            time = datetime.fromisoformat(text.replace(" UTC", "+00:00").replace("Z", "+00:00"))
        except ValueError:
            return None
        return since_1970(time)
    if not NUMBER.fullmatch(text):
        return None
    unit = {"s": 6, "ms": 3, "us": 0, "ns": -3}[prepare.source.timestamp_unit]
    exactly = Decimal(text).scaleb(unit)
    return int((exactly + Decimal("0.5")).to_integral_value(ROUND_FLOOR))


def since_1970(time: datetime) -> int:
    if time.tzinfo is None:
        time = time.replace(tzinfo=timezone.utc)
    return (time - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)


def written(prepare: Path) -> dict[str, list[History]]:
    """Histories as they are on disk, with external ids."""

    def names(side: str) -> list[str]:
        table = pq.read_table(prepare / "vocabulary" / f"{side}.parquet")
        assert table["id"].to_pylist() == list(range(1, len(table) + 1))
        return table["external_id"].to_pylist()

    users, items, splits = names("user"), names("item"), ["train", "validation", "test"]
    found: dict[str, list[History]] = {}
    for shard in sorted((prepare / "shards").iterdir()):
        for row in pq.read_table(shard).to_pylist():
            found.setdefault(users[row["user"] - 1], []).append(
                [
                    (items[i - 1], t, None if math.isnan(r) else r, splits[s])
                    for i, t, r, s in zip(
                        row["item"], row["timestamp"], row["rating"], row["split"], strict=True
                    )
                ]
            )
    return found


def in_seconds(histories: dict[str, list[History]]) -> dict[str, list[History]]:
    """Histories whose times are whole seconds, in seconds."""

    def seconds(time: int) -> int:
        assert time % SECOND == 0
        return time // SECOND

    return {
        user: [[(i, seconds(t), r, s) for i, t, r, s in history] for history in own]
        for user, own in histories.items()
    }
