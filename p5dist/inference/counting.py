"""Counts of the training interactions of all users: tasks over portions of the shards, then over
ranges of items, so that no process holds all item pairs.

Every task counts the interactions of its portions, and spills the item pairs to files when they
have become many. Other tasks then add up the spilled pairs of a range of items and make the
weights of the item-to-item counts. The tasks are cut at the same places for any number of workers,
so that the sums have the same last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Floats, Ints
from p5dist.data.reader import Portion, ShardReader
from p5dist.environment.workers import Workers
from p5dist.ranking.item_to_item import pair_counts, weights_of
from p5dist.ranking.list_metrics import user_counts
from p5dist.ranking.popularity import recent_counts
from p5dist.ranking.returns import count_returns
from p5dist.storage import Folder
from p5dist.storage.arrays import LocalCopies, write_array, write_joined

PAIRS_HELD = 1 << 24
"""Item pairs that a task holds (24 bytes each, some of them twice)."""
HISTORIES_READ = 65_536
_INTERACTIONS_OF_A_TASK = 2_000_000
_ARRAYS = ("indptr", "indices", "data")


@dataclass(frozen=True)
class Counted:
    """Counts of training interactions."""

    count: Ints
    """[L] interactions of each id 1…L"""
    users: Ints
    """[L] users with the item"""
    recent: Ints
    """[L] interactions in the last days; zeros for a log without times"""
    all_users: int
    """Users with a training interaction."""
    interactions: int
    returns: Ints | None = None
    """Sums of :func:`.returns.count_returns`; None: not counted"""


@dataclass(frozen=True)
class Counting:
    """What is counted.

    Args:
        reader: of the shards; with the column timestamp if ``days``.
        scratch: folder for intermediate files.
        sessions: pairs lie in one session.
        days: length of the window of the recent interactions; None: the log has no times.
        share: pairs and returns are counted for this share of the histories, the first ones in the
            order of the shards (a random sample, since users are spread by a hash).
        targets: by code of the event, whether users come back with it; the reader has the column
            event, if the log has events. None: returns are not counted.
        histories_read: histories in memory at once.
        pairs_held: item pairs in memory at once.
    """

    reader: ShardReader
    scratch: Folder
    sessions: bool
    days: int | None
    share: float
    targets: tuple[bool, ...] | None = None
    histories_read: int = field(default_factory=lambda: HISTORIES_READ)
    pairs_held: int = field(default_factory=lambda: PAIRS_HELD)
    copies: LocalCopies = field(default_factory=LocalCopies, repr=False)

    def run(self, workers: Workers) -> Counted:
        """Count interactions, and spill the item pairs."""
        end = None
        tasks = self._tasks()
        if self.days is not None:
            times = workers.results(_last_time, [(self, portions) for portions in tasks])
            end = max((time for _, time in times), default=0)
        calls = [(self, number, portions, end) for number, portions in enumerate(tasks)]
        sums = np.zeros((3, self.reader.manifest.items), dtype=np.int64)
        users, returns = 0, None
        for _, (number, own, returned) in workers.results(_count, calls):
            sums += self.copies.mapped(self.scratch / f"sums-{number:05d}.npy")
            users += own
            returns = returned if returns is None else returns + returned
        count, with_item, recent = sums
        return Counted(count, with_item, recent, users, int(count.sum()), returns)

    def pairs(self) -> list[Spill]:
        """The spilled item pairs, in the order of the data."""
        names = sorted(n for n in self.scratch.children() if n.startswith("forward-"))
        keys = sorted({tuple(name.split("-")[1:3]) for name in names})
        return [Spill(self.scratch, "-".join(key), self.copies) for key in keys]

    def _tasks(self) -> list[list[Portion]]:
        """Portions of about _INTERACTIONS_OF_A_TASK interactions together."""
        manifest = self.reader.manifest
        mean = manifest.rows_kept / max(manifest.histories, 1)
        tasks: list[list[Portion]] = []
        size = np.inf
        for portion in self.reader.portions(self.histories_read):
            if size >= _INTERACTIONS_OF_A_TASK:
                tasks.append([])
                size = 0
            tasks[-1].append(portion)
            size += portion.rows * mean
        return tasks


@dataclass(frozen=True)
class Spill:
    """Item pairs [L, L] of some histories on disk, and their transpose."""

    folder: Folder
    key: str
    copies: LocalCopies

    def write(self, forward: csr_array) -> None:
        """Write the pairs."""
        for name, matrix in (("forward", forward), ("backward", forward.T.tocsr())):
            for array in reversed(_ARRAYS):
                values = getattr(matrix, array)
                values = values.astype(np.int64) if array == "indptr" else values
                write_array(self.folder / f"{name}-{self.key}-{array}.npy", values)

    def rows(self, name: str, begin: int, end: int) -> csr_array:
        """[end - begin, L] rows of the pairs (``forward``) or of the transpose (``backward``)."""
        indptr, indices, data = (
            self.copies.mapped(self.folder / f"{name}-{self.key}-{array}.npy") for array in _ARRAYS
        )
        first, last = int(indptr[begin]), int(indptr[end])
        offsets = np.asarray(indptr[begin : end + 1]) - first
        part = np.asarray(data[first:last]), np.asarray(indices[first:last]), offsets
        return csr_array(part, shape=(end - begin, len(indptr) - 1))

    def pairs_of_items(self) -> Ints:
        """[L] entries of each row of both together."""
        forward, backward = (
            np.diff(self.copies.mapped(self.folder / f"{name}-{self.key}-indptr.npy"))
            for name in ("forward", "backward")
        )
        found: Ints = forward + backward
        return found


def added_rows(spills: Sequence[Spill], name: str, begin: int, end: int, items: int) -> csr_array:
    """[end - begin, items] the sum of these rows over all spills."""
    total = csr_array((end - begin, items), dtype=np.float64)
    for spill in spills:
        total = total + spill.rows(name, begin, end)
    return total


def weight_ranges(spills: list[Spill], count: Ints) -> list[tuple[int, int]]:
    """Ranges of items, each a task of :func:`write_range`."""
    items = len(count)
    size = sum((spill.pairs_of_items() for spill in spills), np.zeros(items, dtype=np.int64))
    cuts = np.flatnonzero(np.diff(np.cumsum(size) // PAIRS_HELD, prepend=-1))
    return list(pairwise([*cuts.tolist(), items])) if items else []


def join_ranges(out: Folder, scratch: Folder, ranges: int) -> None:
    """Write the weights of the item-to-item counts [L, L] as ``weight-<array>.npy``, the arrays of
    a csr_array with float32 values, from those of all ranges."""
    copies = LocalCopies()

    def parts(array: str) -> list[Any]:
        names = [f"weight-{number:05d}-{array}.npy" for number in range(ranges)]
        return [copies.mapped(scratch / name) for name in names]

    lengths = np.concatenate([np.zeros(1, np.int64), *parts("lengths")])
    entries = int(lengths.sum())
    write_array(out / "weight-indptr.npy", np.cumsum(lengths))
    write_joined(out / "weight-indices.npy", parts("indices"), entries, np.int32)
    write_joined(out / "weight-data.npy", parts("data"), entries, np.float32)


def read_weights(folder: Folder, copies: LocalCopies) -> csr_array:
    """What :func:`join_ranges` wrote, mapped."""
    indptr, indices, data = (copies.mapped(folder / f"weight-{name}.npy") for name in _ARRAYS)
    items = len(indptr) - 1
    weight = csr_array((items, items), dtype=np.float32)
    weight.indptr, weight.indices, weight.data = indptr, indices, data
    return weight


def _last_time(counting: Counting, portions: list[Portion]) -> int:
    """Time of the last training interaction, microseconds."""
    ends = [0]
    for portion in portions:
        trained = _training(counting.reader.users(portion).histories)
        ends.append(int(trained.timestamp.max(initial=0)))
    return max(ends)


def _count(
    counting: Counting, number: int, portions: list[Portion], end: int | None
) -> tuple[int, int, Ints | None]:
    """Write the counts and pairs of some portions; (number, users with training interactions,
    returns)."""
    items = counting.reader.manifest.items
    sums = np.zeros((3, items), dtype=np.int64)
    users = spilled = 0
    returns = None
    pairs = csr_array((items, items), dtype=np.float64)
    most = counting.share * counting.reader.manifest.histories
    first = sum(
        p.rows for p in counting.reader.portions(counting.histories_read)[: portions[0].number]
    )
    for portion in portions:
        whole = counting.reader.users(portion)
        trained = _training(whole.histories)
        sums[0] += np.bincount(trained.item - 1, minlength=items)
        sums[1] += user_counts(trained, items)
        if end is not None and counting.days is not None:
            sums[2] += recent_counts(trained, items, end, counting.days)
        users += int((trained.lengths > 0).sum())
        if first < most and counting.targets is not None:
            found = count_returns(trained, np.asarray(counting.targets))
            returns = found if returns is None else returns + found
        if first < most:
            pairs = pairs + pair_counts(
                _training(whole.sessions()) if counting.sessions else trained, items
            )
        first += portion.rows
        if pairs.nnz > counting.pairs_held:
            Spill(counting.scratch, f"{number:05d}-{spilled:05d}", counting.copies).write(pairs)
            pairs, spilled = csr_array((items, items), dtype=np.float64), spilled + 1
    if pairs.nnz:
        Spill(counting.scratch, f"{number:05d}-{spilled:05d}", counting.copies).write(pairs)
    write_array(counting.scratch / f"sums-{number:05d}.npy", sums)
    if counting.targets is not None and returns is None:
        returns = count_returns(Histories.empty(), np.asarray(counting.targets))
    return number, users, returns


def write_range(
    spills: list[Spill], count: Ints, scratch: Folder, number: int, begin: int, end: int
) -> None:
    """Write the weights of a range of items."""
    forward, backward = (
        added_rows(spills, name, begin, end, len(count)) for name in ("forward", "backward")
    )
    weight = weights_of(slice(begin, end), forward, backward, count)
    found: dict[str, Floats | Ints] = {
        "lengths": np.diff(weight.indptr).astype(np.int64),
        "indices": weight.indices.astype(np.int32),
        "data": weight.data.astype(np.float32),
    }
    for array, values in found.items():
        write_array(scratch / f"weight-{number:05d}-{array}.npy", values)


def _training(histories: Histories) -> Histories:
    return histories.where(histories.split == c.TRAIN)
