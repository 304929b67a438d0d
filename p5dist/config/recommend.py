"""The ``recommend`` section: for whom, which items, in what order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from p5dist.config.base import Files, Section
from p5dist.config.raw_files import Columns, Source
from p5dist.config.registry import FORMATS

if TYPE_CHECKING:
    from p5dist.config.run import RunConfig

ABOVE = 10
"""Items that ``diversity`` chooses among, for each item of a list."""


def _as_text(values: Any) -> Any:
    """Whole numbers as text, as attribute values are."""
    if isinstance(values, list | tuple):
        return [_as_text(value) for value in values]
    return str(values) if isinstance(values, int) and not isinstance(values, bool) else values


def _some(values: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not values:
        raise ValueError("name at least one value")
    return values


Values = Annotated[str | tuple[str, ...], AfterValidator(_some), BeforeValidator(_as_text)]
"""One attribute value, or a list of them."""
Rules = dict[str, Values]
"""Attribute values by the name of the attribute."""


class NewPeople(Source):
    """A table of interactions of people who are not in the log, in any order; a person with the
    same history as a user of the log gets the same list. The settings are those of
    ``prepare.source``. Events, duplicates, repeats and rating ranges are treated as in ``prepare``;
    its limits on times and on the number of interactions do not apply."""

    @field_validator("columns")
    @classmethod
    def _no_context(cls, columns: Columns) -> Columns:
        if columns.context:
            raise ValueError("columns.context: lists do not depend on context; remove it")
        return columns

    @field_validator("format")
    @classmethod
    def _files(cls, format: str) -> str:
        if not FORMATS.find(format).is_files:
            raise ValueError(f"format '{format}' is for the log only: write the table to files")
        return format


class Recommend(Section):
    """Lists of recommended items. All files that it names are read anew at every run; if one has
    changed, the lists are made anew."""

    k: PositiveInt = 20
    """Length of a list."""
    mask_seen: bool = True
    """true: items that the user has had before are not listed."""
    batch_size: PositiveInt = 512
    """Users that are scored at once."""
    ranking_from: str | None = None
    """As in evaluate."""
    users: Files | None = None
    """Files with the external ids of the users to make lists for: Parquet, CSV or TSV (a column
    named as in the log, or a single column), or text with one id a line. Left out: all users of the
    log."""
    histories: NewPeople | None = None
    """Makes lists for the people of this table instead of the users of the log. A person whose
    items are all unknown gets the most popular items, with score null."""
    allow: Files | None = None
    """Files with the external ids of the items that may be listed, as in ``users``. Left out: all
    items."""
    stock: Files | None = None
    """As ``allow``; an item must be in both."""
    deny: Files | None = None
    """Files with the external ids of items that are not listed."""
    where: Rules = {}
    """Only items that have one of the values of every attribute named here, such as
    ``{genre: [Drama, Comedy]}``. Values are named as in the table of the items."""
    not_where: Rules = {}
    """No items that have one of these values."""
    popularity_penalty: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """α: items are ranked by score - α · ln(1 + training interactions of the item)."""
    diversity: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """δ: lists are chosen by maximal marginal relevance (Carbonell and Goldstein 1998). The next
    item is the one with the largest (1 - δ) · score - δ · (largest cosine with an item that is
    already in the list), scores scaled to 0…1 for every user. 0: by score alone."""
    candidates: PositiveInt | None = None
    """Best items of a user that ``diversity`` chooses among. Left out: 10 · k."""

    explain: PositiveInt | None = None
    """Name so many interactions of the history for each item: those without which it would be less
    likely, with their shares. Left out: none. Every history is encoded once more for each of its
    interactions."""

    @model_validator(mode="after")
    def _fits(self) -> Recommend:
        if self.users is not None and self.histories is not None:
            raise ValueError(
                "users and histories exclude each other: users names users of the log, histories "
                "is about people who are not in the log"
            )
        if self.candidates is not None and self.candidates < self.k:
            raise ValueError(
                f"candidates {self.candidates} is less than k {self.k}: diversity chooses the k "
                "items of a list among the candidates"
            )
        return self

    @property
    def depth(self) -> int:
        """Items that are ranked for each list."""
        return (self.candidates or ABOVE * self.k) if self.diversity else self.k

    def check(self, job: RunConfig) -> None:
        """Raise ValueError unless the section fits the rest of the job."""
        known = job.readable_attributes("items")
        for key in ("where", "not_where"):
            for name in getattr(self, key):
                if name not in known:
                    raise ValueError(
                        f"recommend.{key} names '{name}', which is no attribute with values in "
                        f"prepare.items.attributes (it has: {', '.join(known) or 'none'})"
                    )
        if self.histories is None:
            return
        given, log = self.histories.columns, job.prepare.source.columns
        for name in job.model.columns:
            if getattr(given, name) is None:
                raise ValueError(
                    f"the model reads the {name} of interactions, but "
                    f"recommend.histories.columns.{name} names no column"
                )
        for name in ("event", "rating"):
            if getattr(given, name) is not None and getattr(log, name) is None:
                raise ValueError(
                    f"recommend.histories.columns.{name}: the log has no column for it "
                    f"(prepare.source.columns.{name}); remove it"
                )
        if given.timestamp is None and (
            job.prepare.session_gap is not None or job.prepare.clean.repeat_window is not None
        ):
            raise ValueError(
                "prepare.session_gap and prepare.clean.repeat_window need times, but "
                "recommend.histories.columns.timestamp names no column"
            )
