"""The prepare stage: raw log → sequence shards, as Ray tasks.

::

    read     one task a read unit: parse, clean, divide the rows among the shards by user hash
    count    one task a shard, only with min_item_interactions: rows of each item
    group    one task a shard: duplicates, rare items and users, order of time, split
    write    one task a shard: external ids → internal ids, Parquet

The exchange between read and group goes through Ray's object store (which spills to disk), a piece
per unit and shard; the driver sees counts and vocabularies, never rows. Every task is a pure
function of its unit or shard, so that a task that Ray runs again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayTaskError
from rich.progress import Progress

from p5dist import columns as c
from p5dist.config import RunConfig
from p5dist.console import console, progress
from p5dist.errors import DataError, EmptyLogError, P5Error
from p5dist.manifest import MANIFEST, Manifest, ShardFile
from p5dist.prepare import tasks
from p5dist.prepare.arrays import Ints
from p5dist.prepare.attributes import write_attributes
from p5dist.prepare.cleaning import REASONS
from p5dist.prepare.profile import ShardProfile, build_profile
from p5dist.prepare.reading import Layout, Unit
from p5dist.prepare.shards import group_rows
from p5dist.prepare.sources import UNIT_BYTES, Inputs, plan_units
from p5dist.prepare.split import describe
from p5dist.prepare.vocabulary import Vocabulary
from p5dist.storage import Folder, RunFolder

_EVENTS = 127


def fingerprint(job: RunConfig) -> str:
    """What :attr:`Manifest.fingerprint` will be: reads the input files, but needs no Ray.

    Raises:
        DataError, MissingColumnError: the input files are not there or lack columns.
    """
    return Inputs.find(job.prepare).fingerprint(job)


def run(job: RunConfig, folder: RunFolder, *, unit_bytes: int = UNIT_BYTES) -> Manifest:
    """Build ``prepare/`` of the run folder anew, manifest last; Ray must be connected.

    Args:
        job: the resolved job.
        folder: of the run.
        unit_bytes: about how much of the log one task reads; does not change what is written.

    Raises:
        DataError: a file is missing or cannot be parsed.
        MissingColumnError: a column that the job names is not in a file.
        EmptyLogError: no valid row is left.
    """
    inputs = Inputs.find(job.prepare)
    prepare = folder.prepare
    (prepare / MANIFEST).remove()
    prepare.remove()
    prepare.make()
    try:
        with progress() as bar:
            manifest, warnings = _Stage(job, inputs, prepare, bar).run(unit_bytes)
    except RayTaskError as e:
        if isinstance(e.cause, P5Error):
            raise e.cause from None
        raise
    manifest.save(prepare)
    _tell(manifest, warnings)
    return manifest


class _Stage:
    def __init__(self, job: RunConfig, inputs: Inputs, prepare: Folder, bar: Progress) -> None:
        self.job, self.inputs, self.prepare, self.bar = job, inputs, prepare, bar
        self.rejected: dict[str, int] = {}

    def run(self, unit_bytes: int) -> tuple[Manifest, list[str]]:
        config = self.job.prepare
        fingerprint = ray.remote(_fingerprint).remote(self.inputs, self.job)
        layout = Layout.of_log(config.source)
        units = plan_units(self.inputs.log, layout, unit_bytes)
        units += plan_units(self.inputs.test, layout, unit_bytes, test=True)
        rows_in, pieces, first_rows = self._read(units)
        grouped, shards = self._group(pieces, first_rows, [unit.test for unit in units])
        del pieces
        items = Vocabulary.by_count(s.items for s in shards)
        events = _event_vocabulary(s.events for s in shards)
        files = self._write(grouped, shards, items, events)
        del grouped
        sizes, warnings = self._attributes(items)
        rejected = {name: n for name in REASONS if (n := self.rejected.get(name, 0))}
        profiles = [s.profile for s in shards if s.profile is not None]
        profile = build_profile(profiles, items, config, rejected, warnings)
        (self.prepare / "profile.json").write_json(profile)
        kept = sum(s.interactions for s in shards)
        assert rows_in == kept + sum(rejected.values()), "rows in = rows kept + rows rejected"
        manifest = Manifest(
            fingerprint=ray.get(fingerprint),
            shards=tuple(files),
            rows_in=rows_in,
            rows_kept=kept,
            rows_rejected=rejected,
            users=sum(s.users for s in shards),
            items=len(items),
            item_attributes=sizes["item"],
            user_attributes=sizes["user"],
            longest_history=max(p.heaviest[0] for p in profiles),
            split=describe(config.split),
            **_sums(profiles),
        )
        return manifest, profile["warnings"]

    def _read(self, units: list[Unit]) -> tuple[int, list[list[Any]], list[int]]:
        """Rows of the log, [unit][shard] references to pieces, number of each unit's first row."""
        config = ray.put(self.job.prepare)
        task = ray.remote(num_returns=self.job.prepare.shards + 1)(tasks.read)
        calls = [
            task.remote(unit, config, (self.prepare / "rejected"), i)
            for i, unit in enumerate(units)
        ]
        counts: list[tasks.UnitCounts] = self._collect("read", [call[0] for call in calls])
        for count in counts:
            self._reject(count.rejected)
        rows = [count.rows for count in counts]
        first_rows = np.concatenate([[0], np.cumsum(rows)]).astype(int).tolist()
        self._check_left(sum(rows))
        return sum(rows), [call[1:] for call in calls], first_rows[:-1]

    def _group(
        self, pieces: list[list[Any]], first_rows: list[int], test: list[bool]
    ) -> tuple[list[Any], list[tasks.ShardCounts]]:
        """References to Grouped and the counts, of every shard."""
        config, seed = self.job.prepare, self.job.seed
        by_shard = [[unit[shard] for unit in pieces] for shard in range(config.shards)]
        rare = None
        if config.clean.min_item_interactions > 1:
            count = ray.remote(tasks.count)
            calls = [count.remote(config, first_rows, test, *p) for p in by_shard]
            counted = Vocabulary.by_count((v, n, n) for v, n in self._collect("count", calls))
            few = counted.count < config.clean.min_item_interactions
            rare = ray.put(counted.external.filter(pa.array(few)))
        rejected, start = self.prepare / "rejected", len(pieces)
        task = ray.remote(num_returns=2)(tasks.group_shard)
        results = [
            task.remote(config, seed, rare, rejected, start + i, first_rows, test, *p)
            for i, p in enumerate(by_shard)
        ]
        shards: list[tasks.ShardCounts] = self._collect("group", [counts for counts, _ in results])
        for shard in shards:
            self._reject(shard.rejected)
        rows_in = sum(s.interactions for s in shards) + sum(self.rejected.values())
        self._check_left(rows_in, train=any(s.items[1].any() for s in shards))
        return [data for _, data in results], shards

    def _write(
        self,
        grouped: list[Any],
        shards: list[tasks.ShardCounts],
        items: Vocabulary,
        events: Vocabulary,
    ) -> list[ShardFile]:
        vocabularies = ray.put((items, events))
        users = sum(s.users for s in shards)
        rows = self.job.prepare.group_rows or group_rows(users, self.job.feed.lanes)
        task = ray.remote(num_returns=2)(tasks.write)
        calls, first = [], 0
        for i, (data, shard) in enumerate(zip(grouped, shards, strict=True)):
            if shard.users:
                path = f"shards/part-{i:05d}.parquet"
                calls.append(task.remote(data, vocabularies, self.prepare, path, first, rows))
            first += shard.users
        files: list[ShardFile] = self._collect("write", [file for file, _ in calls])
        (self.prepare / "vocabulary").make()
        (self.prepare / "vocabulary/item.parquet").write_table(items.table())
        if self.job.prepare.source.columns.event is not None:
            (self.prepare / "vocabulary/event.parquet").write_table(events.table())
        target = self.prepare / "vocabulary/user.parquet"
        with (
            target.fs.open_output_stream(target.path) as sink,
            pq.ParquetWriter(sink, c.VOCABULARY) as writer,
        ):
            for _, table in calls:
                writer.write_table(ray.get(table))
        return files

    def _attributes(self, items: Vocabulary) -> tuple[dict[str, dict[str, int]], list[str]]:
        config, warnings = self.job.prepare, []
        sizes: dict[str, dict[str, int]] = {"item": {}, "user": {}}
        if config.items is not None:
            sizes["item"], found = write_attributes(
                config.items, self.inputs.items, "item", items, self.prepare
            )
            warnings += found
        if config.users is not None:
            table = (self.prepare / "vocabulary/user.parquet").read_table()
            users = Vocabulary.of_table(table)
            sizes["user"], found = write_attributes(
                config.users, self.inputs.users, "user", users, self.prepare
            )
            warnings += found
        return sizes, warnings

    def _collect(self, what: str, refs: Sequence[Any]) -> list[Any]:
        """The values in order, as soon as all are there; the first error ends it."""
        task = self.bar.add_task(what, total=len(refs), note="")
        waiting = list(refs)
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            ray.get(done)
            self.bar.advance(task, len(done))
        return list(ray.get(list(refs)))

    def _reject(self, counts: dict[str, int]) -> None:
        for name, n in counts.items():
            self.rejected[name] = self.rejected.get(name, 0) + n

    def _check_left(self, rows_in: int, *, train: bool = True) -> None:
        if train and rows_in > sum(self.rejected.values()):
            return
        reasons = ", ".join(f"{name}: {n:,}" for name, n in self.rejected.items())
        raise EmptyLogError(
            "no valid interaction is left to train on" if rows_in else "the log has no rows",
            where=self.inputs.log[0].url + (" …" if len(self.inputs.log) > 1 else ""),
            value=f"{rows_in:,} rows in; rejected: {reasons or 'none'}",
            rule="at least one row must pass prepare.clean",
            fix="set prepare.clean.keep_rejected: true to see the rows under rejected/, and "
            "correct prepare.source or prepare.clean",
        )


def _event_vocabulary(parts: Iterable[tuple[pa.StringArray, Ints, Ints]]) -> Vocabulary:
    """Ids from 1; an interaction without an event (empty text) has 0."""
    named = [(names, train, np.where(np.asarray(names) == "", 0, n)) for names, train, n in parts]
    events = Vocabulary.by_count(named)
    if len(events) > _EVENTS:
        raise DataError(
            f"the log has {len(events):,} kinds of events",
            where="prepare.source.columns.event", value=events.external.slice(0, 5).to_pylist(),
            rule=f"at most {_EVENTS}", fix="name the column that holds the kind of interaction",
        )  # fmt: skip
    return events


def _sums(profiles: Iterable[ShardProfile]) -> dict[str, Any]:
    """The manifest's sums over all shards: splits and ratings."""
    parts = list(profiles)
    splits = np.sum([p.splits for p in parts], axis=0)
    number, total, low, high = zip(*(p.train_ratings for p in parts), strict=True)
    rated = sum(number)
    return {
        "rows_by_split": {name: int(splits[code]) for name, code in c.SPLIT_CODES.items()},
        "rating_mean": sum(total) / rated if rated else None,
        "rating_range": (min(low), max(high)) if rated else None,
    }


def _tell(manifest: Manifest, warnings: list[str]) -> None:
    console.print(
        f"  {manifest.rows_in:,} rows in, {manifest.rows_kept:,} kept: {manifest.users:,} users, "
        f"{manifest.items:,} items, longest history {manifest.longest_history:,}",
        soft_wrap=True,
    )
    if manifest.rows_rejected:
        reasons = ", ".join(f"{name} {n:,}" for name, n in manifest.rows_rejected.items())
        console.print(f"  rejected: {reasons}", soft_wrap=True)
    for warning in warnings:
        console.print(f"  warning: {warning}", style="yellow", markup=False, soft_wrap=True)


def _fingerprint(inputs: Inputs, job: RunConfig) -> str:
    return inputs.fingerprint(job)
