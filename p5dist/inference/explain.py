"""Why an item is recommended: the interactions without which it would be less likely.

An interaction is left out, the history is encoded again, and the fall of log p of the item is what
the interaction was worth; p is what ranks, the softmax of the model over the catalogue, mixed with
the item-to-item counts where the job does so. This is exact: nothing is linearised, and counts,
positions and times of the other interactions are those of the shorter history. All shorter
histories of a batch are encoded together. (Leaving out as explanation: Robnik-Šikonja and Kononenko
2008.)

Of an item, also the attributes are named that add to its score (:mod:`.attributed`).

A history has at most :data:`MOST` parts: the latest interactions each on its own, earlier ones
together in blocks of equal size, whose interactions share what the block was worth. So the work
grows with the number of parts, and not with the square of the length of long histories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from p5dist.config.output import Ranking
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Bools, Floats, Ints, Jagged, offsets_of
from p5dist.inference.attributed import AttributeVectors
from p5dist.inference.rankers import Vectors
from p5dist.ranking.interpolation import LogSum
from p5dist.ranking.mixture import Mixture
from p5dist.ranking.topk import placed

MOST = 100
_BLOCKS = 20  # of the earlier interactions of a long history
_ROWS = 2048  # shorter histories whose scores over the catalogue are computed at once


@dataclass(frozen=True)
class Reasons:
    """Of B histories with lists of k items."""

    share: Floats
    """[T, k] what each interaction contributes to each item of its history's list: its fall of log
    p, negative ones set to 0, divided by the sum over the history. The shares of an item sum to 1
    over the history, or are all 0 if no interaction raises the item."""
    counted: Floats
    """[B, k] share of the counts (item to item, returns) in p; 0 without counts."""
    attributes: tuple[str, ...] = ()
    """Names of the attributes that the model reads."""
    attributed: Floats | None = None
    """[B, k, attributes] see :meth:`.attributed.AttributeVectors.shares`"""

    def top(self, histories: Histories, most: int) -> tuple[Ints, Floats]:
        """The interactions with the largest shares in every item, by falling share, then the latest
        first: indices among the T interactions and shares [B, k, most]; -1 and 0 where no more
        interactions have a share."""
        owner, place = histories.owner(), np.arange(most)
        first, lengths = histories.offsets[:-1, None], histories.lengths[:, None]
        shape = (*self.counted.shape, most)
        index, share = np.full(shape, -1, dtype=np.int64), np.zeros(shape)
        for column in range(shape[1]):
            own = self.share[:, column]
            order = np.lexsort((-np.arange(len(own)), -own, owner))
            at = np.append(order, 0)[np.minimum(first + place, len(order))]
            worth = np.where(place < lengths, np.append(own, 0.0)[at], 0.0)
            index[:, column], share[:, column] = np.where(worth > 0, at, -1), worth
        return index, share


def reason_columns(
    reasons: Reasons, histories: Histories, listed: Bools, names: pa.Array, most: int
) -> list[pa.Array]:
    """The columns :data:`.columns.REASONS`, :data:`.columns.COUNTED` and
    :data:`.columns.ATTRIBUTES` of listed items.

    Args:
        listed: [B, k] items that have a row.
        names: external id of item id i + 1 at i.
        most: reasons of an item.
    """
    index, share = reasons.top(histories, most)
    index, share = index[listed], share[listed]
    there = index >= 0
    items = names.take(pa.array(histories.item[index[there]] - 1))
    values = pa.StructArray.from_arrays(
        [items.cast(pa.string()), pa.array(share[there].astype(np.float32))],
        fields=list(c.REASON),
    )
    offsets = offsets_of(there.sum(1)).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), values)
    counted = pa.array(reasons.counted[listed].astype(np.float32))
    return [lists, counted, _attribute_column(reasons, listed)]


def _attribute_column(reasons: Reasons, listed: Bools) -> pa.Array:
    """The attributes with a share, by falling share."""
    size = int(listed.sum())
    share = np.zeros((size, 0)) if reasons.attributed is None else reasons.attributed[listed]
    order = np.argsort(-share, axis=1, kind="stable")
    share = np.take_along_axis(share, order, axis=1)
    there = share > 0
    names = pa.array(reasons.attributes, pa.string()).take(pa.array(order[there]))
    values = pa.StructArray.from_arrays(
        [names, pa.array(share[there].astype(np.float32))], fields=list(c.ATTRIBUTE)
    )
    offsets = offsets_of(there.sum(1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


class Explainer:
    """Explains lists of a model.

    Args:
        model: ranks by inner products.
        mixture: of model and counts; None: the job ranks by the model alone.
        held: bytes of item vectors that may stay in memory.
        attributes: of the model's items; None: items are not explained by attributes.
    """

    def __init__(
        self,
        model: Vectors,
        mixture: Mixture | None,
        held: int = 0,
        attributes: AttributeVectors | None = None,
    ) -> None:
        self._model, self._mixture, self._attributes = model, mixture, attributes
        self._items = model.items(held)

    @classmethod
    def of(
        cls,
        config: Ranking,
        model: Vectors,
        mixture: Mixture | None,
        attributes: AttributeVectors | None,
    ) -> Explainer:
        """Explains what the job ranks by.

        Args:
            config: the section ``ranking`` of the job.
        """
        return cls(model, mixture, int(config.memory * (1 << 30)) // 2, attributes)

    def __call__(self, histories: Histories, lists: Ints) -> Reasons:
        """
        Args:
            histories: [B] with T interactions.
            lists: [B, k] item ids; 0 after the last item of a shorter list.
        """
        parts = _parts_of(histories)
        whole, counted = self._log_p(histories, lists)
        without, _ = self._log_p(_shorter(histories, parts), lists[parts.owner])
        fall = np.maximum(whole[parts.owner] - without, 0.0)
        fall[lists[parts.owner] == 0] = 0.0
        total = np.zeros(lists.shape)
        np.add.at(total, parts.owner, fall)
        share = fall / np.where(total > 0, total, 1.0)[parts.owner]
        share = share / parts.size[:, None]
        if self._attributes is None:
            return Reasons(share[parts.of], counted)
        attributed = self._attributed(self._attributes, histories, lists)
        return Reasons(share[parts.of], counted, self._attributes.names, attributed)

    def _attributed(self, parts: AttributeVectors, histories: Histories, lists: Ints) -> Floats:
        """[B, k, attributes]"""
        found = [np.zeros((0, lists.shape[1], len(parts.names)))]
        for begin in range(0, len(histories), _ROWS):
            some = histories.between(begin, min(begin + _ROWS, len(histories)))
            items = np.maximum(lists[begin : begin + _ROWS], 1)
            distinct, place = np.unique(items, return_inverse=True)
            users = self._model.user_vectors(some)
            vectors = self._model.item_vectors(distinct)
            own = vectors[placed(place.reshape(items.shape), vectors.device)]
            found.append(parts.shares(users, items, own))
        return np.concatenate(found)

    def log_p(self, histories: Histories, items: Ints) -> Floats:
        """[B, k] log p of the items [B, k]; id 0 has -inf."""
        return self._log_p(histories, items)[0]

    def _log_p(self, histories: Histories, items: Ints) -> tuple[Floats, Floats]:
        """As :meth:`log_p`; and the share of the counts in p."""
        found = [
            self._some(histories.between(begin, min(begin + _ROWS, len(histories))),
                       items[begin : begin + _ROWS])
            for begin in range(0, len(histories), _ROWS)
        ]  # fmt: skip
        nothing = np.zeros((0, items.shape[1]))
        return (
            np.concatenate([nothing, *(log_p for log_p, _ in found)]),
            np.concatenate([nothing, *(share for _, share in found)]),
        )

    @torch.no_grad()
    def _some(self, histories: Histories, items: Ints) -> tuple[Floats, Floats]:
        users = self._model.user_vectors(histories)
        distinct, place = np.unique(items, return_inverse=True)
        vectors = self._model.item_vectors(np.maximum(distinct, 1))
        own = vectors[placed(place.reshape(items.shape), users.device)]
        scores = torch.einsum("bd,bkd->bk", users.double(), own.double())
        log_sum = self._log_sum(users).double()
        log_p = (scores - log_sum.unsqueeze(1)).cpu().numpy()
        counted = np.zeros(items.shape)
        if self._mixture is not None:
            log_p, counted = self._mixed(histories, items, log_p)
        log_p[items == 0], counted[items == 0] = -np.inf, 0.0
        return log_p, counted

    def _mixed(self, histories: Histories, items: Ints, log_p: Floats) -> tuple[Floats, Floats]:
        assert self._mixture is not None
        remembered = self._mixture.remembered(histories)
        total = np.asarray(remembered.sum(axis=1), dtype=np.float64).reshape(-1, 1)
        rows = np.arange(len(items))[:, None]
        asked = remembered[np.broadcast_to(rows, items.shape), np.maximum(items - 1, 0)]
        found = np.asarray(asked.todense() if hasattr(asked, "todense") else asked)
        by_counts = found.astype(np.float64)
        by_model = np.exp(log_p) * (1 - total)
        p = by_counts + by_model
        return np.log(np.maximum(p, 1e-300)), by_counts / np.maximum(p, 1e-300)

    def _log_sum(self, users: Tensor) -> Tensor:
        """[b] logarithm of the sum of exp(score) over the catalogue."""
        found, room = LogSum(len(users), users.device), torch.empty(0, device=users.device)
        for first, vectors in self._items:
            scores = users @ vectors.T
            absent = self._items.catalogue.absent
            begin, end = np.searchsorted(absent, (first, first + len(vectors)))
            scores.index_fill_(1, placed(absent[begin:end] - first, users.device), -torch.inf)
            room = room if room.shape == scores.shape else torch.empty_like(scores)
            found.add(scores, room)
        return found.value()


@dataclass(frozen=True)
class _Parts:
    """Parts of histories, each of which is left out once."""

    owner: Ints
    """[P] history of the part"""
    of: Ints
    """[T] part of each interaction"""
    size: Ints
    """[P] interactions of the part"""


def _parts_of(histories: Histories) -> _Parts:
    lengths, position = histories.lengths, histories.position()
    length = lengths[histories.owner()]
    alone = np.where(length > MOST, MOST - _BLOCKS, length)
    earlier = length - alone
    # Interactions before the latest ones lie in _BLOCKS blocks; every other one is a part.
    inside = np.where(
        position < earlier,
        position * _BLOCKS // np.maximum(earlier, 1),
        position - earlier + np.where(earlier > 0, _BLOCKS, 0),
    )
    number = np.minimum(lengths, MOST)
    first = offsets_of(number)[:-1]
    of = first[histories.owner()] + inside
    count = int(number.sum())
    owner = np.repeat(np.arange(len(lengths)), number)
    return _Parts(owner, of, np.maximum(np.bincount(of, minlength=count), 1))


def _shorter(histories: Histories, parts: _Parts) -> Histories:
    """[P] every history once for each of its parts, without that part."""
    copies = histories.take(parts.owner)
    part = Jagged(histories.offsets, parts.of).take(parts.owner).values
    return copies.where(part != copies.owner())
