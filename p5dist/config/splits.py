"""Splits: which interactions train, validate and test."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from p5dist.config.base import Files, Section

Share = Annotated[float, Field(gt=0, lt=1)]


class LeaveOneOut(Section):
    """The last interaction of a history is test, the last but one validation; histories with fewer
    than three interactions are training only."""

    kind: Literal["leave_one_out"] = "leave_one_out"
    events: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Kinds of events that are held out: the last such interaction of a history is test, and the
    last but one is validation, with what comes between the two. Later interactions are dropped
    (reason ``after_test``). Histories with fewer than two such interactions, or with nothing before
    the first of the two, are training only. Left out: interactions of every kind."""


class TimeSplit(Section):
    """Cuts in time for all users: interactions from ``validation`` on are validation, interactions
    from ``test`` on are test.

    A cut is a time (ISO 8601, UTC without a zone), or a share of all interactions: 0.1 for the last
    tenth. A share is cut at the latest time from which on there are at least so many interactions:
    at 0.29 of 101 interactions, at least 29.29, so 30. Interactions at one time stay together,
    which can make the share larger.
    """

    kind: Literal["time"]
    validation: datetime | Share | None = None
    """Cut of validation: a time, or a share of all interactions; left out: no validation."""
    test: datetime | Share
    """Cut of test: a time, or a share of all interactions."""

    @field_validator("validation", "test", mode="before")
    @classmethod
    def _no_number_as_time(cls, cut: Any) -> Any:
        """Keep numbers from being read as seconds since 1970."""
        number = cut
        if isinstance(cut, str):
            try:
                number = float(cut)
            except ValueError:
                return cut
        if isinstance(number, (bool, int, float)) and not (isinstance(cut, float) and 0 < cut < 1):
            raise ValueError(
                "a share lies between 0 and 1 and has no quotes, such as 0.2; a time is ISO 8601, "
                "such as 2024-05-03"
            )
        return cut

    @model_validator(mode="after")
    def _order(self) -> TimeSplit:
        if self.validation is None:
            return self
        if isinstance(self.validation, datetime) != isinstance(self.test, datetime):
            raise ValueError("validation and test must both be times or both be shares")
        if isinstance(self.validation, datetime) and isinstance(self.test, datetime):
            if microseconds(self.validation) >= microseconds(self.test):
                raise ValueError("validation must begin before test")
        elif self.validation + self.test >= 1:  # type: ignore[operator]
            raise ValueError("validation + test must be less than 1: nothing would train")
        return self


class RatioSplit(Section):
    """The last ``test`` share of every history is test, the ``validation`` share before it
    validation; the rest is training. Both numbers of interactions are rounded down, in exact
    arithmetic on the decimal digits of the share: 0.29 of 100 interactions are 29."""

    kind: Literal["ratio"]
    validation: Share | Literal[0] = 0
    """Share of validation; 0: none."""
    test: Share
    """Share of test."""

    @model_validator(mode="after")
    def _sum(self) -> RatioSplit:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must be less than 1: nothing would train")
        return self


class GivenSplit(Section):
    """``source.files`` are the training interactions; these files, of the same format, are the
    validation and the test interactions."""

    kind: Literal["given"]
    validation: Files | None = None
    """Files with the validation interactions; left out: none."""
    test: Files
    """Files with the test interactions."""


Split = Annotated[LeaveOneOut | TimeSplit | RatioSplit | GivenSplit, Field(discriminator="kind")]


def microseconds(time: datetime) -> int:
    """Microseconds since 1970 of a time; a time without a zone is UTC."""
    aware = time if time.tzinfo else time.replace(tzinfo=timezone.utc)
    return (aware - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)
