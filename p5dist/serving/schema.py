"""Requests and answers of the service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

MOST_HISTORIES, MOST_INTERACTIONS, MOST_ITEMS = 256, 10_000, 10_000
Id = Annotated[str, Field(max_length=1024)]
Ids = Annotated[list[Id], Field(max_length=MOST_ITEMS)]
Time = FiniteFloat
"""Seconds since 1970."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class History(_Strict):
    """What one person had, the oldest interaction first. ``times``, ``events`` and ``ratings`` have
    an entry for each item; they are needed if the model reads them."""

    items: Annotated[list[Id], Field(max_length=MOST_INTERACTIONS)] = []
    times: list[Time] | None = None
    events: list[Id] | None = None
    ratings: list[FiniteFloat | None] | None = None
    user: Id | None = None
    """External id, used if the model reads user ids or attributes."""

    @model_validator(mode="after")
    def _as_long(self) -> History:
        for name in ("times", "events", "ratings"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.items):
                raise ValueError(
                    f"{name} has {len(values)} entries, items has {len(self.items)}: give one "
                    "entry for each item"
                )
        return self


Histories = Annotated[list[History], Field(min_length=1, max_length=MOST_HISTORIES)]


class RecommendRequest(_Strict):
    """Lists for some people; the rules are those of ``recommend`` in the job file."""

    histories: Histories
    k: Annotated[int, Field(ge=1, le=1000)] = 10
    mask_seen: bool = True
    unknown: Literal["error", "skip"] = "skip"
    """Whether items that the run does not know are an error or left out."""
    allow: Ids | None = None
    deny: Ids | None = None
    where: dict[Id, Id | list[Id]] | None = None
    not_where: dict[Id, Id | list[Id]] | None = None
    popularity_penalty: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    diversity: Annotated[float, Field(ge=0, lt=1)] = 0.0
    explain: Annotated[int, Field(ge=1, le=20)] | None = None
    """Interactions that are named as reasons for each item."""

    def rules(self) -> str:
        """Requests with equal rules are answered together."""
        return self.model_dump_json(exclude={"histories"})


class Reason(BaseModel):
    """An interaction of the history that brought the item about."""

    item_id: str
    share: float


class Attribute(BaseModel):
    """An attribute of the item that adds to its score."""

    attribute: str
    share: float


class Item(BaseModel):
    """One line of a list."""

    item_id: str
    title: str | None
    score: float | None
    """None: a popular item for a person without known items."""
    reasons: list[Reason] | None = None
    attributes: list[Attribute] | None = None


class RecommendAnswer(BaseModel):
    """A list for each history."""

    run: str
    lists: list[list[Item]]


class ScoreRequest(_Strict):
    """Predictions of a task (ratings, probabilities) for given items."""

    histories: Histories
    items: Annotated[list[Ids], Field(min_length=1, max_length=MOST_HISTORIES)]
    """For each history the items to predict for."""
    task: Id | None = None
    """Path of the task, such as ``finetune/rating``; left out: the last task that predicts."""
    at: list[Time] | None = None
    """Time of the prediction for each history; left out: that of the last interaction."""
    unknown: Literal["error", "skip"] = "skip"


class ScoreAnswer(BaseModel):
    """The predictions for each history, in the order of its items."""

    run: str
    scores: list[list[float]]


class Health(BaseModel):
    """What is served."""

    status: Literal["ok"] = "ok"
    run: str
    stage: str | None
    items: int


class Problem(BaseModel):
    """Why a request was not answered."""

    message: str
    where: str | None = None
    value: str | None = None
    rule: str | None = None
    fix: str | None = None
