"""A job goes on with new files of its log: every interaction is predicted once by evaluation, then
trained on once, and no earlier run changes."""

from __future__ import annotations

import random
import shutil
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p5dist import pipeline
from p5dist.advance import Period, next_period
from p5dist.config import RunConfig, parse_job
from p5dist.data import columns as c
from p5dist.data.manifest import Manifest
from p5dist.data.reader import ShardReader
from p5dist.errors import ConfigError, DataError, EmptyLogError, RunFolderError
from p5dist.feed.mix import open_mix
from p5dist.storage import Folder, RunFolder

DAY = 86_400
JOB = """
name: shop
storage: {folder}/runs
prepare:
  source:
    files: {folder}/log-*.csv
    columns: {{user: who, item: what, timestamp: when, event: did}}
  split: {{kind: time, test: 1970-01-02}}
  vocabulary: {{of: all}}
  clean: {{min_item_interactions: 2, keep_rejected: true}}
feed: {{lanes: 2, max_length: 10}}
model: {{dim: 8, encoder: {{layers: 1, heads: 2}}, inputs: {{event: true}}}}
ranking: {{item_to_item: 0, returns: false}}
evaluate: null
recommend: null
report: null
"""
TRAINING = (
    "pretrain={epochs: 2, batch_size: 8, log_every: 1}",
    "finetune={buy: {task: {kind: next_item, events: {buy: 1}}, epochs: 1, batch_size: 8}}",
    "evaluate={}",
)

Log = dict[str, list[tuple[str, int, str]]]
"""By user, in the order of time: (item, time, event)."""


def write_day(folder: Path, day: int, users: range, draw: random.Random) -> None:
    """A day's file: three interactions of each user; the item of the day is new."""
    rows = ["who,what,when,did"]
    for number in users:
        for place in range(3):
            item = f"of-day-{day}" if place == 1 else f"item{draw.randrange(6)}"
            time = DAY * day + 60 * number + place
            rows.append(f"user{number},{item},{time},{draw.choice(['view', 'buy'])}")
    (folder / f"log-{day}.csv").write_text("\n".join(rows) + "\n")


def read(folder: Path, days: range) -> Log:
    found: Log = {}
    for day in days:
        for line in (folder / f"log-{day}.csv").read_text().splitlines()[1:]:
            user, item, time, event = line.split(",")
            found.setdefault(user, []).append((item, int(time), event))
    return found


def histories(run: RunFolder) -> tuple[Log, dict[str, list[int]]]:
    """What the shards of a run hold, and the split codes."""
    manifest = Manifest.load(run.prepare)

    def names(what: str) -> list[Any]:
        table = (run.prepare / f"vocabulary/{what}.parquet").read_table()
        found: list[Any] = table[c.EXTERNAL_ID].to_pylist()
        return found

    users, items, events = (names(what) for what in (c.USER, c.ITEM, c.EVENT))
    log: Log = {}
    codes: dict[str, list[int]] = {}
    reader = ShardReader(run.prepare, manifest, ("timestamp", "event"))
    for number in range(len(reader.groups)):
        group = reader.group(number)
        for row, user in enumerate(group.user):
            own = group.between(row, row + 1)
            log[users[user - 1]] = [
                (items[i - 1], int(t) // c.SECOND, events[e - 1])
                for i, t, e in zip(own.item, own.timestamp, own.event, strict=True)
            ]
            codes[users[user - 1]] = own.split.tolist()
    return log, codes


def digest(folder: Path) -> str:
    state = sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        state.update(str(file).encode() + file.read_bytes())
    return state.hexdigest()


def trained_on(folder: Path, run: RunFolder) -> list[tuple[str, int]]:
    """(user, time) of the training interactions from ``since`` on of the histories of an epoch."""
    manifest = Manifest.load(run.prepare)
    job = parse_job(run.job.read_bytes(), [*TRAINING])
    groups = open_mix(job, "pretrain", run, manifest).own.order.groups
    users = (run.prepare / "vocabulary/user.parquet").read_table()[c.EXTERNAL_ID].to_pylist()
    reader = ShardReader(run.prepare, manifest, ("timestamp",))
    found: list[tuple[str, int]] = []
    for number in range(len(groups)):
        group = reader.group(number)
        taken = group.take(groups.numbers(number) - group.row[0]).training()
        late = taken.timestamp >= (manifest.since or 0)
        owner = taken.owner()[late]
        assert (np.bincount(owner, minlength=len(taken)) > 0).all()
        times = (taken.timestamp[late] // c.SECOND).tolist()
        found += zip((users[taken.user[o] - 1] for o in owner), times, strict=True)
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig, list[Period]]:
    """Days 0 and 1 as the job, then days 2 and 3 as periods."""
    folder, draw = tmp_path_factory.mktemp("advance"), random.Random(1)
    job = parse_job(JOB.format(folder=folder))
    write_day(folder, 0, range(30), draw)
    write_day(folder, 1, range(20), draw)
    pipeline.run(job, [])
    before = digest(folder / "runs/shop")
    periods = []
    for day, users in ((2, range(10, 35)), (3, range(5))):
        write_day(folder, day, users, draw)
        period = next_period(job)
        assert period is not None
        pipeline.run(period.job, [])
        periods.append(period)
    assert digest(folder / "runs/shop") == before
    return folder, job, periods


def test_users_have_their_whole_histories(
    done: tuple[Path, RunConfig, list[Period]],
) -> None:
    folder, _, periods = done
    for period, days in zip(periods, (range(3), range(4)), strict=True):
        found, codes = histories(RunFolder.of_job(period.job))
        whole = read(folder, days)
        new, last = read(folder, days[-1:]), read(folder, days[-2:-1])
        assert found == {user: whole[user] for user in {*new, *last}}
        first = min(time for own in new.values() for _, time, _ in own)
        for user, own in found.items():
            assert codes[user] == [2 * (time >= first) for _, time, _ in own]


def test_every_interaction_is_trained_on_once(
    done: tuple[Path, RunConfig, list[Period]],
) -> None:
    folder, job, periods = done
    runs = [RunFolder.of_job(one) for one in (job, *(period.job for period in periods))]
    targets = [trained_on(folder, run) for run in runs]
    for found in targets:
        assert len(set(found)) == len(found)
    every = sorted(target for found in targets for target in found)
    whole = read(folder, range(3))
    assert every == sorted((user, time) for user, own in whole.items() for _, time, _ in own)


def test_rows_of_the_log_are_accounted_for(
    done: tuple[Path, RunConfig, list[Period]],
) -> None:
    folder, _, periods = done
    manifest = Manifest.load(RunFolder.of_job(periods[0].job).prepare)
    new, known = read(folder, range(2, 3)), read(folder, range(2))
    assert manifest.rows_in == sum(map(len, new.values()))
    held = read(folder, range(1, 2))
    assert manifest.rows_earlier == sum(len(known[u]) for u in {*new, *held} if u in known)
    assert manifest.rows_in + manifest.rows_earlier == manifest.rows_kept


def test_items_keep_their_ids(
    done: tuple[Path, RunConfig, list[Period]],
) -> None:
    _, job, periods = done
    runs = [RunFolder.of_job(one) for one in (job, *(period.job for period in periods))]
    words = [(run.prepare / "vocabulary/item.parquet").read_table() for run in runs]
    names = [table[c.EXTERNAL_ID].to_pylist() for table in words]
    assert names[1][: len(names[0])] == names[0] and names[2][: len(names[1])] == names[1]
    assert names[1][len(names[0]) :] == ["of-day-2"]
    counts = [dict(zip(n, t[c.COUNT].to_pylist(), strict=True))
              for n, t in zip(names, words, strict=True)]  # fmt: skip
    assert counts[2]["of-day-2"] == 25 and counts[1]["of-day-1"] == 20


@pytest.mark.slow
def test_training_goes_on_and_new_interactions_are_targets(tmp_path: Path) -> None:
    """Day 2 is stopped after its data is prepared, and continued by the same call."""
    draw = random.Random(2)
    job = parse_job(JOB.format(folder=tmp_path), [*TRAINING])
    write_day(tmp_path, 0, range(30), draw)
    write_day(tmp_path, 1, range(20), draw)
    pipeline.run(job, [])
    before = digest(tmp_path / "runs/shop")
    write_day(tmp_path, 2, range(10, 35), draw)
    period = next_period(job)
    assert period is not None
    pipeline.run(period.job, ["prepare"])
    write_day(tmp_path, 3, range(5), draw)
    assert next_period(job) == period
    pipeline.run(period.job, [])
    assert digest(tmp_path / "runs/shop") == before
    run = RunFolder.of_job(period.job)
    for stage in ("pretrain", "finetune/buy"):
        started = (run.training(stage) / "init.json").read_json()
        assert f"runs/shop/{stage}/" in started["source"]
    result = (run.evaluate / "result.json").read_json()
    known, new = read(tmp_path, range(2)), read(tmp_path, range(2, 3))
    targets = sum(len(own) for user, own in new.items() if user in known)
    assert result["protocol"]["targets"] == targets
    later = next_period(job)
    assert later is not None and later.job.name == "shop-period-0002"
    assert later.job.prepare.continues == f"{job.storage}/shop-period-0001"


def test_nothing_new(done: tuple[Path, RunConfig, list[Period]]) -> None:
    _, job, _ = done
    assert next_period(job) is None


def test_what_cannot_be_continued(tmp_path: Path) -> None:
    job = parse_job(JOB.format(folder=tmp_path))
    write_day(tmp_path, 0, range(30), random.Random(0))
    with pytest.raises(RunFolderError, match="not trained"):
        next_period(job)
    other = parse_job(JOB.format(folder=tmp_path), ["prepare.split={kind: leave_one_out}"])
    with pytest.raises(ConfigError, match="split by time"):
        next_period(other)
    other = parse_job(JOB.format(folder=tmp_path), ["prepare.vocabulary.of=train"])
    with pytest.raises(ConfigError, match="all items"):
        next_period(other)


def begun(folder: Path, *overrides: str) -> RunConfig:
    """A job that has read days 0 and 1."""
    job, draw = parse_job(JOB.format(folder=folder), [*overrides]), random.Random(3)
    write_day(folder, 0, range(12), draw)
    write_day(folder, 1, range(12), draw)
    pipeline.run(job, [])
    return job


def advanced(job: RunConfig) -> Manifest:
    period = next_period(job)
    assert period is not None
    pipeline.run(period.job, [], fresh=period.fresh)
    return Manifest.load(RunFolder.of_job(period.job).prepare)


def test_files_without_a_later_interaction_wait_for_others(tmp_path: Path) -> None:
    """An empty file, and one whose rows are all late; then a good one."""
    job = begun(tmp_path)
    (tmp_path / "log-2.csv").write_text("who,what,when,did\n")
    with pytest.raises(EmptyLogError, match="no rows"):
        advanced(job)
    (tmp_path / "log-3.csv").write_text(f"who,what,when,did\nuser1,item1,{DAY + 5},view\n")
    with pytest.raises(EmptyLogError, match="no interaction is later"):
        advanced(job)
    before = digest(tmp_path / "runs")
    write_day(tmp_path, 4, range(6), random.Random(4))
    again = next_period(job)
    assert again is not None and again.fresh and len(again.files) == 3
    assert digest(tmp_path / "runs") == before, "to ask for the period changes nothing"
    manifest = advanced(job)
    assert manifest.rows_in == 19 and manifest.rows_by_split["test"] == 18
    assert next_period(job) is None


def test_late_interactions_are_input(tmp_path: Path) -> None:
    """Of a user of day 1: a row of day 0 is older than what was held out, a row of day 1 is not."""
    job = begun(tmp_path)
    write_day(tmp_path, 2, range(3, 6), random.Random(4))
    with (tmp_path / "log-2.csv").open("a") as file:
        file.write(f"user3,item1,{DAY // 2},view\nuser3,item2,{DAY + 30},view\n")
    manifest = advanced(job)
    assert manifest.rows_by_split["test"] == 9
    assert manifest.targets is not None and manifest.targets.total == 12 * 3 + 1
    profile = (Folder.open(job.storage) / "shop-period-0001/prepare/profile.json").read_json()
    assert any("1 new interactions are older" in warning for warning in profile["warnings"])


def test_a_table_of_items_may_change(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("id,kind\nitem1,a\n")
    job = begun(tmp_path, f"prepare.items={{files: {items}, id: id, attributes: {{kind: {{}}}}}}")
    for day in (2, 3):
        items.write_text(items.read_text() + f"of-day-{day},b\n")
        write_day(tmp_path, day, range(8), random.Random(day))
        assert advanced(job).rows_in == 24


def test_no_run_of_the_chain_may_be_missing(tmp_path: Path) -> None:
    job = begun(tmp_path)
    for day in (2, 3):
        write_day(tmp_path, day, range(8), random.Random(day))
        advanced(job)
    shutil.rmtree(tmp_path / "runs/shop-period-0001")
    with pytest.raises(RunFolderError, match="a period is missing"):
        next_period(job)


def test_an_interaction_of_the_future_is_found(tmp_path: Path) -> None:
    job = begun(tmp_path)
    write_day(tmp_path, 2, range(8), random.Random(2))
    with (tmp_path / "log-2.csv").open("a") as file:
        file.write(f"user3,item1,{int(time.time()) + DAY},view\n")
    advanced(job)
    write_day(tmp_path, 3, range(8), random.Random(3))
    with pytest.raises(RunFolderError, match="in the future"):
        next_period(job)


def test_a_file_that_was_read_must_not_change(
    done: tuple[Path, RunConfig, list[Period]],
) -> None:
    folder, job, _ = done
    file = folder / "log-0.csv"
    before = file.read_text()
    file.write_text(before + "user1,item1,5,view\n")
    try:
        with pytest.raises(DataError, match="have changed"):
            next_period(job)
    finally:
        file.write_text(before)
