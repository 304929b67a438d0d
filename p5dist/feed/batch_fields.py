"""Extra batch fields of objectives and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from p5dist.data.histories import Histories
from p5dist.data.jagged import Array, Bools, Ints


@dataclass(frozen=True)
class Collated:
    """The parts of a batch that are known when its extra fields are made."""

    histories: Histories
    """B histories with T interactions, sorted by falling length."""
    step: int
    """Global step."""
    ids: Ints
    """[U] distinct item ids of the batch, rising."""
    token: Ints
    """[T] index into ``ids``"""
    predicted: Bools | None
    """[T] chosen by a masked objective; None: no objective hides interactions."""
    drawn: Ints | None
    """[C] index into ``ids`` of the drawn candidates; None: the loss compares with all items, or
    there is no loss over the catalogue."""
    asked: Mapping[str, Ints]
    """By name what :meth:`BatchFields.items` asked for, as indices into ``ids``, -1 for id 0."""


class BatchFields:
    """Makes the arrays that one task reads from a batch beside histories and candidates; they are
    under the task's name in :attr:`p5dist.data.batch.Batch.fields`.

    Which interactions predict what is decided here and not in the module, since sizes that depend
    on the data would make the step wait for the device (see :mod:`p5dist.tasks.predictions`).

    Called in a thread beside the training step, on every worker for its own histories, which are
    sorted by falling length. The result must be a function of (seed, step, row, position), so that
    the losses do not depend on the number of workers.
    """

    on_host: tuple[str, ...] = ()
    """Names of arrays that stay NumPy arrays in memory of the host: sizes and limits of slices."""

    def items(self, histories: Histories, step: int) -> Mapping[str, Ints]:
        """Item ids (any shape) whose vectors the task needs, by name."""
        return {}

    def arrays(self, batch: Collated) -> Mapping[str, Array]:
        """The fields by name; by default the indices of :meth:`items`."""
        return batch.asked
