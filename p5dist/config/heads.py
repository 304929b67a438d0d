"""What a training stage learns: objectives of pre-training and tasks of fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from p5dist.config.base import Section
from p5dist.config.losses import FullSoftmax, Loss


class CausalObjective(Section):
    """Predict the next item at every position (GPT)."""

    kind: Literal["causal"] = "causal"
    loss: Loss = FullSoftmax()


class NextItemTask(Section):
    """Rank the next item; the loss is taken at every position."""

    kind: Literal["next_item"]
    loss: Loss = FullSoftmax()


class RatingTask(Section):
    """Predict the rating of the next interaction; squared error."""

    kind: Literal["rating"]
    user_table: bool = True
    """Give every user an embedding row of their own beside what the encoder reads from the
    history; needed for a bias of users whose history says little."""
    user_dim: PositiveInt = 32
    history: Literal["shuffled", "time"] = "shuffled"
    """shuffled: the encoder sees other interactions of the user in random order, whenever they
    were; time: those before the rated one. Ratings depend little on the order, and a test split
    at random asks for items from the middle of the history."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Of states, item and user vectors before the head."""


Task = Annotated[NextItemTask | RatingTask, Field(discriminator="kind")]
