"""Raw files: the sections of the log and of the tables about items and users."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import (
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from p5dist.config.base import Files, Section
from p5dist.config.registry import ATTRIBUTES, FORMATS, Chosen, Named, in_words


class Attribute(Section):
    """The settings that all kinds of attributes have, of an item, a user, or the context of an
    interaction. The kind adds its own settings (:mod:`p5dist.prepare.attribute_kinds`)."""

    kind: str
    """category: one value; multi: several values, split at ``separator``; words: the words of a
    text (runs of letters and digits) in lower case; numeric: binned at ``bins``; vector: a list of
    numbers; text: text for display, not for models; or ``package.module:Class``."""
    column: str | None = None
    """Column that the attribute is read from. Left out: the column with the attribute's name."""
    min_count: PositiveInt = 1
    """Values that occur in fewer rows are left out."""

    for_models: ClassVar[bool] = True
    """Whether the attribute has values that are counted and get ids, which models can read."""
    is_vector: ClassVar[bool] = False
    """Whether the attribute is a vector, which models can read."""
    for_context: ClassVar[bool] = False
    """Whether the attribute can describe the context of an interaction (one value per column)."""

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
    """Column with the id of the user."""
    item: str = "item_id"
    """Column with the id of the item."""
    timestamp: str | None = None
    """Column of the time; left out: the order of the log is the order of time."""
    rating: str | None = None
    """Column with the rating; left out: the log has no ratings."""
    event: str | None = None
    """Column with the type of the event (view, purchase); left out: the log has no events."""
    context: dict[str, AnyAttribute] = {}
    """Columns with the context of an interaction, such as device, shop or hour."""

    @model_validator(mode="after")
    def _two_columns(self) -> Columns:
        if self.user == self.item:
            raise ValueError(f"user and item are both in column '{self.user}': name two columns")
        return self

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

    files: Files
    """A path, a glob, a folder (with all its subfolders), a URL, ``dataset:NAME/FILE`` (see
    ``p5dist datasets``), or a list of these. The files of one entry are read in the order of their
    paths."""
    format: Annotated[str, Named(FORMATS)] = "csv"
    """csv, tsv, jsonl, parquet, sequences (one line of text per user, ``user item item …`` in the
    order of time), sql (``files`` are queries), kafka (``files`` are topics), or
    ``package.module:Class``. Text in a file whose name ends in .gz, .zst, .bz2 or .lz4 is
    decompressed."""
    names: tuple[str, ...] | None = None
    """Column names of csv and tsv files that have no header line."""
    delimiter: str | None = None
    """Character between the fields of csv and tsv files. Left out: a comma, a tab."""
    quote: str | None = None
    """Character around values of csv and tsv files that hold delimiters or line ends, or ``none``.
    Left out: the double quote in csv, none in tsv."""
    encoding: str = "utf-8"
    """Of text files, such as latin-1, cp1252, utf-16 or shift_jis."""
    connection: str | None = None
    """Of sql and kafka: name of the environment variable that has the connection, on every machine
    of the run; the job itself has no secrets."""

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
        if kind.connects != (self.connection is not None):
            what = "is needed by" if kind.connects else "is not for"
            raise ValueError(
                f"connection {what} format '{self.format}': "
                + ("name the environment variable that has it" if kind.connects else "remove it")
            )
        if kind.is_delimited and self.quote and self.quote == (self.delimiter or kind.delimiter):
            raise ValueError("delimiter and quote must be two characters")
        return self

    @field_validator("delimiter", "quote")
    @classmethod
    def _one_character(cls, mark: str | None, info: ValidationInfo) -> str | None:
        if info.field_name == "quote" and mark in ("", "none"):
            return ""
        if mark is None:
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

    @model_validator(mode="after")
    def _vectors(self) -> AttributeTable:
        for name, attribute in self.attributes.items():
            if attribute.is_vector and not FORMATS.find(self.format).has_lists:
                raise ValueError(
                    f"'{name}' is of kind '{attribute.kind}', but format '{self.format}' has no "
                    f"columns of lists of numbers: use {FORMATS.ours_with('has_lists', 'or')} "
                    "(p5dist embed writes it)"
                )
        return self

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
