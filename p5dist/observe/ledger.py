"""The ledger of a training stage: which worker trained on which rows at which step.

``<stage>/ledger/<attempt>-<start>-<rank>-<last>.parquet`` has the columns ``step`` and ``row``: the
rows that a worker trained on between two checkpoints. It is written before the checkpoint is
complete. An attempt is one start of the workers, which continues after ``start`` steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from p5dist.data.jagged import Ints
from p5dist.observe.events import Callback, Event, Saving, Trained
from p5dist.storage import Folder

LEDGER = "ledger"
STEP, ROW = "step", "row"


class LedgerWriter(Callback):
    """Collects the rows that one worker trains on, and writes them when a checkpoint begins.

    Args:
        stage: folder of the stage.
        attempt: name of this start of the workers; later attempts sort after earlier ones.
        start: steps taken before this attempt.
        rank: rank of the worker.
    """

    def __init__(self, stage: Folder, *, attempt: str, start: int, rank: int) -> None:
        self._folder = stage / LEDGER
        self._name = f"{attempt}-{start:08d}-{rank:05d}"
        self._steps: list[Ints] = []
        self._rows: list[Ints] = []

    def on(self, event: Event) -> None:
        match event:
            case Trained(step, rows):
                self._steps.append(np.full(len(rows), step))
                self._rows.append(rows)
            case Saving(step):
                self._flush(step)

    def _flush(self, step: int) -> None:
        """Write all rows up to step ``step``."""
        if not self._steps:
            return
        table = pa.table({STEP: np.concatenate(self._steps), ROW: np.concatenate(self._rows)})
        (self._folder / f"{self._name}-{step:08d}.parquet").write_table(table)
        self._steps, self._rows = [], []


@dataclass(frozen=True)
class Attempt:
    """The ledger files of all workers of one attempt."""

    name: str
    start: int
    files: tuple[Folder, ...]

    def read(self, first: int, last: int) -> tuple[Ints, Ints]:
        """Steps and rows [n] of the steps ``first`` … ``last - 1``."""
        steps, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for file in self.files:
            if int(file.name.removesuffix(".parquet").split("-")[3]) <= first:
                continue
            table = file.read_table()
            step, row = table[STEP].to_numpy(), table[ROW].to_numpy()
            inside = (step >= first) & (step < last)
            steps.append(step[inside])
            rows.append(row[inside])
        return np.concatenate(steps), np.concatenate(rows)


def attempts(stage: Folder) -> list[Attempt]:
    """All attempts of a stage that wrote ledger files, in order of time."""
    files: dict[tuple[str, int], list[Folder]] = {}
    for name in (stage / LEDGER).children():
        attempt, start, *_ = name.split("-")
        files.setdefault((attempt, int(start)), []).append(stage / LEDGER / name)
    return [Attempt(name, start, tuple(found)) for (name, start), found in sorted(files.items())]


def committed(stage: Folder, first: int, last: int) -> tuple[Ints, Ints]:
    """Steps and rows [n] of the committed steps ``first`` … ``last - 1``. Rows of steps that a
    later attempt repeated are excluded."""
    found = attempts(stage)
    steps, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    until = last
    for attempt in reversed(found):
        step, row = attempt.read(max(first, attempt.start), until)
        steps.append(step)
        rows.append(row)
        until = min(until, attempt.start)
    return np.concatenate(steps), np.concatenate(rows)
