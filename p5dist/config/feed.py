"""The ``feed`` section."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from p5dist.config.base import Section


class Mixed(Section):
    """Another prepared data set that pre-training also takes histories from."""

    data: str
    """Folder or URL of the run that prepared it. Its items must be those of this job, which comes
    last and extends the vocabulary (prepare.vocabulary.extend); its users are strangers."""
    weight: PositiveFloat = 1.0
    """Share in every batch, relative to the others."""


class Feed(Section):
    """How shards become batches (order of data: seed, lanes)."""

    lanes: PositiveInt = 64
    """Streams that the row groups are dealt to; at least the largest number of workers ever."""
    max_length: PositiveInt = 200
    """Interactions of a history that the encoder sees."""
    window: Literal["last", "random"] = "random"
    """Which max_length interactions of a longer history a training step takes; evaluation and
    recommendation always take the last."""
    mix: dict[str, Mixed] = {}
    """Other data sets, by a name of your choice, that pre-training mixes with this job's own. Every
    batch has the same number of histories of each, and an epoch is one of this job's own data."""
    weight: PositiveFloat = 1.0
    """Share of this job's own data in every batch, relative to those of the mix."""
    in_memory: NonNegativeInt = 5_000_000
    """Data sets of at most so many interactions are read once by every worker and kept in its
    memory (8 bytes an interaction, up to 21 with all columns); Ray tasks read larger ones."""
    unit_rows: PositiveInt = 25_600
    """Histories that one Ray task reads; smaller units pay more for scheduling."""
    read_ahead: NonNegativeInt = 2
    """Read units kept ready before they are needed."""

    @property
    def weights(self) -> tuple[float, ...]:
        """Of this job's own data, and of the mix in the order of names."""
        return (self.weight, *(mixed.weight for _, mixed in sorted(self.mix.items())))
