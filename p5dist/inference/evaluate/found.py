"""The results of all portions together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Array, Ints
from p5dist.inference.evaluate.audit_counts import AuditCounts
from p5dist.inference.evaluate.listed import (
    COUNTS,
    DIVERSITY,
    KEYS,
    LENGTHS,
    Listed,
    values_of,
)
from p5dist.inference.evaluate.score import (
    AUDIT,
    LEFT_OUT,
    LIST,
    LISTED,
    MEMORY,
    RANK,
    SKIPPED,
    TASK,
)
from p5dist.ranking.metrics import list_starts


@dataclass
class Found:
    """M targets in several lists.

    Args:
        ks: rising lengths of lists.
    """

    catalogue: Catalogue
    ks: tuple[int, ...]
    values: dict[str, Array] = field(default_factory=dict)
    """By column: [M], or as many as a task has examples; ``listed``: [lists]."""
    listed: dict[str, Listed] = field(default_factory=dict)
    """By ranker; the model is the first."""
    left_out: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    memory: int = 0
    """Bytes of the largest scoring process, measured after each portion."""
    audit: AuditCounts = field(default_factory=AuditCounts)

    def add(self, results: Iterable[pa.Table]) -> None:
        """Take in the results of :class:`.score.TargetScorer`, in the order of the data."""
        parts: dict[str, list[Array]] = {}
        lists = 0
        for result in results:
            self.skipped += result[SKIPPED][0].as_py()
            for name in result.column_names:
                kind, _, about = name.partition(":")
                if kind == KEYS:
                    self.listed.setdefault(about, Listed(self.ks)).read(result, about)
                elif kind == LEFT_OUT:
                    self.left_out[about] = self.left_out.get(about, 0) + result[name][0].as_py()
                elif kind == MEMORY:
                    self.memory = max(self.memory, result[name][0].as_py())
                elif kind == AUDIT:
                    self.audit = self.audit.merge(AuditCounts.from_json(result[name][0].as_py()))
                elif kind == LIST:
                    own = values_of(result, name)
                    parts.setdefault(name, []).append(own + lists)
                    lists += int(own.max(initial=-1)) + 1
                elif kind not in (LENGTHS, COUNTS, DIVERSITY, SKIPPED):
                    parts.setdefault(name, []).append(values_of(result, name))
        self.values = {name: np.concatenate(columns) for name, columns in parts.items()}

    @property
    def lists(self) -> int:
        """Number of lists that have a target: all."""
        of = self.values[LIST]
        return int(of[-1]) + 1 if len(of) else 0

    @property
    def users_of_lists(self) -> Ints:
        """[lists]"""
        users: Ints = self.values[c.USER][list_starts(self.values[LIST])]
        return users

    @property
    def items_of_lists(self) -> Ints:
        """[lists] number of listed items."""
        return self.values[LISTED]

    def ranks(self) -> dict[str, Ints]:
        """[M] ranks of the targets, by ranker."""
        columns = (name.partition(":") for name in self.values)
        return {about: self.rank(about) for kind, _, about in columns if kind == RANK}

    def rank(self, ranker: str) -> Ints:
        """[M] from 1, or MISSED."""
        return self.values[f"{RANK}:{ranker}"]

    def examples(self, path: str) -> dict[str, Array]:
        """The arrays of a task."""
        begin = f"{TASK}:{path}:"
        return {
            name.removeprefix(begin): values
            for name, values in self.values.items()
            if name.startswith(begin)
        }
