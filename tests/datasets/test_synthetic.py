"""Synthetic logs: rows follow the stated process, its best scores are exact, files never vary."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints, Jagged
from p5dist.datasets import synthetic
from p5dist.datasets.synthetic import plan
from p5dist.datasets.synthetic_best import best_scores, likeliest, sample
from p5dist.datasets.synthetic_process import (
    START,
    Process,
    State,
    external_id,
    power_law_mass,
    power_law_place,
)
from p5dist.errors import ConfigError, RunFolderError
from p5dist.storage import Folder
from tests.ranking.plain import rank_plainly

# Clusters of 12 and of 11 items; every item is the newest one for about five days.
TINY = Process(60_000, 1_500, 80, 7, 400, 20_000, 3)


def power_law(r: int, slope: float, n: int) -> float:
    """The integral of the docstring, from its antiderivative."""

    def below(x: float) -> float:
        return float(x ** (1 - slope) / (1 - slope))

    return (below(r + 2) - below(r + 1)) / (below(n + 1) - below(1))


def next_item(process: Process, last: int, home: int, day: int) -> list[float]:
    """The distribution over all items, written down from the docstring in plain Python."""
    k, n = process.clusters, process.items
    p = [0.0] * n
    for which, weight in enumerate((0.4, 0.3, 0.2, 0.1)):
        p[int(process.followers(np.array([last]), which)[0])] += 0.25 * weight
    for item in range(n):
        size = len(range(item % k, n, k))
        if item % k == (last % k + 1) % k:
            p[item] += 0.20 * power_law(item // k, 1.2, size)
        if item % k == home:
            p[item] += 0.35 * power_law(item // k, 0.9, size)
        p[item] += 0.20 * power_law((day - item) % n, 1.1, n)
    return p


def states(process: Process, file: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Last item, home cluster, day and next item at all events of a file that have one before."""
    events = process.events(file)
    user = np.repeat(np.arange(len(events.lengths)), events.lengths)
    rows = np.flatnonzero(user[1:] == user[:-1]) + 1
    home = process.homes(events.first_user + user[rows])
    return events.item[rows - 1], home, events.second[rows] // 86_400, events.item[rows]


def test_power_law_by_hand() -> None:
    # Slope 2, three places: integrals of 1/x² are 1/2, 1/6, 1/12; their sum is 3/4.
    mass = power_law_mass(np.arange(4), 2.0, 3)
    np.testing.assert_allclose(mass, [2 / 3, 2 / 9, 1 / 9, 0])
    quantiles = np.array([0.0, 0.66, 0.67, 0.88, 0.89, 0.999999])
    assert power_law_place(quantiles, 2.0, 3).tolist() == [0, 0, 1, 1, 2, 2]


def test_probability_is_the_stated_one() -> None:
    last, home, day, _ = (column[:40] for column in states(TINY, 0))
    state = State(last, home, day % TINY.items)
    everything = np.tile(np.arange(TINY.items), (40, 1))
    expected = [next_item(TINY, *s) for s in zip(last, home, day, strict=True)]
    np.testing.assert_allclose(TINY.probability(state, everything), expected, rtol=1e-9)
    np.testing.assert_allclose(np.sum(expected, axis=1), 1)


def test_rows_follow_the_probability() -> None:
    """Each item is drawn as often as the conditional probabilities of the rows add up to, in each
    half of the log, after each of some items, and by the users of each cluster."""
    halves = states(TINY, 0), states(TINY, 1)
    last, home, day, item = (np.concatenate(c) for c in zip(*halves, strict=True))
    everything = np.tile(np.arange(TINY.items), (len(item), 1))
    p = TINY.probability(State(last, home, day % TINY.items), everything)
    groups = [day < 200, day >= 200, *(last == k for k in range(7)), *(home == k for k in range(7))]
    for rows in groups:
        found = np.bincount(item[rows], minlength=TINY.items)
        expected, variance = p[rows].sum(0), (p[rows] * (1 - p[rows])).sum(0)
        z = (found - expected) / np.sqrt(variance)
        assert np.abs(z).max() < 5
        assert 0.6 < (z**2).mean() < 1.5


def test_shares_of_clusters_and_trend_as_stated() -> None:
    process = plan(interactions=200_000, users=50_000, items=10_000, clusters=20)
    homes = np.bincount(process.homes(np.arange(50_000)), minlength=20)
    expected = np.array([power_law(k, 0.7, 20) for k in range(20)]) * 50_000
    assert np.abs(homes - expected).max() < 5 * expected.max() ** 0.5
    # The newest item of the day is 0.2 · P(0; 1.1, 10000) of all rows, and no longer 99 days later.
    _, _, day, item = states(process, 0)
    top = 0.2 * power_law(0, 1.1, 10_000)
    assert (item == day).mean() == pytest.approx(top, rel=0.1)
    assert (item == day - 99).mean() < top / 10


def test_histories_vary_and_times_are_spread() -> None:
    process = plan(interactions=500_000, users=10_000)
    events = process.events(0)
    extra = np.log(events.lengths[events.lengths > 10] - 1.0)
    assert events.lengths.min() >= 1
    assert 0.8 < extra.std() < 1.0  # log-normal with σ = 1, cut below
    share = np.bincount(events.second * 10 // (365 * 86_400), minlength=10) / len(events.second)
    np.testing.assert_allclose(share, 0.1, atol=0.005)
    user = np.repeat(np.arange(len(events.lengths)), events.lengths)
    assert (np.diff(events.second)[np.diff(user) == 0] >= 0).all()


@pytest.mark.parametrize("protocol", ["masked", "unmasked"])
def test_best_scores_are_those_of_every_target_ranked(protocol: str) -> None:
    """Every item as the target in turn, ranked by a plain sort, weighted by p."""
    users = 25
    scores = best_scores(TINY, 0, users)
    events = TINY.events(0)
    state, _, owner, seen = sample(TINY, events, users)
    everything = np.arange(TINY.items)
    p = TINY.probability(state, np.tile(everything, (users, 1)))
    lengths = np.bincount(owner, minlength=users)
    histories = Histories.from_table(
        pa.table(
            {
                "user": np.arange(users),
                "item": pa.ListArray.from_arrays(np.append(0, np.cumsum(lengths)), seen + 1),
            }
        )
    )
    items = Jagged(histories.offsets, histories.item)
    rank, _ = rank_plainly(
        p.astype(np.float32),
        Catalogue(TINY.items),
        np.repeat(np.arange(users), TINY.items),
        np.tile(everything + 1, users),
        1,
        seen=items if protocol == "masked" else None,
    )
    rank = rank.reshape(p.shape)
    hit = rank <= 10
    expected = (p * hit).sum(1)
    np.testing.assert_allclose(scores[f"{protocol} hr@10"], expected, rtol=1e-6)
    expected = (p * hit / np.log2(rank + 1.0)).sum(1)
    np.testing.assert_allclose(scores[f"{protocol} ndcg@10"], expected, rtol=1e-6)


def test_best_lists_of_a_large_catalogue_by_brute_force() -> None:
    process = plan(interactions=20_000, users=400, items=30_000, clusters=150)
    state, _, owner, seen = sample(process, process.events(0), 30)
    items, values = likeliest(process, state, 10, owner, seen)
    p = process.probability(state, np.tile(np.arange(30_000), (30, 1)))
    p[owner, seen] = 0
    np.testing.assert_allclose(values, -np.sort(-p, axis=1)[:, :10], rtol=1e-12)
    np.testing.assert_allclose(np.take_along_axis(p, items, 1), values, rtol=1e-12)


def test_generated_targets_are_hit_as_often_as_the_best_score_says() -> None:
    process = plan(interactions=500_000, users=25_000, items=20_000)
    state, target, owner, seen = sample(process, process.events(0), 20_000)
    scores = best_scores(process, 0, 20_000)
    cases = {
        "unmasked": likeliest(process, state, 10)[0],
        "masked": likeliest(process, state, 10, owner, seen)[0],
    }
    for protocol, lists in cases.items():
        place = np.full(len(target), 10)
        row, column = np.nonzero(lists == target[:, None])
        place[row] = column
        gain = np.array([1 / log2(j + 2) for j in range(10)] + [0.0])[place]
        for name, found in (("hr@10", place < 10), ("ndcg@10", gain)):
            error = found.std() / len(found) ** 0.5
            expected = scores[f"{protocol} {name}"].mean()
            assert abs(found.mean() - expected) < 4 * error, (protocol, name)
            assert 0.2 < expected < 0.6


@pytest.mark.parametrize("n", [1, 2, 7, 10, 1000, 99_991])
def test_external_ids_are_a_permutation(n: int) -> None:
    ids = external_id(np.arange(n), n)
    assert np.array_equal(np.sort(ids), np.arange(1, n + 1))
    if n > 100:
        assert abs(np.corrcoef(ids[:100], np.arange(100))[0, 1]) < 0.3


def small(folder: Path, seed: int = 1, tasks: int | None = None) -> dict[str, bytes]:
    """Content of the files by name; 10 files of 3,000 or 3,001 rows."""
    process = plan(interactions=30_001, users=777, items=500, file_rows=3_001, seed=seed)
    synthetic.run(str(folder), process, tasks=tasks)
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def test_log_has_exactly_the_rows_and_is_ordered_by_time(ray_session: None, tmp_path: Path) -> None:
    files = small(tmp_path / "log")
    assert list(files) == [f"part-{i:05d}.parquet" for i in range(10)]
    tables = [pq.read_table(tmp_path / "log" / name) for name in files]
    assert sum(map(len, tables)) == 30_001
    assert {len(table) for table in tables} == {3_000, 3_001}
    users: set[int] = set()
    for table in tables:
        assert table.schema.names == ["user_id", "item_id", "timestamp"]
        assert set(table.schema.types) == {pa.int64()}
        time = table["timestamp"].to_numpy()
        assert (np.diff(time) >= 0).all()
        assert time[0] >= START and time[-1] < START + 365 * 86_400
        item = table["item_id"].to_numpy()
        assert item.min() >= 1 and item.max() <= 500
        here = set(table["user_id"].to_pylist())
        assert not users & here
        users |= here
    assert users == set(range(1, 778))


def test_bytes_do_not_depend_on_tasks_or_interruptions(ray_session: None, tmp_path: Path) -> None:
    one = small(tmp_path / "one", tasks=1)
    assert small(tmp_path / "four", tasks=4) == one
    # Interrupted: no marker, two files missing, one half-written under its temporary name.
    folder = tmp_path / "four"
    for name in ("_synth.json", "part-00003.parquet", "part-00007.parquet"):
        (folder / name).unlink()
    (folder / ".part-00003.parquet.0a1b2c3d.tmp").write_bytes(one["part-00003.parquet"][:100])
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    assert small(folder) == one
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert sorted(p.name for p in folder.iterdir()) == sorted([*one, "_synth.json"])
    assert small(tmp_path / "other", seed=2) != one


@pytest.mark.parametrize("complete", [True, False])
def test_other_parameters_are_refused(ray_session: None, tmp_path: Path, complete: bool) -> None:
    files = small(tmp_path)
    if not complete:
        (tmp_path / "_synth.json").unlink()
    with pytest.raises(RunFolderError, match="seed 1 instead of 2"):
        small(tmp_path, seed=2)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")} == files


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": [1]}), tmp_path / "part-00000.parquet")
    with pytest.raises(RunFolderError):
        small(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"interactions": 1.5}, "--interactions"),
        ({"users": 600}, "--users"),  # fewer than two interactions each
        ({"items": 0}, "--items"),
        ({"items": 50, "clusters": 51}, "--clusters"),
        ({"seed": -1}, "--seed"),
        ({"items": float("nan")}, "--items"),
    ],
)
def test_impossible_sizes_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        plan(**{"interactions": 1_000, **change})


def test_files_are_never_short_of_rows_for_their_users(tmp_path: Path) -> None:
    """Two rows a user is the least there can be, and files and users divide unevenly."""
    process = Process(14, 7, 5, 2, 1, 3, 1)
    lengths = [process.events(file).lengths for file in range(process.files)]
    assert sum(len(n) for n in lengths) == 7
    assert sum(int(n.sum()) for n in lengths) == 14
    assert min(int(n.min()) for n in lengths) >= 1
    single = replace(process, users=1, items=1, clusters=1)
    synthetic.write_file(Folder.open(str(tmp_path)), single, 0)
    assert pq.read_table(tmp_path / "part-00000.parquet")["item_id"].to_pylist() == [1] * 14


def test_command_prints_what_it_wrote(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "p5dist.cli.main", "synth", str(tmp_path / "log"), "--json"]
    command += ["--interactions", "1e4", "--items", "2e3", "--users", "1e3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    printed = json.loads(done.stdout)
    assert printed == json.loads((tmp_path / "log" / "_synth.json").read_text())
    assert printed["rows"] == 10_000
    for protocol in ("masked", "unmasked"):
        for metric in printed["best"][protocol].values():
            assert 0.2 < metric["low"] < metric["value"] < metric["high"] < 0.9
