"""Where the module finds the two views of a history."""

from __future__ import annotations

from collections.abc import Mapping

from p5dist.data.jagged import Array
from p5dist.feed.batch_fields import BatchFields, Collated


class HistoryPairs(BatchFields):
    """``last``: [B] item id at the end of each history (0: the history is empty)."""

    def arrays(self, batch: Collated) -> Mapping[str, Array]:
        histories = batch.histories
        ends = histories.offsets[1:]
        filled = histories.lengths > 0
        last = ends * 0
        last[filled] = histories.item[ends[filled] - 1]
        return {"last": last}
