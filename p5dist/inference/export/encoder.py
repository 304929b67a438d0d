"""The user encoder as a function of padded histories, which torch.export can trace: no
embedding tables of TorchRec, no batches of varying structure, any number and length of
histories."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from p5dist.data.batch import Batch, Bucket
from p5dist.data.histories import Histories
from p5dist.inference.scorer import Scorer

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class _Ids:
    """Stands for the KeyedJaggedTensor of a batch."""

    ids: Tensor

    def values(self) -> Tensor:
        return self.ids


class _Table(nn.Module):
    """Item vectors that are weights of the module."""

    vectors: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)

    def forward(self, items: Any, *_: Any) -> Tensor:
        return F.embedding(items.values(), self.vectors)


class UserEncoder(nn.Module):
    """``(item [B, L], length [B], one array [B, L] for each of columns) → vectors [B, dim]``.

    ``item`` holds item ids (int64, from 1; 0 after the end), ``length`` how many there are,
    ``timestamp`` int64 microseconds, ``event`` int64 codes, ``rating`` float32 (NaN: none). Give
    the last ``max_length`` interactions. A user is one of whom nothing but the history is known.

    Args:
        scorer: the trained stage; it is not changed.
        columns: what the model reads beside items: of ``timestamp``, ``event``, ``rating``.
    """

    def __init__(self, scorer: Scorer, columns: tuple[str, ...]) -> None:
        super().__init__()
        vectors = scorer.item_rows().cpu()
        model = copy.deepcopy(scorer.model).cpu().eval()
        model.backbone.items = _Table(F.pad(vectors, (0, 0, 1, 0)))  # type: ignore[assignment]
        model.backbone.inputs.users = None
        self.backbone, self.head = model.backbone, model.head
        self.columns, self.max_length = columns, scorer.seen

    def forward(self, item: Tensor, length: Tensor, *columns: Tensor) -> Tensor:
        """See the class."""
        given = dict(zip(self.columns, columns, strict=True))
        hides = self.backbone.bidirectional
        if hides:  # the next interaction, which the model predicts at its hidden place
            item, given = F.pad(item, (0, 1)), {k: F.pad(v, (0, 1)) for k, v in given.items()}
        batch = self._batch(item, length + int(hides), given, hides)
        vectors = self.head.user_vectors(self.backbone, batch)
        return vectors if hides else vectors * (length > 0).unsqueeze(1)

    def _batch(self, item: Tensor, length: Tensor, given: dict[str, Tensor], hides: bool) -> Batch:
        histories, longest = item.shape
        place = torch.arange(longest).expand(histories, -1)
        flat = place.reshape(-1)
        owner = torch.arange(histories).unsqueeze(1).expand(-1, longest).reshape(-1)
        total = histories * longest
        every = torch.arange(total)
        offsets = F.pad(length.cumsum(0), (1, 0))
        hidden = None
        timestamp = given.get("timestamp", torch.zeros_like(item))
        if hides:
            last = (length - 1).unsqueeze(1)
            hidden = (place == last).reshape(-1)
            known = timestamp.gather(1, (last - 1).clamp(min=0)) * (last > 0)
            timestamp = torch.where(place == last, known, timestamp)
        return Batch(
            items=_Ids(item.reshape(-1)),
            item_attributes=None, users=None,
            token=every, seen=every, candidates=every[:0], candidates_are_items=False,
            candidate_log_q=None, owner=owner, position=flat, offsets=offsets,
            ends=torch.arange(histories) * longest + (length - 1).clamp(min=0),
            timestamp=timestamp.reshape(-1),
            event=given.get("event", torch.zeros_like(item)).reshape(-1),
            rating=given.get("rating", torch.full(item.shape, torch.nan)).reshape(-1),
            dropout_key=every, item_key=every, slot=every,
            buckets=(Bucket(slice(0, total), histories, longest, slice(0, total)),),
            histories=histories, rows=np.zeros(0, dtype=np.int64), hidden=hidden,
            valid=place < length.unsqueeze(1),
        )  # fmt: skip


def padded(histories: Histories, columns: tuple[str, ...], longest: int) -> Inputs:
    """The inputs of a :class:`UserEncoder` for histories [B], of which it sees the last ``longest``
    interactions."""
    histories = histories.last(longest)
    length = torch.from_numpy(histories.lengths)
    shape = len(histories), max(int(length.max()) if len(length) else 0, 1)
    at = torch.from_numpy(histories.owner()), torch.from_numpy(histories.position())
    found = [torch.zeros(shape, dtype=torch.long).index_put(at, torch.from_numpy(histories.item))]
    for name in columns:
        values = torch.from_numpy(np.ascontiguousarray(getattr(histories, name)))
        kind = torch.float32 if name == "rating" else torch.long
        empty = torch.full(shape, torch.nan if name == "rating" else 0, dtype=kind)
        found.append(empty.index_put(at, values.to(kind)))
    return found[0], length, *found[1:]


def traced(encoder: UserEncoder) -> torch.export.ExportedProgram:
    """The encoder for any number of histories of any length up to ``max_length``."""
    shape = (2, min(3, encoder.max_length))
    example: list[Tensor] = [torch.ones(shape, dtype=torch.long), torch.tensor([shape[1], 1])]
    kinds = {"rating": torch.float32}
    example += [torch.ones(shape, dtype=kinds.get(c, torch.long)) for c in encoder.columns]
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    length = torch.export.Dim("length", min=1, max=max(encoder.max_length, 2))
    columns = tuple({0: batch, 1: length} for _ in encoder.columns)
    shapes = ({0: batch, 1: length}, {0: batch}, *([columns] if columns else []))
    with torch.no_grad():
        return torch.export.export(encoder, tuple(example), dynamic_shapes=shapes, strict=False)
