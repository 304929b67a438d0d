"""The ``feed`` section."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from p5dist.config.base import Section


class Mixed(Section):
    """Another prepared data set, mixed into pre-training."""

    data: str
    """Folder or URL of the run that prepared the data. Its item ids must agree with this job: this
    job is prepared last and extends the vocabulary (prepare.vocabulary.extend). Its users are
    treated as other users than this job's."""
    weight: PositiveFloat = 1.0
    """Share in every batch, relative to the other data sets."""


class Feed(Section):
    """How shards become batches; seed and lanes decide the order of the data."""

    lanes: PositiveInt = 64
    """Streams to which the row groups are dealt; at least the largest number of workers that the
    run will ever have."""
    max_length: PositiveInt = 200
    """Largest number of interactions of a history that the encoder sees."""
    window: Literal["last", "random"] = "random"
    """Which max_length interactions of a longer history a training step takes; evaluation and
    recommendation always take the last interactions."""
    mix: dict[str, Mixed] = {}
    """Other data sets, under names of your choice, that pre-training mixes with this job's data.
    Every batch has a fixed number of histories of each data set; an epoch is an epoch of this
    job's data."""
    weight: PositiveFloat = 1.0
    """Share of this job's data in every batch, relative to the data sets of the mix."""
    shadow: NonNegativeInt | None = None
    """Train on half of the users: those of shadow run k of ``p5dist privacy --shadows``, which sets
    it. 2k and 2k + 1 are the two halves of one draw. Left out: all users."""
    in_memory: NonNegativeInt = 5_000_000
    """Data sets of at most this many interactions are read once by every worker and kept in its
    memory (8 bytes per interaction, up to 21 with all columns); Ray tasks stream larger data sets
    in every epoch."""
    unit_rows: PositiveInt = 25_600
    """Histories that one Ray task reads; smaller units have more scheduling overhead."""
    read_ahead: NonNegativeInt = 2
    """Number of units that are read in advance."""

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of this job's data, then of the data sets of the mix in the order of names."""
        return (self.weight, *(mixed.weight for _, mixed in sorted(self.mix.items())))
