"""The ``model`` section."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from p5dist.config.base import Section

Dropout = Annotated[float, Field(ge=0, lt=1)]
"""Rounded to a 256th: the mask comes from a hash of (seed, step, row, position, place)."""


class TransformerEncoder(Section):
    """Pre-norm transformer: causal (SASRec, Kang and McAuley 2018) or, where the objective hides
    items, bidirectional (BERT4Rec, Sun et al. 2019)."""

    bidirectional_ok: ClassVar[bool] = True
    kind: Literal["transformer"] = "transformer"
    layers: PositiveInt = 2
    heads: PositiveInt = 2
    ffn_dim: PositiveInt | None = None
    """Width of the feed-forward part; left out: 4 · dim."""
    positions: Literal["learned", "learned_from_end", "rotary", "none"] = "learned"
    """learned: a vector a position, from the first interaction on; learned_from_end: from the
    last one back, as SASRec's padding on the left does; rotary: RoPE (Su et al. 2021)."""
    time_intervals: bool = False
    """Attention also depends on the time between two interactions: a learned bias for each
    doubling of the seconds and head (after TiSASRec, Li et al. 2020)."""
    dropout: Dropout = 0.2
    """Of the input and of what attention and feed-forward add."""


class HstuEncoder(Section):
    """Gated attention without softmax, with biases for distance and time (HSTU, Zhai et al.
    2024)."""

    bidirectional_ok: ClassVar[bool] = True
    kind: Literal["hstu"]
    layers: PositiveInt = 2
    heads: PositiveInt = 2
    time_intervals: bool = True
    """A learned bias for each doubling of the seconds between two interactions."""
    dropout: Dropout = 0.2


class MeanEncoder(Section):
    """Mean of the interactions so far."""

    bidirectional_ok: ClassVar[bool] = False
    kind: Literal["mean"]
    last: PositiveInt | None = None
    """Interactions that count; left out: all that the feed gives."""
    dropout: Dropout = 0.0


Encoder = Annotated[TransformerEncoder | HstuEncoder | MeanEncoder, Field(discriminator="kind")]


class Inputs(Section):
    """What the encoder sees of an interaction beside its item: each part is a vector that is
    added."""

    rating: bool = False
    """The rating that the user gave."""
    event: bool = False
    """The type of the event."""
    time_gap: bool = False
    """The time since the interaction before, by doublings of the seconds."""
    calendar: bool = False
    """Hour of the day and day of the week (UTC)."""
    user_id: bool = False
    """The row of the user's own; it says nothing of users who come later."""
    user_attributes: bool = False
    """The bags of model.user_attributes."""
    item_dropout: Dropout = 0.0
    """Probability in training that the encoder does not see the item of an interaction."""
    id_dropout: Dropout = 0.0
    """Probability in training that an item has its attributes only for a step, so that these
    learn to stand for items never seen; needs model.item_attributes."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a history that these inputs read."""
        read = {
            "timestamp": self.time_gap or self.calendar,
            "event": self.event,
            "rating": self.rating,
        }
        return tuple(name for name, wanted in read.items() if wanted)


class Model(Section):
    """Embedding tables and encoder."""

    dim: PositiveInt = 64
    """Width of item vectors and of the encoder."""
    encoder: Encoder = TransformerEncoder()
    """Without a kind it is a transformer."""
    inputs: Inputs = Inputs()
    item_attributes: tuple[str, ...] = ()
    """Attributes (names under prepare.items.attributes) whose pooled bags join the item vector.
    An item that training has never seen then has the vector of its attributes."""
    user_attributes: tuple[str, ...] = ()
    """Attributes (names under prepare.users.attributes) that tasks over users and
    inputs.user_attributes read."""
    cosine_temperature: PositiveFloat | None = None
    """Compare states and items by cosine / temperature (0.05 is usual); left out: by their
    product."""
    init_scale: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of embedding rows at the start."""

    @field_validator("encoder", mode="before")
    @classmethod
    def _transformer(cls, value: Any) -> Any:
        return {"kind": "transformer", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _heads(self) -> Model:
        heads = getattr(self.encoder, "heads", 1)
        if self.dim % heads:
            raise ValueError(f"dim {self.dim} must be a multiple of encoder.heads {heads}")
        if getattr(self.encoder, "positions", None) == "rotary" and self.dim // heads % 2:
            raise ValueError(
                f"encoder.positions rotary turns pairs of channels, but a head has "
                f"{self.dim // heads} (dim {self.dim} / heads {heads}): make that even"
            )
        return self

    @model_validator(mode="after")
    def _inputs(self) -> Model:
        for name, needed in (
            ("id_dropout", self.item_attributes),
            ("user_attributes", self.user_attributes),
        ):
            if getattr(self.inputs, name) and not needed:
                what = "item_attributes" if name == "id_dropout" else name
                raise ValueError(f"inputs.{name} needs model.{what}, which names none")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a history that the model reads beside user, item and split."""
        times = ("timestamp",) if getattr(self.encoder, "time_intervals", False) else ()
        return tuple(dict.fromkeys((*times, *self.inputs.columns)))
