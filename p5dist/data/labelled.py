"""The users whose interactions are labels of a task; the users of shadow runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p5dist.data.jagged import Bools, Ints
from p5dist.data.randomness import Stream, uniform


@dataclass(frozen=True)
class LabelledUsers:
    """A share of all users, chosen by a hash: the users of a smaller share are among those of a
    larger one.

    Args:
        share: of the users.
        seed: of the job, not of training: trainings with several seeds have the same labels.
    """

    share: float
    seed: int

    def __call__(self, user: Ints) -> Bools:
        """[B] whether the interactions of users are labels.

        Args:
            user: [B] internal ids.
        """
        return np.asarray(uniform(self.seed, Stream.LABELLED_USERS, user) < self.share)


@dataclass(frozen=True)
class ShadowUsers:
    """Half of all users, chosen by a hash; the other half are those of the number with the other
    last bit.

    Args:
        number: of the shadow run.
        seed: of the job.
    """

    number: int
    seed: int

    def __call__(self, user: Ints) -> Bools:
        """[B] whether users belong to the half.

        Args:
            user: [B] internal ids.
        """
        low = uniform(self.seed, Stream.SHADOWS, self.number // 2, user) < 0.5
        return np.asarray(low == (self.number % 2 == 0))
