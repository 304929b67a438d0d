"""The ``prepare`` section: the raw log, and how it becomes histories."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from p5dist.config.base import Section
from p5dist.config.registry import ATTRIBUTES, FORMATS, Chosen, Named, in_words

Share = Annotated[float, Field(gt=0, lt=1)]
NonNegativeFinite = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_ONCE_EVERYWHERE = {"separator": "|", "bins": None}
"""Settings that attributes of every kind had in earlier versions, with their defaults."""


class Attribute(Section):
    """The settings that all kinds of attributes have, of an item, a user, or the context of an
    interaction. The kind adds its own settings (:mod:`p5dist.prepare.attribute_kinds`)."""

    kind: str
    """category: one value; multi: several values, split at ``separator``; words: the words of a
    text (runs of letters and digits) in lower case; numeric: binned at ``bins``; text: text for
    display, not for models; or ``package.module:Class``."""
    column: str | None = None
    """Column that the attribute is read from. Left out: the column with the attribute's name."""
    min_count: PositiveInt = 1
    """Values that occur in fewer rows are left out."""

    for_models: ClassVar[bool] = True
    """Whether models can read the attribute: its values are counted and get ids."""
    for_context: ClassVar[bool] = False
    """Whether the attribute can describe the context of an interaction (one value per column)."""

    @model_validator(mode="before")
    @classmethod
    def _from_earlier(cls, values: Any) -> Any:
        """Drop defaults of other kinds, which job.yaml of an earlier version holds."""
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
    """The names of the columns of the raw log.

    A key in the names of folders (``date=2024-05-01/part-0.parquet``) is a column as well.
    """

    user: str = "user_id"
    item: str = "item_id"
    timestamp: str | None = None
    """Column of the time; left out: the order of the log is the order of time."""
    rating: str | None = None
    event: str | None = None
    context: dict[str, AnyAttribute] = {}
    """Columns with the context of an interaction, such as device, shop or hour."""

    @field_validator("context")
    @classmethod
    def _one_value(cls, context: dict[str, AnyAttribute]) -> dict[str, AnyAttribute]:
        for name, attribute in context.items():
            if not attribute.for_context:
                raise ValueError(
                    f"'{name}' is of kind '{attribute.kind}', but a context column has one value "
                    f"per interaction: use kind {ATTRIBUTES.ours_with('for_context', 'or')}"
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
    """A path, a glob, a folder (with all its subfolders), a URL, ``dataset:NAME/FILE`` (see
    ``p5dist datasets``), or a list of these. The files of one entry are read in the order of their
    paths."""
    format: Annotated[str, Named(FORMATS)] = "csv"
    """csv, tsv, jsonl, parquet, sequences (one line of text per user, ``user item item …`` in the
    order of time), or ``package.module:Class``. Text in a file whose name ends in .gz, .zst, .bz2
    or .lz4 is decompressed."""
    names: tuple[str, ...] | None = None
    """Column names of csv and tsv files that have no header line."""
    delimiter: str | None = None
    """Character between the fields of csv and tsv files. Left out: a comma, a tab."""
    quote: str | None = None
    """Character around values of csv and tsv files that hold delimiters or line ends; ``""``: none.
    Left out: the double quote in csv, none in tsv."""
    encoding: str = "utf-8"
    """Of text files, such as latin-1, cp1252, utf-16 or shift_jis."""

    @model_validator(mode="after")
    def _settings(self) -> RawFiles:
        kind = FORMATS.find(self.format)
        for name in ("names", "delimiter", "quote"):
            if getattr(self, name) is not None and not kind.is_delimited:
                raise ValueError(
                    f"{name} is for {FORMATS.ours_with('is_delimited', 'and')} files, not for "
                    f"{self.format}: remove {name}"
                )
        if self.encoding != "utf-8" and not kind.is_text:
            raise ValueError(
                f"encoding is for {FORMATS.ours_with('is_text', 'and')} files, not for "
                f"{self.format}: remove encoding"
            )
        if self.delimiter is not None and self.delimiter == self.quote:
            raise ValueError("delimiter and quote must be two characters")
        return self

    @field_validator("delimiter", "quote")
    @classmethod
    def _one_character(cls, mark: str | None, info: ValidationInfo) -> str | None:
        if mark is None or (mark == "" and info.field_name == "quote"):
            return mark
        if len(mark) != 1 or not mark.isascii() or mark in "\r\n":
            raise ValueError(f"{info.field_name} must be one ASCII character, such as ';' or '|'")
        return mark

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str) -> str:
        try:
            "".encode(encoding)
        except LookupError as e:
            raise ValueError(
                f"no such text encoding: '{encoding}'; use for example latin-1, cp1252 or utf-16"
            ) from e
        return encoding


class Source(RawFiles):
    """The raw interaction log."""

    columns: Columns = Columns()
    timestamp_unit: Literal["s", "ms", "us", "ns", "iso"] = "s"
    """Unit of numeric times, counted from 1970. iso: text such as 2024-05-01 or
    2024-05-01T12:30:00.5+02:00 (UTC without a zone). Parquet's own times and dates need no
    unit."""

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
    """Column with the ids that the log uses."""
    title: str | None = None
    """Column with the title for display (items only)."""
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
    """Rules that drop rows; each dropped row is counted under one reason."""

    duplicates: Literal["drop", "keep"] = "drop"
    """Rows whose user, item, timestamp, event and rating all repeat an earlier row."""
    rating_range: tuple[float, float] | None = None
    """Smallest and largest rating, both included."""
    time_range: tuple[int, int] | None = None
    """First and last second since 1970, both included."""
    repeat_window: NonNegativeInt | None = None
    """Seconds: drops an interaction if the preceding one of the same user, item and event, dropped
    or not, is at most this much older."""
    max_user_interactions: PositiveInt | None = None
    """Users with more interactions, after duplicates and repeats are dropped, are taken for bots
    and dropped."""
    min_user_interactions: PositiveInt = 1
    min_item_interactions: PositiveInt = 1
    """Rare items and rare users are dropped in turn until no rare one is left (the k-core)."""
    keep_rejected: bool = False
    """Write the dropped rows to rejected/ with their reason."""

    @field_validator("rating_range", "time_range")
    @classmethod
    def _rises(cls, limits: tuple[float, float] | None) -> tuple[float, float] | None:
        if limits is not None and not limits[0] <= limits[1]:
            raise ValueError(
                f"the first limit must not be above the second: [{limits[1]:g}, {limits[0]:g}]?"
            )
        return limits


class ItemVocabulary(Section):
    """The items of the catalogue and their ids."""

    of: Literal["train", "all"] = "train"
    """Items of training interactions, or of all interactions. With ``train``, validation and test
    interactions of other items are dropped (reason ``unknown_item``). With ``all``, the catalogue
    also has the items of validation and test, as in public benchmarks; counts come from training
    only."""
    extend: str | None = None
    """Folder or URL of an earlier run: its items keep their ids, new items get the next ids."""
    hashed: PositiveInt | None = None
    """Number of ids if ids are hashes of external ids; left out: one id per item."""

    @model_validator(mode="after")
    def _one_way(self) -> ItemVocabulary:
        if self.extend is not None and self.hashed is not None:
            raise ValueError("extend and hashed exclude each other: hashed ids never change")
        return self


class LeaveOneOut(Section):
    """The last interaction of a history is test, the last but one validation; histories with fewer
    than three interactions are training only."""

    kind: Literal["leave_one_out"] = "leave_one_out"


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
    test: datetime | Share

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
                "a share lies between 0 and 1, such as 0.2; a time is ISO 8601, such as 2024-05-03"
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
    test: Share

    @model_validator(mode="after")
    def _sum(self) -> RatioSplit:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must be less than 1: nothing would train")
        return self


class GivenSplit(Section):
    """``source.files`` are the training interactions; these files, of the same format, are the
    validation and the test interactions."""

    kind: Literal["given"]
    validation: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...]


Split = Annotated[LeaveOneOut | TimeSplit | RatioSplit | GivenSplit, Field(discriminator="kind")]


def microseconds(time: datetime) -> int:
    """Microseconds since 1970 of a time; a time without a zone is UTC."""
    aware = time if time.tzinfo else time.replace(tzinfo=timezone.utc)
    return (aware - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)


class Prepare(Section):
    """Raw log → histories."""

    source: Source
    items: AttributeTable | None = None
    users: AttributeTable | None = None
    events: dict[str, NonNegativeFinite] | None = None
    """Weight of each event type in training; 0 drops its interactions (reason ``dropped_event``).
    The key ``"*"`` is the weight of event types that are not named; left out: 1. A named event that
    no row of the log has is an error if the log has a similar event without a weight here, or has
    none of several named events; otherwise (nobody has returned an item yet) it is a warning."""
    changed_inputs: Literal["error", "keep"] = "error"
    """What happens if input files were added, removed or changed after this stage was complete.
    error: the stage ends with an error that names the files; keep: the prepared data stays in use,
    with a warning. Files that are all gone (a log that was deleted, or that this machine does not
    reach) are no change."""
    clean: Clean = Clean()
    vocabulary: ItemVocabulary = ItemVocabulary()
    split: Split = LeaveOneOut()
    session_gap: PositiveInt | None = None
    """Seconds without an interaction after which a new history (session) of the user begins. Left
    out: one history per user."""
    max_length: PositiveInt | None = None
    """Longest history; ``longer`` decides about longer histories. Left out: no limit."""
    longer: Literal["windows", "last"] = "windows"
    """windows: cut a longer history into windows of max_length, counted from its end, so that the
    first window is the short one; last: keep the latest max_length interactions and drop the
    others (reason ``over_length``)."""
    ties: Literal["log", "shuffled"] = "log"
    """Order of interactions of one user at one time: as in the log, or shuffled with the seed."""
    shards: PositiveInt | None = None
    """Number of files; users are spread over them by a hash of their id. Left out: one per two
    million rows of the log, but at least 8."""
    group_rows: PositiveInt | None = None
    """Histories per row group. Left out: 8,192, or fewer so that every lane has several groups."""

    @model_validator(mode="after")
    def _title(self) -> Prepare:
        if self.users is not None and self.users.title is not None:
            raise ValueError("users.title: only items have a title; remove it")
        return self

    @model_validator(mode="after")
    def _columns(self) -> Prepare:
        columns, clean, split = self.source.columns, self.clean, self.split
        if self.events is not None and columns.event is None:
            raise ValueError("events needs source.columns.event, which names no column")
        if clean.rating_range is not None and columns.rating is None:
            raise ValueError(
                "clean.rating_range needs source.columns.rating, which names no column"
            )
        if columns.timestamp is not None:
            return self
        timed = {
            "session_gap": self.session_gap is not None,
            "clean.repeat_window": clean.repeat_window is not None,
            "clean.time_range": clean.time_range is not None,
            "split.test": isinstance(split, TimeSplit) and isinstance(split.test, datetime),
        }
        for key, used in timed.items():
            if used:
                raise ValueError(
                    f"{key} needs times, but source.columns.timestamp names no column: name it, or "
                    f"remove {key}"
                )
        if isinstance(split, TimeSplit) and not FORMATS.find(self.source.format).in_order_of_time:
            raise ValueError(
                f"split 'time' needs interactions of all users in the order of time, but format "
                f"'{self.source.format}' has user after user: use leave_one_out or ratio"
            )
        return self
