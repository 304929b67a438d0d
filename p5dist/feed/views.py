"""Further histories that the encoder reads beside those of the batch."""

from __future__ import annotations

from typing import Protocol

from p5dist.data.histories import Histories


class Views(Protocol):
    """Makes changed copies of histories in training, of the same items. A batch has one kind of
    views, since all objectives of a stage read the same states."""

    def __call__(self, histories: Histories, step: int) -> list[Histories]:
        """Some times the histories, each time in the same order and none of them empty unless it
        was: a function of (seed, step, row, position)."""
        ...
