"""Rows of embedding tables that are carried over from a run with another vocabulary.

Rows are matched by external ids and read in blocks from where they lie; a new item gets the mean of
the carried rows that share its attribute values, or if there are none the mean of all rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from p5dist.checkpoint.pieces import Piece, pieces_of
from p5dist.checkpoint.shard_files import Entry, read_rows
from p5dist.data import columns as c
from p5dist.data.jagged import Ints
from p5dist.data.labels import AttributeLabels
from p5dist.storage import Folder

ITEMS = "model.backbone.items.ids.embeddings.item.weight"
"""Name in a checkpoint of the item table."""
Saved = list[tuple[Folder, Entry]]


def carried_rows(name: str, before: Folder, now: Folder, *, same_hash: bool) -> Ints | None:
    """[rows] row of the source for each row of a table, -1 where it has none; None where the
    vocabularies are equal, or the tensor is no table.

    Args:
        before, now: prepare folders.
        same_hash: item ids are the same function of external ids in both.
    """
    if ".embeddings." not in name and ".embedding_bags." not in name:
        return None
    # Tables are named item, item_<attribute>, user, user_<attribute>.
    side, _, attribute = name.split(".")[-2].partition("_")
    if before == now or (same_hash and name == ITEMS):
        return None
    file = f"vocabulary/{side}.{attribute}.parquet" if attribute else f"vocabulary/{side}.parquet"
    if not (before / file).exists() or not (now / file).exists():  # bins of numbers have none
        return None
    then, here = ((f / file).read_table([c.EXTERNAL_ID])[c.EXTERNAL_ID] for f in (before, now))
    if then.equals(here):
        return None
    index = pc.index_in(here.combine_chunks(), value_set=then.combine_chunks(), skip_nulls=True)
    row = np.asarray(pc.fill_null(index, -2)).astype(np.int64) + 1
    return np.concatenate([[0], row])


def copy_rows(
    value: Any,
    name: str,
    saved: Saved,
    rows: Ints,
    labels: AttributeLabels | None,
    *,
    means: bool = True,
) -> None:
    """Fill this worker's pieces of a table: row i from row ``rows[i]`` of the saved table; -1: from
    the mean of the carried rows. Rows beyond ``rows`` keep their values.

    Args:
        means: False: new rows keep their values, too.
    """
    pieces = [_in_columns(piece) for piece in pieces_of({name: value}, replicated=True)]
    mean = _Means(rows, labels, math.prod(saved[0][1].shape[1:])) if means else None
    for first, columns, block in _blocks(saved):
        if mean is not None:
            mean.add(first, columns, block)
        for piece in pieces:
            mine, row = _own_rows(piece, rows)
            inside = (row >= first) & (row < first + len(block))
            there, here = _common(columns, _columns(piece))
            values = block[torch.from_numpy(row[inside] - first), there]
            piece.values[torch.from_numpy(mine[inside]), here] = values.to(piece.values)
    if mean is None:
        return
    for piece in pieces:
        mine, row = _own_rows(piece, rows)
        new = mine[row < 0]
        if len(new):
            values = mean.of(new + piece.offsets[0])[:, _columns(piece)]
            piece.values[torch.from_numpy(new)] = values.to(piece.values)


def _in_columns(piece: Piece) -> Piece:
    """A number a row as a table of one column, in the same memory."""
    if piece.values.dim() == 2:
        return piece
    return Piece(piece.name, (*piece.shape, 1), (*piece.offsets, 0), piece.values.unsqueeze(1))


def _columns(piece: Piece) -> slice:
    """The columns of a table that a piece has."""
    return slice(piece.offsets[1], piece.offsets[1] + piece.values.shape[1])


def _common(one: slice, other: slice) -> tuple[slice, slice]:
    """The columns that both have, counted from the first column of each."""
    begin = max(one.start, other.start)
    end = max(min(one.stop, other.stop), begin)
    return (
        slice(begin - one.start, end - one.start),
        slice(begin - other.start, end - other.start),
    )


def _own_rows(piece: Piece, rows: Ints) -> tuple[Ints, Ints]:
    """Local rows of a piece, and the saved row of each."""
    first = piece.offsets[0]
    row = rows[first : first + len(piece.values)]
    return np.arange(len(row)), row


def _blocks(saved: Saved) -> Iterator[tuple[int, slice, Tensor]]:
    """(first row, columns, values) of a saved table."""
    for file, entry in saved:
        begin, width = (entry.offsets[1], entry.sizes[1]) if len(entry.sizes) > 1 else (0, 1)
        for row, values in read_rows(file, entry, 0, entry.sizes[0]):
            yield entry.offsets[0] + row, slice(begin, begin + width), values.view(-1, width)


class _Means:
    """Mean rows of a saved table: of all, and of the items that share an attribute value.

    Args:
        rows: [rows now] saved row of each, -1 where there is none.
        labels: of the items now; None: no attributes.
        width: of a row.
    """

    def __init__(self, rows: Ints, labels: AttributeLabels | None, width: int) -> None:
        self.labels = labels
        self.now = {"saved": np.sort(rows[rows > 0]), "id": np.argsort(rows, kind="stable")}
        self.now["id"] = self.now["id"][(rows <= 0).sum() :]
        self.total, self.count = torch.zeros(width, dtype=torch.float64), 0
        values = 0 if labels is None else sum(labels.sizes)
        self.by_label = torch.zeros(values, width, dtype=torch.float64)
        self.label_count = torch.zeros(values, dtype=torch.float64)

    def add(self, first: int, columns: slice, block: Tensor) -> None:
        """Columns of the rows ``first`` … of the saved table; row 0 is padding."""
        skip = 1 if first == 0 else 0
        once = columns.start == 0  # a row in several pieces counts once
        self.total[columns] += block[skip:].double().sum(0)
        self.count += once * (len(block) - skip)
        if self.labels is None:
            return
        a, b = np.searchsorted(self.now["saved"], (max(first, 1), first + len(block)))
        carried = block[torch.from_numpy(self.now["saved"][a:b] - first)].double()
        offsets, labels = self.labels(self.now["id"][a:b])
        owner = torch.from_numpy(np.repeat(np.arange(b - a), np.diff(offsets)))
        label = torch.from_numpy(labels)
        self.by_label[:, columns] = self.by_label[:, columns].index_add(0, label, carried[owner])
        self.label_count += once * torch.bincount(label, minlength=len(self.by_label))

    def of(self, ids: Ints) -> Tensor:
        """[n, width] for new ids [n]."""
        mean = (self.total / max(self.count, 1)).expand(len(ids), -1)
        if self.labels is None:
            return mean
        offsets, labels = self.labels(ids)
        known = self.label_count[torch.from_numpy(labels)] > 0
        owner = torch.from_numpy(np.repeat(np.arange(len(ids)), np.diff(offsets)))[known]
        label = torch.from_numpy(labels)[known]
        rows = self.by_label[label] / self.label_count[label].unsqueeze(1)
        number = torch.bincount(owner, minlength=len(ids)).unsqueeze(1)
        summed = torch.zeros(len(ids), rows.shape[1], dtype=torch.float64)
        summed.index_add_(0, owner, rows)
        return torch.where(number > 0, summed / number.clamp(min=1), mean)
