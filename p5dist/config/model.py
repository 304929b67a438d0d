"""The ``model`` and ``feed`` sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from p5dist.config.base import Section


class TransformerEncoder(Section):
    """Pre-norm causal transformer (SASRec, Kang and McAuley 2018; GPT-2)."""

    kind: Literal["transformer"] = "transformer"
    layers: PositiveInt = 2
    heads: PositiveInt = 2
    ffn_dim: PositiveInt | None = None
    """Width of the feed-forward part; left out: 4 · dim."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Rounded to a 256th: the mask comes from a hash of (seed, step, row, position, layer)."""


class Model(Section):
    """Embedding tables and encoder."""

    dim: PositiveInt = 64
    """Width of item vectors and of the encoder."""
    encoder: TransformerEncoder = TransformerEncoder()
    item_attributes: tuple[str, ...] = ()
    """Attributes (names under prepare.items.attributes) whose pooled bags join the item vector."""
    user_attributes: tuple[str, ...] = ()
    """Attributes (names under prepare.users.attributes) that tasks over users may read."""
    rating_input: bool = False
    """The encoder also sees the rating that the user gave to each item of the history."""
    init_scale: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of embedding rows at the start."""

    @model_validator(mode="after")
    def _heads(self) -> Model:
        if self.dim % self.encoder.heads:
            raise ValueError(
                f"dim {self.dim} must be a multiple of encoder.heads {self.encoder.heads}"
            )
        return self


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
