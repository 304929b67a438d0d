"""The prepare stage: raw log → sequence shards, as Ray tasks.

::

    read     a task a read unit: parse, clean, divide the rows among the shards by user hash
    group    a task a shard: order of time; duplicates, repeats, bots
    number   a task a shard: its items' places in the catalogue of the whole log
    core     a task a shard and turn: rare items, then rare users, until none is left
    count    a task a shard: histories, split; training interactions of every item
    write    a task a shard: external ids → internal ids, Parquet

The exchange goes through files under prepare/scratch/ (see :mod:`.scratch`): the memory that a task
needs follows the size of a unit or a shard, never that of the log, and a run that was interrupted
keeps the units and shards that were done. The driver sees counts and vocabularies, never rows.
Every task is a pure function of its unit or shard, so that one that Ray runs again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayTaskError
from rich.progress import Progress

from p5dist import __version__
from p5dist import columns as c
from p5dist.config import RunConfig
from p5dist.config.prepare import TimeSplit
from p5dist.console import console, progress
from p5dist.errors import DataError, EmptyLogError, P5Error
from p5dist.manifest import MANIFEST, Manifest, ShardFile
from p5dist.prepare import tasks
from p5dist.prepare.arrays import Ids, Ints
from p5dist.prepare.attributes import write_attributes
from p5dist.prepare.cleaning import OTHER_EVENTS, REASONS
from p5dist.prepare.profile import ShardProfile, build_profile
from p5dist.prepare.reading import Layout
from p5dist.prepare.shards import group_rows
from p5dist.prepare.sources import (
    UNIT_BYTES,
    Inputs,
    estimate_rows,
    last_change,
    plan_units,
)
from p5dist.prepare.split import Cuts, bin_width, describe, knows
from p5dist.prepare.vocabulary import (
    Vocabulary,
    expected_collisions,
    item_vocabulary,
    merge_ids,
)
from p5dist.storage import Folder, RunFolder

_EVENTS = 127
_SHARD_ROWS = 2_000_000
_LEAST_SHARDS = 8
_MERGED_AT_ONCE = 8


def fingerprint(job: RunConfig) -> str:
    """What :attr:`Manifest.fingerprint` will be: reads the input files, but needs no Ray.

    Raises:
        DataError, MissingColumnError: the input files are not there or lack columns.
    """
    return Inputs.find(job.prepare).fingerprint(job)


def run(job: RunConfig, folder: RunFolder, *, unit_bytes: int = UNIT_BYTES) -> Manifest:
    """Build ``prepare/`` of the run folder anew, manifest last; Ray must be connected.

    What an interrupted run with the same input and settings has read and sorted is taken over.

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
    try:
        with progress() as bar:
            manifest, warnings = _Run(job, inputs, prepare.make(), bar, unit_bytes).run()
    except RayTaskError as e:
        if isinstance(e.cause, P5Error):
            raise e.cause from None
        raise
    manifest.save(prepare)
    _tell(manifest, warnings)
    return manifest


class _Run:
    def __init__(
        self, job: RunConfig, inputs: Inputs, prepare: Folder, bar: Progress, unit_bytes: int
    ) -> None:
        self.job, self.inputs, self.prepare, self.bar = job, inputs, prepare, bar
        self.config = job.prepare
        layout = Layout.of_log(self.config.source, inputs.id_types)
        self.units = plan_units(inputs.log, layout, unit_bytes)
        self.units += plan_units(inputs.test, layout, unit_bytes, test=True)
        rows = estimate_rows([*inputs.log, *inputs.test], layout)
        self.shards = self.config.shards or max(_LEAST_SHARDS, -(-rows // _SHARD_ROWS))
        self.stage = tasks.Stage(self.config, job.seed, self.shards, layout, prepare)
        self.shared = ray.put(self.stage)
        self.rejected: dict[str, int] = {}
        self.warnings: list[str] = []

    def run(self) -> tuple[Manifest, list[str]]:
        self._claim()
        fingerprint = ray.remote(_fingerprint).remote(self.inputs, self.job)
        counts = self._read()
        catalogue = self._group(counts)
        rows_in = sum(n.rows for n in counts)
        turn, seen = self._core(catalogue)
        self._check_left(rows_in, int(seen.sum()))
        cuts = self._cuts(counts, turn)
        items, ids, coded, before = self._count(catalogue, turn, cuts)
        self._check_left(rows_in, int(items.count.sum()))
        shards, profiles = self._write(turn, cuts, ids, coded, before)
        users = before[-1][1]
        self._write_vocabularies(items, coded)
        sizes = self._attributes(items)
        rejected = {name: n for name in REASONS if (n := self.rejected.get(name, 0))}
        profile = build_profile(profiles, items, users, self.config, rejected, self.warnings)
        (self.prepare / "profile.json").write_json(profile)
        kept = int(sum(p.splits.sum() for p in profiles))
        assert rows_in == kept + sum(rejected.values()), "rows in = rows kept + rows rejected"
        manifest = Manifest(
            fingerprint=ray.get(fingerprint),
            shards=tuple(shards),
            rows_in=rows_in,
            rows_kept=kept,
            rows_rejected=rejected,
            users=users,
            items=len(items),
            item_attributes=sizes["item"],
            user_attributes=sizes["user"],
            context={name: len(v) for name, v in coded.items() if name != c.EVENT},
            longest_history=max(int(p.lengths[0][-1]) for p in profiles),
            split=describe(self.config.split, cuts),
            made_from=knows(self.config),
            **_sums(profiles),
        )
        self.stage.scratch.folder.remove()
        return manifest, profile["warnings"]

    def _claim(self) -> None:
        """Remove what other runs left, keep what this one did before it was interrupted."""
        changed = {u.file.url: last_change(u.file) for u in self.units if not u.start}
        state = (__version__, self.job.fingerprint("prepare"), self.units, self.shards, changed)
        if not self.stage.scratch.claim(sha256(repr(state).encode()).hexdigest()):
            (self.prepare / "rejected").remove()
        for name in ("shards", "vocabulary", "attributes", "profile.json"):
            (self.prepare / name).remove()

    def _read(self) -> list[tasks.UnitCounts]:
        task = ray.remote(tasks.read)
        calls = [task.remote(self.shared, unit, i) for i, unit in enumerate(self.units)]
        counts: list[tasks.UnitCounts] = self._all("read", calls)
        for count in counts:
            self._reject(count.rejected)
        self._check_left(sum(n.rows for n in counts), sum(n.kept for n in counts))
        return counts

    def _group(self, counts: list[tasks.UnitCounts]) -> Ids:
        """The catalogue: every item that is left in the log, in id order."""
        first = np.concatenate([[0], np.cumsum([n.kept for n in counts])]).astype(int)
        units = ray.put([(u.test, int(n)) for u, n in zip(self.units, first[:-1], strict=True)])
        task = ray.remote(num_returns=2)(tasks.group)
        calls = [task.remote(self.shared, shard, units) for shard in range(self.shards)]
        for shard in self._all("sort", [counts for counts, _ in calls]):
            self._reject(shard.rejected)
        (self.stage.scratch / "read").folder.remove()
        items = [items for _, items in calls]
        del calls
        merge = ray.remote(lambda *parts: merge_ids(parts))
        while len(items) > 1:
            n = _MERGED_AT_ONCE
            items = [merge.remote(*items[i : i + n]) for i in range(0, len(items), n)]
        return ray.get(items[0])

    def _core(self, catalogue: Ids) -> tuple[int, Ints]:
        """Number of the last turn, and interactions of every item of the catalogue."""
        shared = ray.put(catalogue)
        seen = self._sum("number", [
            ray.remote(tasks.number).remote(self.shared, shard, shared)
            for shard in range(self.shards)
        ])  # fmt: skip
        clean, turn = self.config.clean, 0
        task = ray.remote(tasks.drop_rare)
        while True:
            rare = (seen > 0) & (seen < clean.min_item_interactions)
            if not rare.any() and (turn or clean.min_user_interactions == 1):
                return turn, seen
            turn += 1
            shared_rare = ray.put(rare)
            calls = [
                task.remote(self.shared, shard, turn, shared_rare) for shard in range(self.shards)
            ]
            for _, (gone, rejected) in self._each("k-core", calls, note=f"turn {turn}"):
                seen -= gone
                self._reject(rejected)

    def _cuts(self, counts: list[tasks.UnitCounts], turn: int) -> Cuts | None:
        rule = self.config.split
        if not isinstance(rule, TimeSplit):
            return None
        if not isinstance(rule.test, float):
            return Cuts.at_times(rule)
        spans = [n.times for n in counts if n.times is not None]
        low, high = (min(a for a, _ in spans), max(b for _, b in spans)) if spans else (
            0, sum(n.kept for n in counts)
        )  # fmt: skip
        width = bin_width(low, high)
        bins = (high - low) // width + 1
        task = ray.remote(tasks.times)
        calls = [
            task.remote(self.shared, shard, turn, low, width, bins) for shard in range(self.shards)
        ]
        return Cuts.at_shares(rule, self._sum("times", calls), low, width)

    def _count(
        self, catalogue: Ids, turn: int, cuts: Cuts | None
    ) -> tuple[Vocabulary, Ints, dict[str, Vocabulary], list[tuple[int, int]]]:
        """Item vocabulary, id of every item of the catalogue, vocabularies of event and context,
        and (histories, users) before every shard and in all."""
        task, known = ray.remote(tasks.count), None
        earlier = self._earlier("item")
        while True:
            train, seen = (np.zeros(len(catalogue), np.int64) for _ in range(2))
            sizes: list[tuple[int, int]] = [(0, 0)] * self.shards
            coded: dict[str, list[Any]] = {}
            calls = [
                task.remote(self.shared, shard, turn, cuts, known, len(catalogue))
                for shard in range(self.shards)
            ]
            for shard, counted in self._each("count", calls):
                sizes[shard] = (counted.histories, counted.users)
                train += counted.items[0]
                seen += counted.items[1]
                for name, part in counted.coded.items():
                    coded.setdefault(name, []).append(part)
            items, ids = item_vocabulary(self.config.vocabulary, catalogue, train, seen, earlier)
            if known is not None or not (seen[ids == 0] > 0).any():
                break
            known = ray.put(ids > 0)  # once more without the interactions of unknown items
        self._hash_note(int((seen > 0).sum()), ids[seen > 0])
        before = np.cumsum([(0, 0), *sizes], axis=0)
        vocabularies = {
            name: _coded_vocabulary(name, parts, self._earlier(name))
            for name, parts in coded.items()
        }
        return items, ids, vocabularies, [(int(h), int(u)) for h, u in before]

    def _write(
        self,
        turn: int,
        cuts: Cuts | None,
        ids: Ints,
        coded: dict[str, Vocabulary],
        before: list[tuple[int, int]],
    ) -> tuple[list[ShardFile], list[ShardProfile]]:
        rows = self.config.group_rows or group_rows(before[-1][0], self.job.feed.lanes)
        shared = ray.put(ids), ray.put(coded)
        task = ray.remote(tasks.write)
        calls = [
            task.remote(self.shared, shard, turn, cuts, *shared, first, rows)
            for shard, first in enumerate(before[:-1])
        ]
        files, profiles = [], []
        target = self.prepare / "vocabulary/user.parquet"
        (self.prepare / "vocabulary").make()
        with (
            target.fs.open_output_stream(target.path) as sink,
            pq.ParquetWriter(sink, c.VOCABULARY) as writer,
        ):
            for part in self._in_order("write", calls):
                self._reject(part.rejected)
                writer.write_table(part.users)
                if part.file is not None:
                    files.append(part.file)
                    profiles.append(part.profile)
        return files, profiles

    def _write_vocabularies(self, items: Vocabulary, coded: dict[str, Vocabulary]) -> None:
        (self.prepare / "vocabulary/item.parquet").write_table(items.table())
        for name, vocabulary in coded.items():
            table = vocabulary.table()
            if name == c.EVENT:
                weights = self.config.events or {}
                other = weights.get(OTHER_EVENTS, 1.0)
                weight = [weights.get(e, other) for e in table[c.EXTERNAL_ID].to_pylist()]
                table = table.append_column(c.WEIGHT, pa.array(weight, pa.float32()))
            (self.prepare / f"vocabulary/{name}.parquet").write_table(table)

    def _attributes(self, items: Vocabulary) -> dict[str, dict[str, int]]:
        sizes: dict[str, dict[str, int]] = {"item": {}, "user": {}}
        if self.config.items is not None:
            sizes["item"], found = write_attributes(
                self.config.items, self.inputs.items, "item", items, self.prepare
            )
            self.warnings += found
        if self.config.users is not None:
            table = (self.prepare / "vocabulary/user.parquet").read_table()
            users = Vocabulary.of_table(table)
            sizes["user"], found = write_attributes(
                self.config.users, self.inputs.users, "user", users, self.prepare
            )
            self.warnings += found
        return sizes

    def _earlier(self, name: str) -> Ids | None:
        """The vocabulary that ``vocabulary.extend`` goes on from."""
        rule = self.config.vocabulary.extend
        if rule is None:
            return None
        place = Folder.open(rule) / f"prepare/vocabulary/{name}.parquet"
        if not (Folder.open(rule) / "prepare" / MANIFEST).exists():
            raise DataError(
                "no prepared data there", where="prepare.vocabulary.extend", value=rule,
                rule="the folder of a run whose prepare stage is complete",
                fix="name <storage>/<run name> of the earlier run",
            )  # fmt: skip
        return Vocabulary.of_table(place.read_table()).external if place.exists() else None

    def _hash_note(self, items: int, ids: Ints) -> None:
        size = self.config.vocabulary.hashed
        if size is not None:
            shared = items - int((np.bincount(ids) == 1).sum())
            self.warnings.append(
                f"{items:,} items share {size:,} hashed ids: {shared:,} of them have an id with "
                f"another item, {expected_collisions(items, size):,.0f} were to be expected"
            )

    def _each(self, what: str, calls: Sequence[Any], note: str = "") -> Iterator[tuple[int, Any]]:
        """(number, result) of every call as it ends; results are let go of at once."""
        bar = self.bar.add_task(what, total=len(calls), note=note)
        number = {call: i for i, call in enumerate(calls)}
        waiting = list(calls)
        del calls
        while waiting:
            (done,), waiting = ray.wait(waiting, num_returns=1)
            yield number.pop(done), ray.get(done)
            self.bar.advance(bar)

    def _in_order(self, what: str, calls: list[Any]) -> Iterator[Any]:
        bar = self.bar.add_task(what, total=len(calls), note="")
        while calls:
            yield ray.get(calls.pop(0))
            self.bar.advance(bar)

    def _all(self, what: str, calls: Sequence[Any]) -> list[Any]:
        found = dict(self._each(what, calls))
        return [found[i] for i in range(len(calls))]

    def _sum(self, what: str, calls: list[Any]) -> Ints:
        total = np.zeros(1, np.int64)
        for _, counts in self._each(what, calls):
            total = total + counts.astype(np.int64)
        return total

    def _reject(self, counts: dict[str, int]) -> None:
        for name, n in counts.items():
            self.rejected[name] = self.rejected.get(name, 0) + n

    def _check_left(self, rows_in: int, left: int) -> None:
        if left:
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


def _coded_vocabulary(name: str, parts: list[Any], earlier: Ids | None) -> Vocabulary:
    """Ids from 1; an interaction without a value (empty text) has 0."""
    named = [(names, train, np.where(np.asarray(names) == "", 0, n)) for names, train, n in parts]
    found = Vocabulary.by_count(named, earlier)
    if name == c.EVENT and len(found) > _EVENTS:
        raise DataError(
            f"the log has {len(found):,} kinds of events",
            where="prepare.source.columns.event", value=found.external.slice(0, 5).to_pylist(),
            rule=f"at most {_EVENTS}", fix="name the column that holds the kind of interaction",
        )  # fmt: skip
    return found


def _sums(profiles: Sequence[ShardProfile]) -> dict[str, Any]:
    """The manifest's sums over all shards: splits and ratings."""
    splits = np.sum([p.splits for p in profiles], axis=0)
    number, total, low, high = zip(*(p.train_ratings for p in profiles), strict=True)
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
