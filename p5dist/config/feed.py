"""The ``feed`` section."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from p5dist.config.base import Section


class Feed(Section):
    """How shards become batches (order of data: seed, lanes)."""

    lanes: PositiveInt = 64
    """Streams that the row groups are dealt to; at least the largest number of workers ever."""
    max_length: PositiveInt = 200
    """Interactions of a history that the encoder sees."""
    window: Literal["last", "random"] = "random"
    """Which max_length interactions of a longer history a training step takes; evaluation and
    recommendation always take the last."""
    unit_rows: PositiveInt = 25_600
    """Histories that one Ray task reads; smaller units pay more for scheduling."""
    read_ahead: NonNegativeInt = 2
    """Read units kept ready before they are needed."""
