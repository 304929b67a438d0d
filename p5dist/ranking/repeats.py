"""Baselines of users who come back to an item: their own items, the most recently had first.

On logs of shops most purchases are of an item that the user viewed or put into the cart before: a
model that does not rank above these baselines has only learned to repeat. With ``mask_seen`` no
item of the history can be ranked, which leaves the order of ids.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints, Jagged, offsets_of
from p5dist.ranking.sparse import rank_and_list_sparse
from p5dist.ranking.topk import Lists


class LastItem:
    """Ranks the items of the history by their last interaction, the latest first; then all others
    in the order of ids.

    Args:
        catalogue: the items that are ranked.
    """

    name = "last_item"
    fitted_on = "nothing: it repeats the history"

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def scores(self, histories: Histories) -> csr_array:
        """[B, L] float32: 1 + position, in the history, of the last interaction with each item."""
        key = histories.owner() * self.catalogue.largest + histories.item - 1
        order = np.argsort(key, kind="stable")  # the interactions with an item in the order of time
        last = order[np.diff(key[order], append=-1) != 0]
        row, column = np.divmod(key[last], self.catalogue.largest)
        offsets = offsets_of(np.bincount(row, minlength=len(histories)))
        values = (1 + histories.position()[last]).astype(np.float32)
        shape = len(histories), self.catalogue.largest
        return csr_array((values, column, offsets), shape=shape)

    def rank_and_list(
        self, histories: Histories, owner: Ints, target: Ints, k: int, *, seen: Jagged | None
    ) -> tuple[Ints, Lists]:
        """See :class:`.topk.Ranker`."""
        return rank_and_list_sparse(
            self.scores(histories), self.catalogue, owner, target, k, seen=seen
        )


class LastOfEvent(LastItem):
    """:class:`LastItem` of the interactions of one event, such as ``last_cart``.

    Args:
        catalogue: the items that are ranked.
        code: value of :attr:`.Histories.event`.
        event_name: name of the event in the job file.
    """

    def __init__(self, catalogue: Catalogue, code: int, event_name: str) -> None:
        super().__init__(catalogue)
        self.name = f"last_{event_name}"
        self.fitted_on = f"nothing: it repeats the history's {event_name} interactions"
        self._code = code

    def scores(self, histories: Histories) -> csr_array:
        """[B, L] float32: 1 + position, among the interactions of the event, of the last one with
        each item."""
        return super().scores(histories.where(histories.event == self._code))
