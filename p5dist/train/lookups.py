"""The ids of the next batch travel to the workers that have their rows while this step computes.

TorchRec looks a batch up in three parts: the ids go to the workers that have their rows
(``input_dist``), the rows are read (``compute``), the rows come back (``output_dist``). The first
part needs nothing that the step changes. TorchRec's own pipeline (``TrainPipelineSparseDist``)
rewrites the model by tracing its code, which the models here, whose layers depend on the job file,
do not allow; so the parts are called one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torchrec.distributed.embedding_types import ShardedEmbeddingModule

from p5dist.data.batch import Batch
from p5dist.train.batches import Ready
from p5dist.train.session import Session


@dataclass
class _Sent:
    """Ids that one table is to look up, on their way."""

    features: Any
    context: Any
    coming: Any
    """Awaits their sizes, later the ids."""


class Lookups:
    """Takes over ``forward`` of the sharded tables of a model.

    Which part of a batch a table reads is learned in the first step; a table that reads something
    else is looked up as usual. All workers call the methods together.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._tables: list[Any] = [
            m for m in model.modules() if isinstance(m, ShardedEmbeddingModule)
        ]
        self._reads: dict[Any, str] = {}
        self._batch: Batch | None = None
        self._current: dict[Any, _Sent] = {}
        self._ahead: dict[Any, _Sent] = {}
        self._cuda = device.type == "cuda"
        self._side: Any = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        for table in self._tables:
            table.forward = partial(self._look_up, table)

    def close(self) -> None:
        """Give ``forward`` back."""
        for table in self._tables:
            del table.forward

    def begin(self, batch: Batch, following: Ready | None) -> None:
        """The step of ``batch`` begins: send the ids of the batch after it on their way."""
        self._batch, self._current, self._ahead = batch, self._ahead, {}
        if following is None:
            return
        with self._on_side():
            features = following.arrive()
            for table, name in self._reads.items():
                context = table.create_context()
                given = getattr(features, name)
                self._ahead[table] = _Sent(given, context, table.input_dist(context, given))

    def go_on(self) -> None:
        """The sizes of what was sent have arrived: send the ids themselves."""
        with self._on_side():
            for sent in self._ahead.values():
                sent.coming = sent.coming.wait()

    def _on_side(self) -> Any:
        return torch.cuda.stream(self._side) if self._cuda else nullcontext()

    def _look_up(self, table: Any, features: Any) -> Any:
        sent = self._current.pop(table, None)
        if sent is None or sent.features is not features:
            self._learn(table, features)
            return type(table).forward(table, features)
        with self._on_side():
            ids = sent.coming.wait()
        if self._cuda:
            stream = torch.cuda.current_stream()
            stream.wait_stream(self._side)
            ids.record_stream(stream)
            sent.context.record_stream(stream)
        return table.compute_and_output_dist(sent.context, ids)

    def _learn(self, table: Any, features: Any) -> None:
        names = ("items", "item_attributes", "users")
        for name in names if self._batch is not None and table not in self._reads else ():
            if getattr(self._batch, name) is features:
                self._reads[table] = name


@contextmanager
def lookups_of(session: Session) -> Iterator[Lookups]:
    """For the steps of a stage."""
    lookups = Lookups(session.model, session.device)
    try:
        yield lookups
    finally:
        lookups.close()
