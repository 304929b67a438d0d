"""The ``model`` section."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from p5dist.config.base import Column, Section
from p5dist.config.registry import ENCODERS, Chosen
from p5dist.config.sections import EncoderSection

Dropout = Annotated[float, Field(ge=0, lt=1)]
"""Dropout probability, rounded to a multiple of 1/256 (unless it is 0, at least 1/256 and at most
255/256); see :mod:`p5dist.models.dropout`."""


class Inputs(Section):
    """Inputs of the encoder in addition to the item of an interaction: each adds a vector."""

    rating: bool = False
    """The rating that the user gave."""
    event: bool = False
    """The type of the event."""
    time_gap: bool = False
    """The time since the previous interaction, in classes that double the seconds."""
    calendar: bool = False
    """Hour of the day and day of the week (UTC)."""
    user_id: bool = False
    """The embedding row of the user; users who come after training have none."""
    user_attributes: bool = False
    """What describes the user: see model.user_attributes and model.user_vectors."""
    item_dropout: Dropout = 0.0
    """Probability in training that the encoder does not see the item of an interaction."""
    id_dropout: Dropout = 0.0
    """Probability in training that the vector of an item lacks its own row in a step, so that what
    describes the item learns to represent unseen items; needs model.item_attributes or
    item_vectors."""

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
    """The encoder; a transformer if no kind is given."""
    inputs: Inputs = Inputs()
    item_ids: bool = True
    """false: an item has no embedding row of its own, so that its vector is what describes it only
    (item_attributes, item_vectors), as for models that move to other catalogues."""
    item_attributes: tuple[str, ...] = ()
    """Attributes (names under prepare.items.attributes) whose pooled embeddings are added to the
    item vector. An item that training has never seen then has the vector of its attributes."""
    user_attributes: tuple[str, ...] = ()
    """Attributes (names under prepare.users.attributes) that tasks over users and
    inputs.user_attributes read."""
    item_vectors: tuple[str, ...] = ()
    """Attributes of kind vector (names under prepare.items.attributes) that are added to the item
    vector, each by a matrix that is trained. An item that training has never seen has them too."""
    user_vectors: tuple[str, ...] = ()
    """The same of users (prepare.users.attributes), for those who read model.user_attributes."""
    cosine_temperature: PositiveFloat | None = None
    """Score items by cosine / temperature (0.05 is usual); left out: by the inner product."""
    init_scale: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the initial embedding rows."""

    @model_validator(mode="after")
    def _encoder(self) -> Model:
        self.encoder.check(self.dim)
        return self

    @model_validator(mode="after")
    def _inputs(self) -> Model:
        for name, side in (("id_dropout", "item"), ("user_attributes", "user")):
            keys = f"{side}_attributes", f"{side}_vectors"
            if getattr(self.inputs, name) and not any(getattr(self, key) for key in keys):
                raise ValueError(
                    f"inputs.{name} needs model.{keys[0]} or model.{keys[1]}: both are empty"
                )
        if not self.item_ids:
            if not self.item_attributes + self.item_vectors:
                raise ValueError("item_ids: false needs item_attributes or item_vectors")
            if self.inputs.id_dropout:
                raise ValueError("inputs.id_dropout: there are no ids to drop; remove it")
        return self

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of a history that the model reads, besides user, item and split."""
        return tuple(dict.fromkeys((*self.encoder.columns, *self.inputs.columns)))
