"""Histories → batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from p5dist.data.attributes import Attributes
from p5dist.data.batch import ITEM_FEATURE, USER_FEATURE, Batch, Bucket
from p5dist.data.histories import Histories
from p5dist.data.jagged import Bools, Ints, offsets_of
from p5dist.data.randomness import Stream, hashed
from p5dist.data.supplied import Supplied
from p5dist.feed.batch_fields import BatchFields, Collated
from p5dist.feed.masking import Hidden, Masking, known_times, with_masked_next
from p5dist.feed.views import Views


@dataclass(frozen=True)
class Collate:
    """Histories → Batch.

    Args:
        seed: of the job.
        item_attributes, user_attributes: attribute tables, or None where the model has none.
        item_vectors, user_vectors: supplied vectors, or None where the model reads none.
        masking: hides interactions from the encoder in training.
        fields: by task the extra batch fields of training.
        masked_next: put a hidden interaction at the end of every history, at which a masked model
            predicts the next item.
    """

    seed: int
    item_attributes: Attributes | None = None
    user_attributes: Attributes | None = None
    masking: Masking | None = None
    fields: Mapping[str, BatchFields] = field(default_factory=dict)
    masked_next: bool = False
    views: Views | None = None
    """Of training."""
    item_vectors: Supplied | None = None
    user_vectors: Supplied | None = None
    unseen: Bools | None = None
    """[items + 1] items whose id row is never trained: they are looked up as padding, so that only
    their attributes contribute."""

    def for_inference(self, *, masked_next: bool) -> Collate:
        """The same without masking and extra fields."""
        return replace(self, masking=None, fields={}, views=None, masked_next=masked_next)

    def for_stored_vectors(self) -> Collate:
        """The same for a model that reads the vectors of items and users from files."""
        return replace(
            self, item_attributes=None, user_attributes=None, item_vectors=None, user_vectors=None,
            unseen=None,
        )  # fmt: skip

    def __call__(
        self,
        histories: Histories,
        *,
        step: int = 0,
        candidates: Ints | None = None,
        candidate_log_q: npt.NDArray[np.float32] | None = None,
        extra_items: Ints | None = None,
    ) -> Batch:
        """The batch of ``histories`` at global step ``step``.

        Args:
            candidates: [C] item ids; none where the loss needs none.
            candidate_log_q: [C]
            extra_items: [M] further item ids to look up; their indices come after the candidates.
        """
        if self.masking is not None:
            histories = self.masking.cut(histories, step)
        histories = histories.take(np.argsort(-histories.lengths, kind="stable"))
        hidden: Hidden | None = None
        if self.masked_next:
            histories, hidden = with_masked_next(histories)
        elif self.masking is not None:
            hidden = self.masking(histories, step)
        asked = {
            (task, name): items
            for task, makes in self.fields.items()
            for name, items in makes.items(histories, step).items()
        }
        ids, (token, seen, *rest) = _distinct(
            histories.item,
            None if hidden is None else hidden.shown,
            candidates,
            extra_items,
            *(items.reshape(-1) for items in asked.values()),
        )
        time = histories.timestamp
        if hidden is not None:
            time = known_times(histories, hidden.hidden)
        found: dict[str, dict[str, Ints]] = {task: {} for task in self.fields}
        for ((task, name), wanted), index in zip(asked.items(), rest[2:], strict=True):
            found[task][name] = np.where(wanted > 0, index.reshape(wanted.shape), -1)
        predicted = None if hidden is None else hidden.predicted
        drawn = None if candidate_log_q is None else rest[0]
        made = {
            task: makes.arrays(Collated(histories, step, ids, token, predicted, drawn, found[task]))
            for task, makes in self.fields.items()
        }
        listed = np.concatenate(rest[:2])
        items, item_attributes, item_vectors = self.item_lookup(ids)
        users, user_vectors = self.user_lookup(histories.user)
        return Batch(
            items=items,
            item_attributes=item_attributes,
            users=users,
            item_vectors=item_vectors,
            user_vectors=user_vectors,
            token=torch.from_numpy(token),
            seen=torch.from_numpy(token if hidden is None else seen),
            candidates=torch.from_numpy(listed),
            candidates_are_items=np.array_equal(listed, np.arange(len(ids))),
            candidate_log_q=None if candidate_log_q is None else torch.from_numpy(candidate_log_q),
            timestamp=torch.from_numpy(np.ascontiguousarray(time)),
            **self._arranged(histories, (Stream.DROPOUT, step)),
            views=self._views(histories, step, ids),
            item_key=torch.from_numpy(
                hashed(self.seed, Stream.ITEM_DROPOUT, step, ids).view(np.int64)
            ),
            hidden=None if hidden is None else torch.from_numpy(hidden.hidden),
            fields={
                task: {
                    name: values if name in self.fields[task].on_host else torch.from_numpy(values)
                    for name, values in arrays.items()
                }
                for task, arrays in made.items()
            },
        )

    def _arranged(self, histories: Histories, drawn_for: tuple[int, ...]) -> dict[str, Any]:
        """The fields of a batch that say which interaction is where, and those of single
        interactions.

        Args:
            histories: of falling length.
            drawn_for: coordinates of the keys of dropout.
        """
        lengths, position = histories.lengths, histories.position()
        buckets, slot = make_buckets(lengths, position)
        key = hashed(self.seed, *drawn_for, np.repeat(histories.row, lengths), position)
        return {
            "owner": torch.from_numpy(histories.owner()),
            "position": torch.from_numpy(position),
            "offsets": torch.from_numpy(histories.offsets),
            "ends": torch.from_numpy(histories.offsets[1:][lengths > 0] - 1),
            "event": torch.from_numpy(histories.event.astype(np.int64)),
            "rating": torch.from_numpy(np.ascontiguousarray(histories.rating)),
            "dropout_key": torch.from_numpy(key.view(np.int64)),
            "slot": torch.from_numpy(slot),
            "buckets": buckets,
            "histories": len(histories),
            "rows": histories.row,
        }

    def _views(self, histories: Histories, step: int, ids: Ints) -> tuple[Batch, ...]:
        """The views of a batch with the items ``ids``; they look nothing up themselves."""
        made = []
        none = torch.zeros(0, dtype=torch.int64)
        nothing = _kjt([ITEM_FEATURE], np.zeros(0, np.int64), np.zeros(1, np.int64), 1)
        for number, view in enumerate(() if self.views is None else self.views(histories, step)):
            order = np.argsort(-view.lengths, kind="stable")
            view = view.take(order)
            token = torch.from_numpy(np.searchsorted(ids, view.item))
            made.append(
                Batch(
                    items=nothing,
                    item_attributes=None,
                    users=nothing,
                    token=token,
                    seen=token,
                    candidates=none,
                    candidates_are_items=False,
                    candidate_log_q=None,
                    timestamp=torch.from_numpy(np.ascontiguousarray(view.timestamp)),
                    item_key=none,
                    of=torch.from_numpy(order),
                    **self._arranged(view, (Stream.VIEW_DROPOUT, step, number)),
                )
            )
        return tuple(made)

    def item_lookup(
        self, ids: Ints, first: int = 1
    ) -> tuple[KeyedJaggedTensor, KeyedJaggedTensor | None, Tensor | None]:
        """What :class:`.tables.ItemTables` looks up for the item ids ``ids`` [U].

        Args:
            first: the table has the padding row and then the rows from id ``first`` on.
        """
        rows = ids if self.unseen is None else np.where(self.unseen[ids], 0, ids)
        attributes = None
        if self.item_attributes is not None:
            names = list(self.item_attributes.names)
            attributes = _kjt(names, *self.item_attributes.of(ids), len(ids))
        rows = _rows_from(rows, first)
        items = _kjt([ITEM_FEATURE], rows, np.asarray([len(ids)]), 1)
        return items, attributes, _of(self.item_vectors, ids)

    def user_lookup(self, ids: Ints, first: int = 1) -> tuple[KeyedJaggedTensor, Tensor | None]:
        """What :class:`.tables.UserTables` looks up for the user ids ``ids`` [B]; as
        :meth:`item_lookup`."""
        users = len(ids)
        names, values = [USER_FEATURE], _rows_from(ids, first)
        lengths = np.append(np.ones(users, dtype=np.int64), 0)
        if self.user_attributes is not None:
            bags, bag_lengths = self.user_attributes.of(ids)
            names += self.user_attributes.names
            values = np.concatenate([values, bags])
            padded = np.zeros((len(names) - 1, users + 1), dtype=np.int64)
            padded[:, :users] = bag_lengths.reshape(len(names) - 1, users)
            lengths = np.concatenate([lengths, padded.reshape(-1)])
        return _kjt(names, values, lengths, users + 1), _of(self.user_vectors, ids)


def _of(supplied: Supplied | None, ids: Ints) -> Tensor | None:
    return None if supplied is None else torch.from_numpy(supplied.of(ids))


def _rows_from(ids: Ints, first: int) -> Ints:
    """Rows of ids in a table that has row 0 and the rows from id ``first`` on."""
    return ids if first == 1 else np.where(ids > 0, ids - first + 1, 0)


def _distinct(*parts: Ints | None) -> tuple[Ints, list[Ints]]:
    """The distinct ids of all parts, rising, and the index of each part's entries among them."""
    given = [np.zeros(0, np.int64) if ids is None else ids for ids in parts]
    ids, index = np.unique(np.concatenate(given), return_inverse=True)
    if len(ids) == 0:
        ids = np.zeros(1, dtype=np.int64)  # padding: the exchange needs one bag
    return ids, np.split(index, np.cumsum([len(part) for part in given])[:-1])


def make_buckets(
    lengths: Ints, position: Ints, *, fill: float = 0.8
) -> tuple[tuple[Bucket, ...], Ints]:
    """Cut histories of falling length [B] into buckets in which the shortest has at least ``fill``
    of the longest.

    Returns:
        The buckets, and for every interaction [T] its slot ``begin of the bucket's area + history
        in bucket · length + position``.
    """
    buckets: list[Bucket] = []
    first_slot = np.zeros(len(lengths), dtype=np.int64)
    offsets = offsets_of(lengths)
    begin = area = 0
    end_of_all = int(np.searchsorted(-lengths, 0, side="left"))  # empty histories have no bucket
    while begin < end_of_all:
        longest = int(lengths[begin])
        # One history of few interactions is not worth a bucket of its own.
        shortest = int(fill * longest) if longest > 16 else 1
        end = min(int(np.searchsorted(-lengths, -shortest, side="right")), end_of_all)
        first_slot[begin:end] = area + longest * np.arange(end - begin)
        tokens = slice(int(offsets[begin]), int(offsets[end]))
        end_of_area = area + longest * (end - begin)
        buckets.append(Bucket(tokens, end - begin, longest, slice(area, end_of_area)))
        begin, area = end, end_of_area
    return tuple(buckets), np.repeat(first_slot, lengths) + position


def _kjt(keys: list[str], values: Ints, lengths: Ints, stride: int) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=keys,
        values=torch.from_numpy(np.ascontiguousarray(values)),
        lengths=torch.from_numpy(lengths.astype(np.int32)),
        stride=stride,
    )
