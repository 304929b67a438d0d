"""The passes of the stage over units and shards: what the driver starts, collects and decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
from rich.progress import Progress

from p5dist import columns as c
from p5dist.config import RunConfig
from p5dist.config.prepare import TimeSplit
from p5dist.errors import DataError, EmptyLogError
from p5dist.manifest import MANIFEST, ShardFile
from p5dist.prepare import tasks
from p5dist.prepare.arrays import Ids, Ints
from p5dist.prepare.layout import Layout
from p5dist.prepare.profile import ShardProfile
from p5dist.prepare.shards import group_rows
from p5dist.prepare.sources import Inputs, estimate_rows, plan_units
from p5dist.prepare.split import Cuts, bin_width
from p5dist.prepare.vocabulary import (
    Vocabulary,
    expected_collisions,
    item_vocabulary,
    merge_ids,
)
from p5dist.storage import Folder

_EVENTS = 127
_SHARD_ROWS = 2_000_000
_LEAST_SHARDS = 8
_MERGED_AT_ONCE = 8
_ODD_SHARE = 0.05


class Passes:
    """One run of the stage.

    ``rejected`` (rows by reason) and ``warnings`` grow from pass to pass.
    """

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

    def read(self) -> list[tasks.UnitCounts]:
        task = ray.remote(tasks.read)
        calls = [task.remote(self.shared, unit, i) for i, unit in enumerate(self.units)]
        counts: list[tasks.UnitCounts] = self._all("read", calls)
        for count in counts:
            self._reject(count.rejected)
        self.check_left(sum(n.rows for n in counts), sum(n.kept for n in counts))
        return counts

    def group(self, counts: list[tasks.UnitCounts]) -> Ids:
        """The catalogue: every item that is left in the log, in id order."""
        first = np.concatenate([[0], np.cumsum([n.kept for n in counts])]).astype(int)
        units = ray.put([(u.test, int(n)) for u, n in zip(self.units, first[:-1], strict=True)])
        task = ray.remote(num_returns=2)(tasks.group)
        calls = [task.remote(self.shared, shard, units) for shard in range(self.shards)]
        shards = self._all("sort", [counts for counts, _ in calls])
        for shard in shards:
            self._reject(shard.rejected)
        self._backwards_note(np.sum([shard.backwards for shard in shards], axis=0))
        (self.stage.scratch / "read").folder.remove()
        items = [items for _, items in calls]
        del calls
        merge = ray.remote(lambda *parts: merge_ids(parts))
        while len(items) > 1:
            n = _MERGED_AT_ONCE
            items = [merge.remote(*items[i : i + n]) for i in range(0, len(items), n)]
        return ray.get(items[0])

    def core(self, catalogue: Ids) -> tuple[int, Ints]:
        """Number of the last turn, and interactions of every item of the catalogue."""
        shared = ray.put(catalogue)
        seen = np.zeros(len(catalogue), np.int64)
        number = ray.remote(tasks.number)
        calls = [number.remote(self.shared, shard, shared) for shard in range(self.shards)]
        for _, (place, n) in self._each("number", calls):
            seen[place] += n
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
            for _, ((place, n), rejected) in self._each("k-core", calls, note=f"turn {turn}"):
                seen[place] -= n
                self._reject(rejected)

    def cuts(self, counts: list[tasks.UnitCounts], turn: int) -> Cuts | None:
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

    def count(
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
                task.remote(self.shared, shard, turn, cuts, known) for shard in range(self.shards)
            ]
            for shard, counted in self._each("count", calls):
                sizes[shard] = (counted.histories, counted.users)
                for total, (place, n) in ((train, counted.train), (seen, counted.seen)):
                    total[place] += n
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

    def write(
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

    def _backwards_note(self, sample: Ints) -> None:
        back, of = sample.tolist()
        if back > _ODD_SHARE * of:
            self.warnings.append(
                f"time goes backwards along the log in {back / of:.0%} of a sample of users' "
                "interactions: histories are sorted by time, so check that "
                "prepare.source.columns.timestamp is the time of the interaction"
            )

    def _hash_note(self, items: int, ids: Ints) -> None:
        size = self.config.vocabulary.hashed
        if size is not None:
            shared = items - int((np.bincount(ids) == 1).sum())
            self.warnings.append(
                f"{items:,} items share {size:,} hashed ids: {shared:,} of them have an id with "
                f"another item, {expected_collisions(items, size):,.0f} were to be expected"
            )

    def _reject(self, counts: dict[str, int]) -> None:
        for name, n in counts.items():
            self.rejected[name] = self.rejected.get(name, 0) + n

    def check_left(self, rows_in: int, left: int) -> None:
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
