"""The passes of the stage over ranges and shards: the driver starts tasks, collects their results
and decides."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.progress import Progress

from p5dist.config import RunConfig
from p5dist.config.splits import TimeSplit
from p5dist.data import columns as c
from p5dist.data.jagged import Bools, Ints
from p5dist.data.manifest import MANIFEST, ShardFile
from p5dist.environment.workers import Workers
from p5dist.errors import DataError, EmptyLogError
from p5dist.prepare import log_tasks, shard_tasks
from p5dist.prepare.arrays import Ids
from p5dist.prepare.earlier import Earlier, id_types_of
from p5dist.prepare.events import absent_events, absent_held_out
from p5dist.prepare.layout import Layout
from p5dist.prepare.profile import ShardProfile
from p5dist.prepare.rejects import Rejects, forms_of
from p5dist.prepare.share_cuts import Bins, find_cuts
from p5dist.prepare.sources import Inputs, cut_files, estimate_rows
from p5dist.prepare.split import Cuts, describe
from p5dist.prepare.vocabulary import USERS, Vocabulary, expected_collisions, item_vocabulary
from p5dist.prepare.write_shards import group_rows
from p5dist.storage import Folder, RunFolder

_EVENTS = 127
_SHARD_ROWS = 2_000_000
_LEAST_SHARDS = 8
_MERGED_AT_ONCE = 16
_ODD_SHARE = 0.05
_SCRATCH_ROW = 40  # bytes
_DAY = 86_400 * c.SECOND


class Passes:
    """One run of the stage.

    ``rejects`` and ``warnings`` grow from pass to pass; ``unknown`` [3] are the rejected
    interactions of unknown items by split code.
    """

    def __init__(
        self, job: RunConfig, inputs: Inputs, prepare: Folder, workers: Workers, bar: Progress,
        range_bytes: int,
    ) -> None:  # fmt: skip
        self.job, self.inputs, self.prepare, self.bar = job, inputs, prepare, bar
        self.workers, self.config = workers, job.prepare
        self.before = Earlier.find(job)
        self.id_types = id_types_of(inputs, self.before)
        layout = Layout.of_log(
            self.config.source, self.id_types, pseudonyms=self.config.privacy.pseudonyms
        )
        self.ranges = [
            file_range
            for part, files in enumerate((inputs.log, inputs.validation, inputs.test))
            for file_range in cut_files(files, layout, range_bytes, part=part)
        ]
        rows = estimate_rows(inputs.rows, layout)
        self.shards = self.config.shards or max(_LEAST_SHARDS, -(-rows // _SHARD_ROWS))
        if self.before is not None:
            self.shards = self.before.newest.shard_number
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        compressed = not prepare.is_local or rows * _SCRATCH_ROW > memory // 4
        self.stage = log_tasks.Stage(
            self.config, job.seed, self.shards, layout, prepare, compressed, self.before
        )
        self.shared = workers.share(self.stage)
        self.catalogue: Any = None
        self.rejects = Rejects()
        self.warnings: list[str] = []
        self.unknown: Ints = np.zeros(3, np.int64)
        self.rows_earlier = 0

    @property
    def timed(self) -> bool:
        """Whether the log has times."""
        return self.config.source.columns.timestamp is not None

    def read(self) -> list[log_tasks.RangeCounts]:
        calls = [(self.shared, part, i) for i, part in enumerate(self.ranges)]
        counts: list[log_tasks.RangeCounts] = self._all("read", log_tasks.read, calls)
        for count in counts:
            self.rejects.add(count.rejected, count.examples)
        self.warnings += absent_events(self.config, (e for n in counts for e in n.events))
        self.check_left(sum(n.rows for n in counts), sum(n.kept for n in counts))
        return counts

    def group(self, counts: list[log_tasks.RangeCounts]) -> tuple[Ids, Ints, Ints | None]:
        """The catalogue: every item that is left in the log, in id order; the interactions of each;
        and its users, if ``privacy.min_item_users`` asks for them."""
        first = np.concatenate([[0], np.cumsum([n.kept for n in counts])]).astype(int)
        ranges = self.workers.share(
            [(r.part, int(n)) for r, n in zip(self.ranges, first[:-1], strict=True)]
        )
        shards = self._all("sort", log_tasks.group, self._shard_calls(ranges, self._oldest(counts)))
        for shard in shards:
            self.rejects.add(shard.rejected)
            self.rows_earlier += shard.earlier
        self._late_note(sum(shard.late for shard in shards))
        self._backwards_note(np.sum([shard.backwards for shard in shards], axis=0))
        scratch = self.stage.scratch
        (scratch / "read").folder.remove()
        files, level = [f"shard-{shard:05d}/items.arrow" for shard in range(self.shards)], 0
        while len(files) > 1 or not level:
            level += 1
            n = _MERGED_AT_ONCE
            parts = [files[i : i + n] for i in range(0, len(files), n)]
            files = [f"items-{level}-{i}.arrow" for i in range(len(parts))]
            calls = [(self.shared, *call) for call in zip(parts, files, strict=True)]
            self._all("merge", log_tasks.merge_items, calls)
        merged = scratch.read_table(files[0]).combine_chunks()
        catalogue = self._catalogue = scratch.read_column(files[0])
        self.catalogue = self.workers.share(catalogue)
        users = merged[USERS].to_numpy() if USERS in merged.column_names else None
        return catalogue, merged[c.COUNT].to_numpy(), users

    def _oldest(self, counts: list[log_tasks.RangeCounts]) -> int | None:
        """Time before which interactions are dropped; None: never."""
        days = self.config.privacy.retention
        if days is None:
            return None
        latest = [n.times[1] for n in counts if n.times is not None]
        if self.before is not None and self.before.newest.last_time is not None:
            latest.append(self.before.newest.last_time)
        return max(latest) - days * _DAY

    def core(self, seen: Ints, users: Ints | None) -> tuple[int, Ints]:
        """Number of rounds, and interactions of every item of the catalogue.

        Args:
            seen: the same before.
            users: of every item, before; None without ``privacy.min_item_users``.
        """
        clean, rounds, seen = self.config.clean, 0, seen.copy()
        users = None if users is None else users.copy()
        known = self._known_items(len(seen))
        while True:
            drop = np.zeros(len(seen), np.int8)
            left = (seen > 0) & ~known
            drop[left & (seen < clean.min_item_interactions)] = shard_tasks.RARE_ITEM
            if users is not None:
                few = users < self.config.privacy.min_item_users
                drop[left & (drop == 0) & few] = shard_tasks.FEW_USERS
            if not drop.any() and (rounds or clean.min_user_interactions == 1):
                return rounds, seen
            rounds += 1
            calls = self._shard_calls(rounds, self.catalogue, self.workers.share(drop))
            for _, ((index, n), (gone, of), rejected) in self._each(
                "k-core", shard_tasks.drop_rare, calls, note=f"round {rounds}"
            ):
                seen[index] -= n
                if users is not None:
                    users[gone] -= of
                self.rejects.add(rejected)

    def cuts(self, counts: list[log_tasks.RangeCounts], rounds: int) -> Cuts | None:
        rule = self.config.split
        if not isinstance(rule, TimeSplit):
            return None
        if not isinstance(rule.test, float):
            return Cuts.at_times(rule)
        spans = [n.times for n in counts if n.times is not None]
        low, high = 0, sum(n.kept for n in counts) - 1
        if spans:
            low, high = min(a for a, _ in spans), max(b for _, b in spans)

        def count(bins: list[Bins]) -> list[Ints]:
            totals = [np.zeros(some.number, np.int64) for some in bins]
            calls = self._shard_calls(rounds, bins)
            for _, counted in self._each("times", shard_tasks.times, calls):
                for total, here in zip(totals, counted, strict=True):
                    total += here
            return totals

        found, warnings = find_cuts(rule, low, high, count)
        self.warnings += warnings
        return found

    def count(
        self, catalogue: Ids, left: shard_tasks.Left
    ) -> tuple[Vocabulary, Ints, dict[str, Vocabulary], list[tuple[int, int]]]:
        """Item vocabulary, id of every item of the catalogue, vocabularies of event and context,
        and (histories, users) before every shard and in all."""
        known = None
        earlier = self.earlier("item")
        while True:
            train, seen = (np.zeros(len(catalogue), np.int64) for _ in range(2))
            sizes: list[tuple[int, int]] = [(0, 0)] * self.shards
            coded: dict[str, list[Any]] = {}
            held_out = 0
            calls = self._shard_calls(left, self.catalogue, known)
            for shard, counted in self._each("count", shard_tasks.count, calls):
                sizes[shard] = (counted.histories, counted.users)
                held_out += counted.held_out
                for total, (index, n) in ((train, counted.train), (seen, counted.seen)):
                    total[index] += n
                for name, part in counted.coded.items():
                    coded.setdefault(name, []).append(part)
            if self.before is None:
                self._check_trains(left.cuts, int(train.sum()), int(seen.sum()))
            else:
                self._check_goes_on(held_out)
            items, ids = item_vocabulary(self.config.vocabulary, catalogue, train, seen, earlier)
            if self.before is not None:
                items.count[: len(earlier or ())] += self.before.item_counts()
            if known is not None or not (seen[ids == 0] > 0).any():
                break
            known = self.workers.share(
                ids > 0
            )  # once more without the interactions of unknown items
        self._hash_note(int((seen > 0).sum()), ids[seen > 0])
        before = np.cumsum([(0, 0), *sizes], axis=0)
        vocabularies = {
            name: _coded_vocabulary(name, parts, self.earlier(name))
            for name, parts in coded.items()
        }
        if c.EVENT in vocabularies:
            events = vocabularies[c.EVENT].external.to_pylist()
            self.warnings += absent_held_out(self.config, events)
        return items, ids, vocabularies, [(int(h), int(u)) for h, u in before]

    def write(
        self,
        left: shard_tasks.Left,
        ids: Ints,
        coded: dict[str, Vocabulary],
        before: list[tuple[int, int]],
    ) -> tuple[list[ShardFile], list[ShardProfile]]:
        rows = self.config.group_rows or group_rows(before[-1][0], self.job.feed.lanes)
        shared = self.catalogue, self.workers.share(ids), self.workers.share(coded)
        calls = [
            (self.shared, shard, left, *shared, first, rows)
            for shard, first in enumerate(before[:-1])
        ]
        files, profiles = [], []
        target = self.prepare / "vocabulary/user.parquet"
        (self.prepare / "vocabulary").make()
        with (
            target.fs.open_output_stream(target.path) as sink,
            pq.ParquetWriter(sink, c.VOCABULARY) as writer,
        ):
            for part in self._in_order("write", shard_tasks.write, calls):
                self.rejects.add(part.rejected)
                self.unknown += part.unknown
                writer.write_table(part.users)
                if part.file is not None:
                    files.append(part.file)
                    profiles.append(part.profile)
        return files, profiles

    def earlier(self, name: str) -> Ids | None:
        """The vocabulary that ``vocabulary.extend`` extends."""
        if self.before is not None:
            file = self.before.prepares[0] / f"vocabulary/{name}.parquet"
            return Vocabulary.of_table(file.read_table()).external if file.exists() else None
        rule = self.config.vocabulary.extend
        if rule is None:
            return None
        prepare = RunFolder.at(Folder.open(rule)).prepare
        if not (prepare / MANIFEST).exists():
            raise DataError(
                "no prepared data there", where="prepare.vocabulary.extend", value=rule,
                rule="the folder of a run whose prepare stage is complete",
                fix="name <storage>/<run name> of the earlier run",
            )  # fmt: skip
        file = prepare / f"vocabulary/{name}.parquet"
        return Vocabulary.of_table(file.read_table()).external if file.exists() else None

    def _known_items(self, number: int) -> Bools:
        """[number] items of the catalogue that the earlier runs have."""
        ids = self.earlier("item")
        if ids is None or self.before is None:
            return np.zeros(number, dtype=bool)
        text = self._catalogue.cast(pa.string())
        found: Bools = np.asarray(pc.is_in(text, value_set=ids))
        return found

    def _late_note(self, late: int) -> None:
        if late:
            self.warnings.append(
                f"{late:,} new interactions are older than what the earlier run held out: they are "
                "input of training, which does not predict them"
            )

    def _backwards_note(self, sample: Ints) -> None:
        back, of = sample.tolist()
        if back > _ODD_SHARE * of:
            self.warnings.append(
                f"the log is not in the order of time: {back / of:.0%} of a sample of users' "
                "interactions follow a later one. Histories are sorted by time: this is harmless "
                "if prepare.source.columns.timestamp is the time of the interaction"
            )

    def _hash_note(self, items: int, ids: Ints) -> None:
        size = self.config.vocabulary.hashed
        if size is not None:
            shared = items - int((np.bincount(ids) == 1).sum())
            self.warnings.append(
                f"{items:,} items share {size:,} hashed ids: {shared:,} of them have an id with "
                f"another item, {expected_collisions(items, size):,.0f} are expected by chance"
            )

    def check_left(self, rows_in: int, left: int) -> None:
        if left:
            return
        most = max(self.rejects.counts, key=self.rejects.counts.__getitem__, default="")
        raise EmptyLogError(
            "no valid interaction is left to train on" if rows_in else "the log has no rows",
            where=self.inputs.log[0].url + (" …" if len(self.inputs.log) > 1 else ""),
            value=f"{rows_in:,} rows in; rejected: {str(self.rejects) or 'none'}",
            rule=forms_of(most, self.config.source) or "at least one row must pass prepare.clean",
            fix="set prepare.clean.keep_rejected: true to see the rows under rejected/, and "
            "correct prepare.source or prepare.clean",
        )

    def _check_trains(self, cuts: Cuts | None, train: int, interactions: int) -> None:
        if not train:
            raise EmptyLogError(
                "the split leaves no interaction to train on", where="prepare.split",
                value=describe(self.config, cuts),
                rule=f"at least one of the {interactions:,} interactions must train",
                fix="choose a later cut or smaller shares, or another kind of split",
            )  # fmt: skip

    def _check_goes_on(self, held_out: int) -> None:
        """Raise EmptyLogError if nothing is held out, which the next run would train on."""
        if held_out:
            return
        latest = "" if self.before is None else _moment(self.before.newest.last_time or 0)
        raise EmptyLogError(
            "no interaction is later than those of the earlier run",
            where=self.inputs.log[0].url + (" …" if len(self.inputs.log) > 1 else ""),
            value=f"rejected: {str(self.rejects) or 'none'}",
            rule=f"the earlier run knows interactions up to {latest}; new ones come after it",
            fix="advance again when there are files with later interactions; both are read then",
        )  # fmt: skip

    def _shard_calls(self, *arguments: Any) -> list[tuple[Any, ...]]:
        return [(self.shared, shard, *arguments) for shard in range(self.shards)]

    def _each(
        self, what: str, task: Callable[..., Any], calls: list[tuple[Any, ...]], note: str = ""
    ) -> Iterator[tuple[int, Any]]:
        """(number, result) of every call as it ends; no result is kept."""
        bar = self.bar.add_task(what, total=len(calls), note=note)
        for number, result in self.workers.results(task, calls):
            yield number, result
            self.bar.advance(bar)

    def _in_order(
        self, what: str, task: Callable[..., Any], calls: list[tuple[Any, ...]]
    ) -> Iterator[Any]:
        early, due = {}, 0
        for number, result in self._each(what, task, calls):
            early[number] = result
            while due in early:
                yield early.pop(due)
                due += 1

    def _all(self, what: str, task: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[Any]:
        return list(self._in_order(what, task, calls))


def _moment(microseconds: int) -> str:
    try:
        return str(datetime.fromtimestamp(microseconds / c.SECOND, timezone.utc))
    except (ValueError, OverflowError, OSError):
        return f"{microseconds / c.SECOND:,.0f} seconds after 1970"


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
