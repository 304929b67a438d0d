"""Targets, histories and masks of random prepared data against a plain program; they must not
depend on windows, row groups or the number of actors."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.manifest import Manifest
from p5dist.data.reader import ShardReader
from p5dist.inference import recommend
from p5dist.inference.evaluate import stage
from p5dist.ranking.targets import NO_HISTORY, REPEATED, Rule, Targets
from p5dist.storage import RunFolder
from tests.data.test_histories import items_of
from tests.data.written import (
    Shards,
    as_windows,
    lists_of,
    random_shards,
    sessions_of,
    whole,
    write,
)
from tests.fake_scorer import load_fake
from tests.small_data import small_job

ITEMS = 6


def plain_targets(
    shards: Shards, split: int, sessions: bool
) -> tuple[list[tuple[int, int, tuple[int, ...], frozenset[int]]], int]:
    """(user, item, history, seen) of every target; interactions without history."""
    found, fresh = [], 0
    users = [rows for part in shards for rows in part]
    for user, rows in enumerate(users, 1):
        if not sessions:
            known = [i for i, s in whole(rows) if s < split]
            wanted = [i for i, s in whole(rows) if s == split]
            fresh += 0 if known else len(wanted)
            found += [(user, i, tuple(known), frozenset(known)) for i in wanted if known]
            continue
        before: list[int] = []
        for session in sessions_of(rows):
            own: list[int] = []
            for item, its_split in session:
                if its_split == split and own:
                    found.append((user, item, tuple(own), frozenset([*before, *own])))
                fresh += its_split == split and not own
                if its_split <= split:
                    own.append(item)
            before += [i for i, s in session if s < split]
    return found, fresh


@settings(deadline=None, max_examples=100)
@given(
    random_shards(), st.integers(1, 3), st.sampled_from([c.VALIDATION, c.TEST]), st.booleans(),
    st.integers(1, 5),
)  # fmt: skip
def test_targets_histories_and_masks_are_those_of_a_plain_program(
    shards: Shards, group_rows: int, split: int, sessions: bool, size: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prepare, manifest = write(Path(folder), shards, items=ITEMS, group_rows=group_rows)
        reader = ShardReader(prepare, manifest)
        found, left_out = [], Counter[str]()
        for portion in reader.portions(3):
            users = reader.users(portion)
            targets = Targets.find(users, Rule(split, sessions=sessions))
            left_out.update(targets.left_out)
            new = Targets.find(users, Rule(split, sessions=sessions, targets="new"))
            assert new.left_out.get(REPEATED, 0) == int(targets.repeated.sum())
            for batch in targets.batches(size):
                histories = items_of(batch.histories)
                seen = lists_of(batch.seen)
                for m, h in enumerate(batch.owner):
                    item = int(batch.item[m])
                    found.append(
                        (int(batch.user[m]), item, tuple(histories[h]), frozenset(seen[h]))
                    )
                    assert batch.repeated[m] == (item in seen[h])
                    assert item in batch.had.take(np.asarray([h])).values
    expected, fresh = plain_targets(shards, split, sessions)
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert left_out[NO_HISTORY] == fresh
    assert len(found) + fresh == manifest.rows_by_split["validation" if split == 1 else "test"]


def job_in(folder: str, *overrides: str) -> RunConfig:
    return small_job(
        Path(folder), "prepare.items=null", "model.item_attributes=[]", "report=null",
        "evaluate.bootstrap=0", "evaluate.k=[2, 10]", "recommend.k=3", *overrides,
    )  # fmt: skip


def evaluated(shards: Shards, group_rows: int, *overrides: str) -> tuple[Any, list[Any]]:
    """evaluate/result.json, and the rows of targets.parquet in an order of their own."""
    with tempfile.TemporaryDirectory() as place:
        job = job_in(place, *overrides)
        folder = RunFolder.of(job.storage, job.name)
        write(Path(folder.prepare.path), shards, items=ITEMS, group_rows=group_rows)
        result = stage.run(job, folder, load=load_fake)
        rows = (folder.evaluate / "targets.parquet").read_table().to_pylist()
    return result, sorted((tuple(row.values()) for row in rows), key=str)


def numbers(result: Any) -> dict[str, Any]:
    return {key: result[key] for key in ("metrics", "baselines", "tasks")} | {
        key: value for key, value in result["protocol"].items() if key != "baseline_interactions"
    }


def rounded(value: Any) -> Any:
    """Sums in another order are rounded differently."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 9) if isinstance(value, float) else value


@settings(deadline=None, max_examples=25)
@given(
    random_shards(sessions=False, time_split=True), st.integers(1, 3), st.integers(1, 4),
    st.booleans(),
)  # fmt: skip
def test_windows_and_row_groups_change_no_rank(
    shards: Shards, group_rows: int, window: int, mask_seen: bool
) -> None:
    """Popularity, item-to-item and a fixed model; ratings too."""
    has_targets = plain_targets(shards, c.TEST, sessions=False)[0]
    if not has_targets:
        return
    mask = f"evaluate.mask_seen={str(mask_seen).lower()}"
    whole_result, whole_rows = evaluated(as_windows(shards, 0), 100, mask)
    result, rows = evaluated(as_windows(shards, window), group_rows, mask, "feed.unit_rows=1")
    assert rows == whole_rows
    assert rounded(numbers(result)) == rounded(numbers(whole_result))
    protocol = result["protocol"]
    assert protocol["targets"] + sum(protocol["left_out"].values()) == protocol["interactions"]


@settings(deadline=None, max_examples=25)
@given(random_shards(), st.integers(1, 3))
def test_nothing_that_a_user_has_had_is_recommended(shards: Shards, group_rows: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        job = job_in(place, "prepare.session_gap=10")
        folder = RunFolder.of(job.storage, job.name)
        write(Path(folder.prepare.path), shards, items=ITEMS, group_rows=group_rows)
        result = recommend.run(job, folder, load=load_fake)
        parts = [n for n in folder.recommend.children() if n.endswith(".parquet")]
        lists: dict[str, list[str]] = {}
        for part in parts:
            for row in (folder.recommend / part).read_table().to_pylist():
                lists.setdefault(row[c.USER_ID], []).append(row[c.ITEM_ID])
    users = [rows for part in shards for rows in part]
    assert result["users"] == len(users)
    for number, rows in enumerate(users, 1):
        had = {f"i{item}" for item, _ in whole(rows)}
        listed = lists.get(f"u{number}", [])
        assert not had & set(listed)
        assert len(listed) == min(3, ITEMS - len(had)), "one list a user, as long as it can be"


@pytest.mark.parametrize("actors", [2, 3])
def test_any_number_of_actors_gives_the_same_numbers(actors: int, ray_session: None) -> None:
    rng = np.random.default_rng(1)
    shards = as_windows([_plain_users(rng, 12), _plain_users(rng, 9)], 3)
    alone, alone_rows = evaluated(shards, 2, "feed.unit_rows=1")
    result, rows = evaluated(shards, 2, "feed.unit_rows=1", f"scale.actors={actors}")
    assert rows == alone_rows
    assert numbers(result) == numbers(alone)


def _plain_users(rng: np.random.Generator, users: int) -> Any:
    from tests.data.written import Row

    made = []
    for _ in range(users):
        n = int(rng.integers(3, 12))
        items = tuple(int(i) for i in rng.integers(1, ITEMS + 1, n))
        made.append((Row(False, items, (0,) * (n - 2) + (1, 2)),))
    return made


def test_validation_of_all_users_is_the_evaluation_of_the_split(tmp_path: Path) -> None:
    """See tests/distributed/test_validation.py for trained models on several workers."""
    manifest = Manifest.model_construct(users_by_split={"validation": 40})
    job = small_job(tmp_path, "evaluate.split=validation", "evaluate.users=10")
    assert job.evaluate is not None
    rule = stage.rule_of(job, job.evaluate, manifest)
    assert rule.share == 0.25, "users are divided by the users of the split"
