"""Extra batch fields of objectives and tasks."""

from __future__ import annotations

from collections.abc import Mapping

from p5dist.data.histories import Histories
from p5dist.data.jagged import Array, Ints


class BatchFields:
    """Makes the arrays that one task reads from a batch beside histories and candidates; they are
    under the task's name in :attr:`p5dist.data.batch.Batch.fields`.

    Called in a thread beside the training step, on every worker for its own histories, which are
    sorted by falling length. The result must be a function of (seed, step, row, position), so that
    the losses do not depend on the number of workers.
    """

    def items(self, histories: Histories, step: int) -> Mapping[str, Ints]:
        """Item ids (any shape) whose vectors the task needs, by name of the field. The field holds
        their indices among the items of the batch, -1 for id 0."""
        return {}

    def arrays(self, histories: Histories, step: int, ids: Ints) -> Mapping[str, Array]:
        """Other fields by name.

        Args:
            ids: [U] the distinct item ids of the batch.
        """
        return {}
