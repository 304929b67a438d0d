"""The ``prepare`` section: the raw log, and how it becomes histories."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from p5dist.config.base import Section
from p5dist.config.raw_files import AttributeTable, Source
from p5dist.config.registry import FORMATS
from p5dist.config.splits import LeaveOneOut, Split, TimeSplit

NonNegativeFinite = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Clean(Section):
    """Rules that drop rows; each dropped row is counted under one reason."""

    duplicates: Literal["drop", "keep"] = "drop"
    """Rows whose user, item, timestamp, event and rating all repeat an earlier row."""
    rating_range: tuple[float, float] | None = None
    """Smallest and largest rating, both included."""
    time_range: tuple[int, int] | None = None
    """First and last second since 1970, both included, whatever the unit of the log."""
    repeat_window: NonNegativeInt | None = None
    """Seconds: drops an interaction if the preceding one of the same user, item and event, dropped
    or not, is at most this much older."""
    max_user_interactions: PositiveInt | None = None
    """Users with more interactions, after duplicates and repeats are dropped, are taken for bots
    and dropped."""
    min_user_interactions: PositiveInt = 1
    """Users with fewer interactions are dropped, see min_item_interactions."""
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


class Privacy(Section):
    """What the prepared data keeps of people."""

    pseudonyms: str | None = None
    """Name of the environment variable with a key. Ids of users become pseudonyms (HMAC-SHA256)
    where the log, the table about users and ``recommend.histories`` are read, so that no file of
    the run has the ids of the log, and only who has the key can find a person
    (``p5dist pseudonym``)."""
    min_item_users: PositiveInt = 1
    """Items that fewer users have interacted with are dropped (reason ``few_users``): an item of
    one person is a trace of the person. Counted among the interactions that are left once
    duplicates, repeats and bots are dropped, in turn with the k-core."""
    retention: PositiveInt | None = None
    """Days before the latest interaction of the log; older interactions are dropped (reason
    ``expired``). Left out: all are kept."""


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
    privacy: Privacy = Privacy()
    vocabulary: ItemVocabulary = ItemVocabulary()
    split: Split = LeaveOneOut()
    continues: str | None = None
    """Folder or URL of an earlier run whose histories this log goes on with (``p5dist advance``).
    The users of the log, and those with interactions that the earlier run held out, have their
    earlier interactions before the new ones. Training predicts what the earlier run did not: what
    it held out, and new interactions before ``split.test``; earlier ones are input. Items keep
    their ids."""
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

    def _check_held_out(self, events: tuple[str, ...]) -> None:
        if self.source.columns.event is None:
            raise ValueError("split.events needs source.columns.event, which names no column")
        for event in events:
            if (self.events or {}).get(event) == 0:
                raise ValueError(
                    f"split.events holds out '{event}', whose interactions prepare.events drops: "
                    "give it a weight above 0, or hold out other events"
                )

    @model_validator(mode="after")
    def _goes_on(self) -> Prepare:
        if self.continues is None:
            return self
        vocabulary, split = self.vocabulary, self.split
        timed = isinstance(split, TimeSplit) and isinstance(split.test, datetime)
        for wrong, rule in (
            (not timed, "split.kind time, with a time as split.test"),
            (
                vocabulary.of != "all",
                "vocabulary.of all: what is held out now trains later",
            ),
            (vocabulary.extend is not None, "no vocabulary.extend: items keep their ids anyway"),
            (vocabulary.hashed is not None, "a vocabulary that is not hashed"),
            (self.source.columns.timestamp is None, "source.columns.timestamp"),
            (self.longer == "last", "longer: windows, since last drops what is to be trained"),
        ):
            if wrong:
                raise ValueError(f"continues needs {rule}")
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
        if isinstance(split, LeaveOneOut) and split.events is not None:
            self._check_held_out(split.events)
        if columns.timestamp is not None:
            return self
        kind = FORMATS.find(self.source.format)
        timed = {
            "session_gap": self.session_gap is not None,
            "clean.repeat_window": clean.repeat_window is not None,
            "clean.time_range": clean.time_range is not None,
            "privacy.retention": self.privacy.retention is not None,
            "split.test": isinstance(split, TimeSplit) and isinstance(split.test, datetime),
        }
        for key, used in timed.items():
            if used:
                why = "source.columns.timestamp names no column: name it, or"
                if "timestamp" not in kind.optional_columns:
                    why = f"format '{self.source.format}' has none:"
                raise ValueError(f"{key} needs times, but {why} remove {key}")
        if isinstance(split, TimeSplit) and not kind.in_order_of_time:
            raise ValueError(
                f"split 'time' needs interactions of all users in the order of time, but format "
                f"'{self.source.format}' has user after user: use leave_one_out or ratio"
            )
        return self
