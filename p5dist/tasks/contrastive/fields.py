"""The last item of each history, which tells histories apart that lead to the same item."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from p5dist.data.jagged import Array
from p5dist.feed.batch_fields import BatchFields, Collated


class LastItems(BatchFields):
    """``last``: [B] item id at the end of each history; 0: the history is empty."""

    def arrays(self, batch: Collated) -> Mapping[str, Array]:
        histories = batch.histories
        filled = histories.lengths > 0
        last = np.zeros(len(histories), dtype=np.int64)
        last[filled] = histories.item[histories.offsets[1:][filled] - 1]
        return {"last": last}
