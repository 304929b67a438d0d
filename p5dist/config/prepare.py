"""The ``prepare`` section: where the raw log is and how it becomes histories."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from p5dist.config.base import Section

Format = Literal["csv", "tsv", "parquet", "jsonl"]


class Columns(Section):
    """Which column of the raw log holds what."""

    user: str = "user_id"
    item: str = "item_id"
    timestamp: str | None = None
    """Left out: the order of the log is the order of time."""
    rating: str | None = None
    event: str | None = None


class Source(Section):
    """The raw interaction log."""

    files: str | tuple[str, ...]
    """A path, a glob, a URL, ``dataset:NAME/FILE`` (see ``p5dist datasets``), or several."""
    format: Format = "csv"
    names: tuple[str, ...] | None = None
    """Column names of csv and tsv files that have no header line."""
    columns: Columns = Columns()
    timestamp_unit: Literal["s", "ms", "us"] = "s"


class Attribute(Section):
    """One attribute of an item or a user."""

    kind: Literal["category", "multi", "numeric"] = "category"
    """category: one value; multi: several, split at ``separator``; numeric: binned at ``bins``."""
    separator: str = "|"
    bins: tuple[float, ...] | None = None
    """Upper edges of all bins but the last, rising."""

    @model_validator(mode="after")
    def _bins(self) -> Attribute:
        if (self.kind == "numeric") != (self.bins is not None):
            raise ValueError("bins belong to kind 'numeric', which needs them")
        if self.bins is not None and list(self.bins) != sorted(set(self.bins)):
            raise ValueError("bins must rise")
        return self


class AttributeTable(Section):
    """A table that describes items or users."""

    files: str | tuple[str, ...]
    format: Format = "csv"
    names: tuple[str, ...] | None = None
    id: str
    """Column with the id that the log uses."""
    title: str | None = None
    """Column shown to people (items only)."""
    attributes: dict[str, Attribute] = {}


class Clean(Section):
    """Which rows are dropped, each counted under one reason."""

    duplicates: Literal["drop", "keep"] = "drop"
    """Rows whose user, item, timestamp, event and rating all repeat an earlier row."""
    rating_range: tuple[float, float] | None = None
    time_range: tuple[int, int] | None = None
    """Seconds since 1970, both ends included."""
    min_user_interactions: PositiveInt = 1
    min_item_interactions: PositiveInt = 1
    keep_rejected: bool = False
    """Write the dropped rows to rejected/ with their reason."""


class LeaveOneOut(Section):
    """The last interaction of a user is test, the one before it validation; users with fewer
    than three interactions train only."""

    kind: Literal["leave_one_out"] = "leave_one_out"


class GivenSplit(Section):
    """``source.files`` train; these files, of the same form, are the test interactions."""

    kind: Literal["given"]
    test: str | tuple[str, ...]


Split = Annotated[LeaveOneOut | GivenSplit, Field(discriminator="kind")]


class Prepare(Section):
    """Raw log → histories."""

    source: Source
    items: AttributeTable | None = None
    users: AttributeTable | None = None
    clean: Clean = Clean()
    split: Split = LeaveOneOut()
    ties: Literal["log", "shuffled"] = "log"
    """Order of interactions of one user at one time: as in the log, or drawn from the seed."""
    shards: PositiveInt = 8
    """Files that the users are spread over by a hash of their id."""
    group_rows: PositiveInt | None = None
    """Histories per row group. Left out: 8,192, or fewer so that every lane has several groups."""

    @model_validator(mode="after")
    def _title(self) -> Prepare:
        if self.users is not None and self.users.title is not None:
            raise ValueError("users.title: only items have a title; remove it")
        return self
