"""The ``model`` section."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from p5dist.config.base import Column, Section
from p5dist.config.registry import ENCODERS, Chosen
from p5dist.config.sections import EncoderSection

Dropout = Annotated[float, Field(ge=0, lt=1)]
"""Rounded to a 256th: the mask comes from a hash of (seed, step, row, position, place)."""


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
    def columns(self) -> tuple[Column, ...]:
        """Columns of a history that these inputs read."""
        read: dict[Column, bool] = {
            "timestamp": self.time_gap or self.calendar,
            "event": self.event,
            "rating": self.rating,
        }
        return tuple(name for name, wanted in read.items() if wanted)


class Model(Section):
    """Embedding tables and encoder."""

    dim: PositiveInt = 64
    """Width of item vectors and of the encoder."""
    encoder: Annotated[EncoderSection, Chosen(ENCODERS, "transformer")] = EncoderSection(
        kind="transformer"
    )
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

    @model_validator(mode="after")
    def _encoder(self) -> Model:
        self.encoder.check(self.dim)
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
    def columns(self) -> tuple[Column, ...]:
        """Columns of a history that the model reads beside user, item and split."""
        return tuple(dict.fromkeys((*self.encoder.columns, *self.inputs.columns)))
