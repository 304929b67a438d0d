"""The ``prepare`` section: where the raw log is and how it becomes histories."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from p5dist.config.base import Section
from p5dist.config.registry import ATTRIBUTES, FORMATS, Chosen, Named, in_words

Share = Annotated[float, Field(gt=0, lt=1)]
NonNegativeFinite = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_ONCE_EVERYWHERE = {"separator": "|", "bins": None}
"""Settings that attributes of every kind had, with their defaults."""


class Attribute(Section):
    """One attribute of an item, of a user, or of the context of an interaction: what all kinds
    have. The kind adds its settings (:mod:`p5dist.prepare.attribute_kinds`)."""

    kind: str
    """category: one value; multi: several, split at ``separator``; words: the words of a text
    (runs of letters and digits) in lower case; numeric: binned at ``bins``; text: for people to
    read, not for models; or ``package.module:Class``."""
    column: str | None = None
    """Column that the attribute is read from. Left out: the one of its own name."""
    min_count: PositiveInt = 1
    """Values that fewer rows have are left out."""

    for_models: ClassVar[bool] = True
    """Whether models can read it: it has values, which are counted and get ids."""
    for_context: ClassVar[bool] = False
    """Whether it can describe the context of an interaction, which has one value a column."""

    @model_validator(mode="before")
    @classmethod
    def _from_earlier(cls, values: Any) -> Any:
        """Leave out what job.yaml of an earlier run has as a default of another kind."""
        if not isinstance(values, dict):
            return values
        return {
            key: value
            for key, value in values.items()
            if key in cls.model_fields or (key, value) not in _ONCE_EVERYWHERE.items()
        }

    @model_validator(mode="after")
    def _counted(self) -> Attribute:
        if self.min_count > 1 and not self.for_models:
            raise ValueError(f"min_count: kind '{self.kind}' has no values to count; remove it")
        return self


AnyAttribute = Annotated[Attribute, Chosen(ATTRIBUTES, "category")]


class Columns(Section):
    """Which column of the raw log holds what.

    A key of the folders' names (``date=2024-05-01/part-0.parquet``) is a column as well.
    """

    user: str = "user_id"
    item: str = "item_id"
    timestamp: str | None = None
    """Left out: the order of the log is the order of time."""
    rating: str | None = None
    event: str | None = None
    context: dict[str, AnyAttribute] = {}
    """Columns that say where and how the interaction came about: device, shop, hour."""

    @field_validator("context")
    @classmethod
    def _one_value(cls, context: dict[str, AnyAttribute]) -> dict[str, AnyAttribute]:
        for name, attribute in context.items():
            if not attribute.for_context:
                raise ValueError(
                    f"'{name}' is of kind '{attribute.kind}', but a context column has one value "
                    f"an interaction: use kind {ATTRIBUTES.ours_with('for_context', 'or')}"
                )
            if attribute.min_count > 1:
                raise ValueError(
                    f"'{name}' has min_count {attribute.min_count}, which items and users have, "
                    "not context columns: remove it"
                )
        return context


class RawFiles(Section):
    """Files of one format."""

    files: str | tuple[str, ...]
    """A path, a glob, a folder (with all folders in it), a URL, ``dataset:NAME/FILE`` (see
    ``p5dist datasets``), or several. The files of one entry are read in the order of their
    paths."""
    format: Annotated[str, Named(FORMATS)] = "csv"
    """csv, tsv, jsonl, parquet, sequences (a line of text a user, ``user item item …`` in the order
    of time), or ``package.module:Class``. Text in a file whose name ends in .gz, .zst, .bz2 or .lz4
    is decompressed."""
    names: tuple[str, ...] | None = None
    """Column names of csv and tsv files that have no header line."""

    @model_validator(mode="after")
    def _names(self) -> RawFiles:
        if self.names is not None and not FORMATS.find(self.format).takes_names:
            raise ValueError(
                f"names belong to {FORMATS.ours_with('takes_names', 'and')} files, not to "
                f"{self.format}; remove it"
            )
        return self


class Source(RawFiles):
    """The raw interaction log."""

    columns: Columns = Columns()
    timestamp_unit: Literal["s", "ms", "us", "ns", "iso"] = "s"
    """Of numbers, counted from 1970. iso: text such as 2024-05-01 or 2024-05-01T12:30:00.5+02:00
    (UTC where it names no zone). Parquet's own times and dates need no unit."""

    @model_validator(mode="after")
    def _columns(self) -> Source:
        there = FORMATS.find(self.format).optional_columns
        for name in ("timestamp", "rating", "event", "context"):
            if getattr(self.columns, name) and name not in there:
                has = in_words(["users", "items", *there], "and")
                raise ValueError(
                    f"columns.{name}: format '{self.format}' has {has} only; remove it"
                )
        return self


class AttributeTable(RawFiles):
    """A table that describes items or users."""

    id: str
    """Column with the id that the log uses."""
    title: str | None = None
    """Column shown to people (items only)."""
    attributes: dict[str, AnyAttribute] = {}

    @field_validator("format")
    @classmethod
    def _describes(cls, format: str) -> str:
        if not FORMATS.find(format).describes:
            raise ValueError(
                f"format '{format}' has nothing about items or users: use "
                f"{FORMATS.ours_with('describes', 'or')}"
            )
        return format

    @field_validator("attributes")
    @classmethod
    def _not_taken(cls, attributes: dict[str, AnyAttribute]) -> dict[str, AnyAttribute]:
        for name in ("id", "title"):
            if name in attributes:
                raise ValueError(
                    f"'{name}' is taken by the {name} itself: give the attribute another name, and "
                    f"column: {attributes[name].column or name}"
                )
        return attributes


class Clean(Section):
    """Which rows are dropped, each counted under one reason."""

    duplicates: Literal["drop", "keep"] = "drop"
    """Rows whose user, item, timestamp, event and rating all repeat an earlier row."""
    rating_range: tuple[float, float] | None = None
    time_range: tuple[int, int] | None = None
    """Seconds since 1970, both ends included."""
    repeat_window: NonNegativeInt | None = None
    """Seconds: drops an interaction if the preceding one of the same user, item and event, dropped
    or not, is at most this much older."""
    max_user_interactions: PositiveInt | None = None
    """Users with more (once duplicates and repeats are gone) are taken for bots and dropped."""
    min_user_interactions: PositiveInt = 1
    min_item_interactions: PositiveInt = 1
    """Rare items and rare users are dropped in turn until none is left (the k-core)."""
    keep_rejected: bool = False
    """Write the dropped rows to rejected/ with their reason."""


class ItemVocabulary(Section):
    """Which items there are and what ids they get."""

    of: Literal["train", "all"] = "train"
    """Items of training interactions, or of all. With ``train``, validation and test interactions
    of other items are dropped (reason ``unknown_item``); ``all`` lets the catalogue, though no
    count, know what is in validation and test, as public benchmarks do."""
    extend: str | None = None
    """Folder or URL of an earlier run: its items keep their ids, new ones are put behind."""
    hashed: PositiveInt | None = None
    """Instead of one id an item: this many ids, an item's id being a hash of its external id."""

    @model_validator(mode="after")
    def _one_way(self) -> ItemVocabulary:
        if self.extend is not None and self.hashed is not None:
            raise ValueError("extend and hashed exclude each other: hashed ids never change")
        return self


class LeaveOneOut(Section):
    """The last interaction of a history is test, the one before it validation; histories with
    fewer than three interactions train only."""

    kind: Literal["leave_one_out"] = "leave_one_out"


class TimeSplit(Section):
    """One cut in time for all users: what happens from ``validation`` on validates, from ``test``
    on tests.

    A cut is a time (ISO 8601, UTC where it names no zone), or the share of the interactions that
    come from there on: 0.1 for the last tenth (of all interactions; at most 1/100,000 of the
    time range early).
    """

    kind: Literal["time"]
    validation: datetime | Share | None = None
    test: datetime | Share

    @model_validator(mode="after")
    def _order(self) -> TimeSplit:
        if self.validation is None:
            return self
        if isinstance(self.validation, datetime) != isinstance(self.test, datetime):
            raise ValueError("validation and test must both be times or both be shares")
        if isinstance(self.validation, datetime) and isinstance(self.test, datetime):
            if seconds(self.validation) >= seconds(self.test):
                raise ValueError("validation must begin before test")
        elif self.validation + self.test >= 1:  # type: ignore[operator]
            raise ValueError("validation + test must be less than 1: nothing would train")
        return self


class RatioSplit(Section):
    """The last ``test`` share of every history is test, the ``validation`` share before it
    validation, both rounded down; what is left trains."""

    kind: Literal["ratio"]
    validation: Share | Literal[0] = 0
    test: Share

    @model_validator(mode="after")
    def _sum(self) -> RatioSplit:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must be less than 1: nothing would train")
        return self


class GivenSplit(Section):
    """``source.files`` train; these files, of the same form, are the validation and the test
    interactions."""

    kind: Literal["given"]
    validation: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...]


Split = Annotated[LeaveOneOut | TimeSplit | RatioSplit | GivenSplit, Field(discriminator="kind")]


def seconds(time: datetime) -> int:
    """Seconds since 1970 of a time; one without a zone is UTC."""
    return int((time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp())


class Prepare(Section):
    """Raw log → histories."""

    source: Source
    items: AttributeTable | None = None
    users: AttributeTable | None = None
    events: dict[str, NonNegativeFinite] | None = None
    """Weight of each kind of event in training; 0 drops it (reason ``dropped_event``). The key
    ``"*"`` is the weight of the kinds that are not named, 1 where it is left out."""
    clean: Clean = Clean()
    vocabulary: ItemVocabulary = ItemVocabulary()
    split: Split = LeaveOneOut()
    session_gap: PositiveInt | None = None
    """Seconds without an interaction after which a new history of the user begins. Left out: one
    history a user."""
    max_length: PositiveInt | None = None
    """Longest history; what ``longer`` says is done with longer ones. Left out: no limit."""
    longer: Literal["windows", "last"] = "windows"
    """windows: cut into histories of max_length from the end on, so that the first is the short
    one; last: the latest max_length interactions stay (the others: reason ``over_length``)."""
    ties: Literal["log", "shuffled"] = "log"
    """Order of interactions of one user at one time: as in the log, or drawn from the seed."""
    shards: PositiveInt | None = None
    """Files that the users are spread over by a hash of their id. Left out: one per two million
    rows of the log, but at least 8."""
    group_rows: PositiveInt | None = None
    """Histories per row group. Left out: 8,192, or fewer so that every lane has several groups."""

    @model_validator(mode="after")
    def _title(self) -> Prepare:
        if self.users is not None and self.users.title is not None:
            raise ValueError("users.title: only items have a title; remove it")
        return self

    @model_validator(mode="after")
    def _events(self) -> Prepare:
        if self.events is not None and self.source.columns.event is None:
            raise ValueError("events needs source.columns.event, which names no column")
        return self
