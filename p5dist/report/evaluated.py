"""Evaluated runs, and which of their targets are the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.jagged import Floats, Ints
from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError, RunFolderError
from p5dist.observe.status import open_run
from p5dist.storage import Folder, RunFolder

MODEL = "model"
RANK = "rank"
"""Column ``rank`` of the model, ``rank:<ranker>`` of a baseline."""
POOLED = "pooled"
"""Key of the result.json of several seeds: the names of their runs."""
MISSED = int(np.iinfo(np.int64).max)
"""Rank of a target that cannot be listed."""
_RANKER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of one run by its model or by one of its baselines."""

    job: RunConfig
    folder: RunFolder
    result: dict[str, Any]
    """evaluate/result.json"""
    targets: pa.Table
    """evaluate/targets.parquet [M]"""
    ranker: str = MODEL

    @property
    def name(self) -> str:
        return self.job.name if self.ranker == MODEL else f"{self.job.name}:{self.ranker}"

    @property
    def protocol(self) -> dict[str, Any]:
        return dict(self.result["protocol"])

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest.read(self.folder.prepare)

    @property
    def has_ranks(self) -> bool:
        return self._column in self.targets.column_names

    @property
    def ranks(self) -> Ints:
        """[M] from 1; MISSED for a target that cannot be listed."""
        return np.asarray(pc.fill_null(self.targets[self._column], MISSED)).astype(np.int64)

    @property
    def ks(self) -> set[int]:
        return {int(key[3:]) for key in self.result["metrics"] if key.startswith("hr@")}

    def floats(self, column: str) -> Floats:
        """[M] NaN for null"""
        values = self.targets[column].cast(pa.float64())
        return np.asarray(pc.fill_null(values, float("nan"))).astype(np.float64)

    def external(self, side: str) -> pa.ChunkedArray:
        """External ids of the users or items 1…n; null for a hashed id that no item has.

        Args:
            side: ``user`` or ``item``.
        """
        file = self.folder.prepare / f"vocabulary/{side}.parquet"
        return file.read_table([c.EXTERNAL_ID])[c.EXTERNAL_ID]

    @property
    def _column(self) -> str:
        return RANK if self.ranker == MODEL else f"{RANK}:{self.ranker}"


@dataclass(frozen=True)
class Side:
    """The runs of one side of a comparison: one run, or one for each seed."""

    label: str
    runs: tuple[Evaluated, ...]

    @property
    def seeds(self) -> list[int]:
        """Seeds of training."""
        return [run.job.training_seed for run in self.runs]

    def ranked_by(self, ranker: str) -> Side:
        """The same runs, ranked by one of their baselines."""
        runs = tuple(replace(run, ranker=ranker) for run in self.runs)
        return Side(f"{self.label}:{ranker}", runs)


def read_sides(words: Sequence[str]) -> list[Side]:
    """The sides of a comparison.

    Args:
        words: each is RUN, or several RUNs with commas between; RUN is a run folder, its URL, a job
            file, or the folder NAME-seeds of several seeds; ``RUN:popularity`` is a baseline.

    Raises:
        RunFolderError: there is no run, or it was not evaluated.
        ConfigError: the evaluation has no such baseline.
    """
    opened: dict[str, Evaluated] = {}
    sides = []
    for word in words:
        runs = [run for part in word.split(",") for run in _read(part, opened)]
        places = [(str(run.folder.root), run.ranker) for run in runs]
        if len(set(places)) < len(places):
            raise ConfigError(
                "a side has a run twice", where="p5dist compare", value=word,
                rule="the runs of a side are different seeds of one job", fix="name each run once",
            )  # fmt: skip
        label = runs[0].name
        if len(runs) > 1:
            label = f"{_stem(runs) or f'{label}, …'} × {len(runs)}"
        sides.append(Side(label, tuple(runs)))
    labels = [side.label for side in sides]
    return [
        side if labels.count(side.label) == 1 else replace(side, label=word)
        for side, word in zip(sides, words, strict=True)
    ]


def _stem(runs: list[Evaluated]) -> str:
    """What NAME-seed-K of all runs have in common; empty if they have other names."""
    stems = {re.sub(r"-seed-\d+$", "", run.job.name) for run in runs}
    rankers = {run.ranker for run in runs}
    if len(stems) > 1 or len(rankers) > 1:
        return ""
    ranker = rankers.pop()
    return stems.pop() + ("" if ranker == MODEL else f":{ranker}")


def _read(word: str, opened: dict[str, Evaluated]) -> list[Evaluated]:
    place, colon, ranker = word.rpartition(":")
    if not (colon and place and _RANKER.fullmatch(ranker)) or Folder.open(word).exists():
        place, ranker = word, MODEL
    pooled = Folder.open(place) / "result.json"
    if not place.endswith((".yaml", ".yml")) and pooled.exists():
        found = pooled.read_json()
        if POOLED in found:
            storage = place.rstrip("/").rpartition("/")[0] or "."
            return [_one(f"{storage}/{name}", ranker, opened) for name in found[POOLED]]
    return [_one(place, ranker, opened)]


def read_evaluated(root: Folder) -> Evaluated:
    """The evaluation in a run folder.

    Raises:
        RunFolderError: there is no run, or it was not evaluated.
    """
    return _opened(str(root))


def _opened(place: str) -> Evaluated:
    job, folder, _ = open_run(place)
    for file in (folder.evaluate / "result.json", folder.evaluate / "targets.parquet"):
        if not file.exists():
            raise RunFolderError(
                "the run was not evaluated", where=str(file),
                rule="runs are compared by the targets of their evaluations",
                fix=f"p5dist run {folder.job} evaluate",
            )  # fmt: skip
    result = (folder.evaluate / "result.json").read_json()
    file = folder.evaluate / "targets.parquet"
    return Evaluated(job, folder, result, file.read_table())


def _one(place: str, ranker: str, opened: dict[str, Evaluated]) -> Evaluated:
    if place not in opened:
        opened[place] = _opened(place)
    run = replace(opened[place], ranker=ranker)
    if ranker != MODEL and not run.has_ranks:
        known = [n.partition(":")[2] for n in run.targets.column_names if n.startswith("rank:")]
        raise ConfigError(
            f"the evaluation has no ranks of '{ranker}'", where=str(run.folder.evaluate),
            value=ranker, rule=f"baselines with ranks: {', '.join(known) or 'none'}",
            fix="name one of them; evaluations of earlier versions have no ranks of baselines: "
            f"p5dist evaluate {run.folder.job} --fresh",
        )  # fmt: skip
    return run


@dataclass(frozen=True)
class Pairs:
    """The targets that all of T runs have."""

    rows: tuple[Ints, ...]
    """[T] arrays [P]: the rows of each run's targets, pair by pair"""
    by: str
    """``internal ids`` or ``external ids``"""

    def __len__(self) -> int:
        return len(self.rows[0])


def pair(runs: Sequence[Evaluated]) -> Pairs:
    """Pair the targets by user, item and occurrence (the how-manieth target of this user and item
    it is, in the order of the file): by internal ids if all runs have the same prepared data, else
    by the external ids of their vocabularies.

    Raises:
        ConfigError: fewer than half of the targets of the run with the fewest are in all runs.
    """
    first = runs[0]
    fingerprints = {run.result["data_fingerprint"] for run in runs}
    same = len(fingerprints) == 1 and None not in fingerprints
    columns = [(_ids(run, c.USER), _ids(run, c.ITEM)) for run in runs]
    if not same:
        columns = [columns[0], *(_translated(first, run) for run in runs[1:])]
    by = "internal ids" if same else "external ids"
    user, item = columns[0]
    if all(np.array_equal(user, u) and np.array_equal(item, i) for u, i in columns):
        return Pairs(tuple(np.arange(len(user)) for _ in runs), by)
    items = 1 + max(int(i.max(initial=0)) for _, i in columns)
    keyed = [_occurrences(u, i, items) for u, i in columns]
    most = 1 + max(int(occurrence.max(initial=0)) for _, _, occurrence in keyed)
    keys = [key * most + occurrence for _, key, occurrence in keyed]
    common = reduce(lambda a, b: np.intersect1d(a, b, assume_unique=True), keys)
    rows = tuple(
        row[np.searchsorted(key, common)] for (row, _, _), key in zip(keyed, keys, strict=True)
    )
    return Pairs(rows, by)


def _ids(run: Evaluated, column: str) -> Ints:
    return np.asarray(run.targets[column]).astype(np.int64)


def _translated(first: Evaluated, run: Evaluated) -> tuple[Ints, Ints]:
    """Users and items [M] of a run as internal ids of the first run; -1 where it has no such id."""
    found = []
    for side in (c.USER, c.ITEM):
        known = first.external(side)
        index = pc.index_in(run.external(side), value_set=known, skip_nulls=True)
        table = np.append(-1, np.asarray(pc.fill_null(index, -2)).astype(np.int64) + 1)
        found.append(np.where(table < 1, -1, table)[_ids(run, side)])
    return found[0], found[1]


def _occurrences(user: Ints, item: Ints, items: int) -> tuple[Ints, Ints, Ints]:
    """Three arrays [≤ M] by rising key, of the targets with known ids: row, key (a number of user
    and item), and how many targets of the same key come before."""
    there = np.flatnonzero((user > 0) & (item > 0))
    key = user[there] * items + item[there]
    order = np.argsort(key, kind="stable")
    row, key = there[order], key[order]
    new = np.ones(len(key), dtype=bool)
    new[1:] = key[1:] != key[:-1]
    first = np.flatnonzero(new)
    occurrence = np.arange(len(key)) - np.repeat(first, np.diff(np.append(first, len(key))))
    return row, key, occurrence
