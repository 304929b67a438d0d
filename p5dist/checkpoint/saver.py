"""Asynchronous checkpoints: saving while training continues.

At a checkpoint every worker copies its part of the state into buffers and continues to train; a
thread writes the buffers to storage. No worker waits for another: the thread of the first worker
waits until the index files of all workers are in the folder, and then writes the marker. (Only the
copy stalls training; CheckFreq, Mohan, Phanishayee and Chidambaram 2021, call it the snapshot.)
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from p5dist.checkpoint.checkpoints import Checkpoints, Retention
from p5dist.checkpoint.pieces import Piece, State, as_bytes, pieces_of
from p5dist.checkpoint.shard_files import write_shard
from p5dist.errors import CheckpointError, StorageError

_T = TypeVar("_T")
_DELAYS = (1.0, 2.0, 5.0, 10.0, 20.0)  # seconds between attempts; the last delay is repeated
_POLL_LOCAL, _POLL_REMOTE = 0.05, 0.5  # seconds between two checks for the other workers' files
# So large that NumPy's copy bypasses the caches, which is a third faster than Torch's.
_COPY_ROWS_BYTES = 256 << 20


class Saver:
    """Writes the checkpoints of a stage; every worker has one and calls it at the same steps.

    Args:
        checkpoints: the checkpoints of the stage.
        rank, world_size: rank of this worker, and number of workers.
        attempt: name of this start of the workers, the same on all workers.
        retention: applied when a checkpoint is complete.
        asynchronous: False: :meth:`save` returns when this worker's part is written.
        patience_s: seconds for which a failing write is retried.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        rank: int = 0,
        world_size: int = 1,
        attempt: str = "0",
        retention: Retention = Retention(),  # noqa: B008
        asynchronous: bool = True,
        patience_s: float = 90.0,
    ) -> None:
        self.checkpoints = checkpoints
        self.rank = rank
        self.world_size = world_size
        self.attempt = attempt
        self.retention = retention
        self.asynchronous = asynchronous
        self.patience_s = patience_s
        self.completed: int | None = None
        """Step of the newest complete checkpoint; set on the first worker only."""
        self.seconds = 0.0
        """Seconds from :meth:`save` until this checkpoint was complete."""
        self._begun = 0.0
        self.error: CheckpointError | None = None
        """The error after which saving was given up."""
        self._buffers: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def prepare(self, state: State) -> None:
        """Allocate the memory for copies of ``state`` before the first checkpoint."""
        if self.asynchronous:
            for piece in self._pieces(state):
                self._buffer(piece)

    def save(
        self, step: int, state: State, meta: dict[str, Any], *, score: float | None = None
    ) -> None:
        """Copy ``state`` after ``step`` steps and write the copy in the background; first wait
        until the previous checkpoint is written. Does nothing after saving was given up: see
        :attr:`error`."""
        begun = time.monotonic()
        if self._thread is not None:
            self._thread.join()
        self._begun = begun
        if self.error is not None:
            return
        pieces = self._pieces(state)
        if self.asynchronous:
            pieces = self._copies(pieces)
        self._thread = threading.Thread(
            target=self._write, args=(step, pieces, meta, score), name="checkpoint", daemon=True
        )
        self._thread.start()
        if not self.asynchronous:
            self._thread.join()

    @property
    def busy(self) -> bool:
        """Whether this worker is still writing."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Wait until this worker's part is written; on the first worker until the checkpoint is
        complete.

        Raises:
            CheckpointError: the checkpoint could not be written.
        """
        if self._thread is not None:
            self._thread.join()
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Stop waiting and retrying; an incomplete checkpoint is never read."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _pieces(self, state: State) -> list[Piece]:
        return pieces_of(state, replicated=self.rank == 0)

    def _buffer(self, piece: Piece) -> Tensor:
        key = (piece.name, piece.offsets)
        if key not in self._buffers:
            pinned = piece.values.is_cuda
            self._buffers[key] = torch.zeros(
                piece.values.shape, dtype=piece.values.dtype, pin_memory=pinned
            )
        return self._buffers[key]

    def _copies(self, pieces: list[Piece]) -> list[Piece]:
        copies = [replace(piece, values=self._buffer(piece)) for piece in pieces]
        parts = []
        for piece, copy in zip(pieces, copies, strict=True):
            row = piece.values[0].numel() * piece.values.element_size()
            rows = max(_COPY_ROWS_BYTES // max(row, 1), 1)
            for first in range(0, len(copy.values), rows):
                at = slice(first, first + rows)
                parts.append((copy.values[at], piece.values[at]))
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            list(pool.map(lambda part: _copy(*part), parts))
        return copies

    def _write(
        self, step: int, pieces: list[Piece], meta: dict[str, Any], score: float | None
    ) -> None:
        try:
            self._write_all(step, pieces, meta, score)
        except Exception as e:  # after any failure, the save must not seem complete
            self.error = _failed(self.checkpoints, step, e)

    def _write_all(
        self, step: int, pieces: list[Piece], meta: dict[str, Any], score: float | None
    ) -> None:
        end = time.monotonic() + self.patience_s
        folder = self.checkpoints.at(step)
        self._patiently(end, lambda: write_shard(folder, self._name(self.rank), pieces))
        if self.rank != 0:
            return
        names = [f"{self._name(rank)}.json" for rank in range(self.world_size)]
        poll = _POLL_LOCAL if folder.is_local else _POLL_REMOTE
        while not set(names) <= set(self._patiently(end, folder.children)):
            if self._closed.wait(poll):
                return
        self._patiently(end, lambda: self.checkpoints.complete(step, names, meta, score))
        self.seconds = time.monotonic() - self._begun
        self.completed = step
        self._patiently(end, lambda: self.checkpoints.tidy(self.retention))

    def _patiently(self, end: float, work: Callable[[], _T]) -> _T:
        """The result of ``work``, retried until ``end`` if storage fails."""
        for attempt in count():
            try:
                return work()
            except (OSError, pa.ArrowException, StorageError):
                delay = _DELAYS[min(attempt, len(_DELAYS) - 1)]
                if time.monotonic() + delay > end or self._closed.wait(delay):
                    raise
        raise AssertionError

    def _name(self, rank: int) -> str:
        return f"{self.attempt}-{rank:05d}"


def _failed(checkpoints: Checkpoints, step: int, error: Exception) -> CheckpointError:
    reason = str(error).strip()
    full = "No space left" in reason or "Disk quota" in reason or "File too large" in reason
    return CheckpointError(
        "a checkpoint could not be written",
        where=str(checkpoints.at(step)),
        value=reason.splitlines()[0] if reason else repr(error),
        rule="a checkpoint counts once its marker is written; earlier checkpoints are untouched",
        fix="free space on that disk (or lower checkpoint.keep) and start the same command again"
        if full
        else "remove the cause and start the same command again",
    )


def _copy(to: Tensor, values: Tensor) -> None:
    if values.is_cuda or not values.is_contiguous():
        to.copy_(values)
    else:
        np.copyto(np.asarray(as_bytes(to)), np.asarray(as_bytes(values)))
