"""Rejected rows in words: how many for which reason, and a value of each."""

from __future__ import annotations

from collections.abc import Mapping

from p5dist.config.raw_files import Source
from p5dist.config.registry import FORMATS
from p5dist.prepare.cleaning import REASONS

_SHOWN = 60  # characters


class Rejects:
    """Rows of the log that are left out, by reason."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples: dict[str, str] = {}
        """The value for which the first row was rejected, or the malformed record."""

    def add(self, counts: Mapping[str, int], examples: Mapping[str, str] | None = None) -> None:
        for reason, n in counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + n
        for reason, value in (examples or {}).items():
            self.examples.setdefault(reason, value)

    def by_reason(self) -> dict[str, int]:
        """Rows by reason, in the order in which the reasons are checked."""
        return {reason: n for reason in REASONS if (n := self.counts.get(reason, 0))}

    def __str__(self) -> str:
        words = []
        for reason, n in self.by_reason().items():
            value = self.examples.get(reason)
            such = "" if value is None else f" (the first: {shown(value)})"
            words.append(f"{reason} {n:,}{such}")
        return ", ".join(words)


def shown(value: str) -> str:
    """A value as messages show it."""
    return repr(value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…")


def forms_of(reason: str, source: Source) -> str | None:
    """The forms that are accepted, where rows are rejected for their form."""
    if reason == "bad_timestamp" and source.timestamp_unit == "iso":
        return (
            "times of timestamp_unit 'iso' are 2024-05-01, 2024-05-01T12:30:00.5+02:00 or "
            "2024-05-01 12:30:00 UTC; numbers need timestamp_unit s, ms, us or ns"
        )
    if reason == "bad_timestamp":
        return (
            f"times of timestamp_unit '{source.timestamp_unit}' are numbers such as 1714566600, "
            "counted from 1970; dates such as 2024-05-01 need timestamp_unit iso"
        )
    if reason == "time_out_of_range":
        return "prepare.clean.time_range is in seconds since 1970, whatever the unit of the log"
    if reason == "after_test":
        return "they follow the test interaction of their history (prepare.split.events)"
    if reason == "expired":
        return "they are older than prepare.privacy.retention allows"
    if reason == "few_users":
        return "prepare.privacy.min_item_users drops items of fewer users"
    if reason == "bad_rating":
        return "ratings are decimal numbers such as 4 or 3.5"
    if reason == "malformed" and FORMATS.find(source.format).is_delimited:
        return "a line has one field for each column, and quotes around values are closed"
    return None
