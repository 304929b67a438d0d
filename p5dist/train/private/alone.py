"""The users of a step as batches of one user each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from p5dist.data.batch import Batch
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints
from p5dist.feed.collate import Collate
from p5dist.feed.negatives import LogQ


@dataclass(frozen=True)
class Alone:
    """A worker's part of a step."""

    histories: Histories
    step: int
    collate: Collate
    candidates: Ints | None
    log_q: LogQ | None
    most: int
    """Histories of the worker that has most."""

    def batches(self, at_least: int = 0) -> Iterator[Batch]:
        """One batch a user, made when it is asked for, and empty ones after these up to
        ``at_least`` batches. A user has the random numbers that it has in the batch of all, since
        these come from seed, step and row."""
        users = len(self.histories)
        for number in range(max(users, at_least)):
            one = np.arange(number, min(number + 1, users))
            yield self.collate(
                self.histories.take(one),
                step=self.step,
                candidates=self.candidates,
                candidate_log_q=self.log_q,
            )
