"""Histories with external ids, given by a caller → histories as the model reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import numpy as np

from p5dist.config import RunConfig
from p5dist.config.splits import microseconds
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Array, Ints, offsets_of
from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError, DataError
from p5dist.inference.items import SHOWN, Id, Items

Lists = Sequence[Sequence[Any]]
_YEAR_10000 = 253_402_300_800  # seconds
_EXACT = 1 << 53
"""Below it, float64 has every whole number."""


def given_histories(
    job: RunConfig,
    manifest: Manifest,
    items: Items,
    histories: Sequence[Sequence[Id]],
    *,
    times: Lists | None,
    events: Lists | None,
    ratings: Lists | None,
    users: Ints,
    unknown: Literal["error", "skip"],
) -> tuple[Histories, int]:
    """The histories, and the number of interactions left out because the run does not know the
    item.

    Args:
        histories: external item ids, the oldest first.
        times, events, ratings: one entry per interaction, required if the model reads the column;
            None: not given.
        users: [B] internal user ids, 0 for users that the run does not know.
        unknown: whether items that the run does not know are an error or left out.

    Raises:
        DataError: an unknown item or event, an invalid time; lists of different lengths; times that
            decrease; a column that the model reads and that is not given.
    """
    if unknown not in ("error", "skip"):
        raise ConfigError(
            "no such choice", where="unknown", value=repr(unknown), rule="'error' or 'skip'",
            fix="error: unknown items raise an error; skip: they are left out",
        )  # fmt: skip
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    flat = [item for history in histories for item in history]
    ids = items.ids(flat)
    needed = {name: name in job.model.columns for name in (c.TIMESTAMP, c.EVENT, c.RATING)}
    time = _column("times", times, lengths, _microseconds, np.int64, 0, needed[c.TIMESTAMP])
    event = _column("events", events, lengths, _event_codes(manifest), np.int8, 0, needed[c.EVENT])
    rating = _column("ratings", ratings, lengths, _rating, np.float32, np.nan, needed[c.RATING])
    offsets = offsets_of(lengths)
    found = Histories(
        user=users,
        row=np.arange(len(histories), dtype=np.int64),
        offsets=offsets,
        item=ids,
        timestamp=time,
        event=event,
        rating=rating,
        split=np.zeros(len(flat), dtype=np.int8),
    )
    _check_order(found)
    strange = np.flatnonzero(ids == 0)
    if len(strange) and unknown == "error":
        owner = found.owner()[strange]
        named = ", ".join(
            f"{flat[i]!r} (history {h})"
            for i, h in zip(strange[:SHOWN], owner[:SHOWN], strict=True)
        )
        raise DataError(
            "items that the run does not know", where="histories",
            value=named + (" …" if len(strange) > SHOWN else ""),
            rule=f"the run knows {len(items):,} items, by the ids of its log",
            fix="correct the ids, or pass unknown='skip' to leave these interactions out",
        )  # fmt: skip
    return found.where(ids > 0), len(strange)


def given_times(times: Sequence[Any], number: int) -> Ints:
    """[n] microseconds since 1970 of ``times``, one time for each of n = ``number`` histories.

    Raises:
        DataError: another number of times, or a value that is no time.
    """
    one_each = [[time] for time in times]
    lengths = np.ones(number, dtype=np.int64)
    found: Ints = _column("at", one_each, lengths, _microseconds, np.int64, 0, False)
    return found


def _column(
    name: str,
    given: Lists | None,
    lengths: Ints,
    parse: Any,
    kind: type,
    default: float,
    needed: bool,
) -> Array:
    """[T] values of an interaction's column."""
    if given is None:
        if needed:
            raise DataError(
                f"the model reads the {name} of interactions", where=name,
                rule="one entry for each interaction of each history", fix=f"pass {name}=[[…], …]",
            )  # fmt: skip
        return np.full(int(lengths.sum()), default, dtype=kind)
    found = [len(values) for values in given]
    if found != lengths.tolist():
        at = next(
            (i for i, (a, b) in enumerate(zip(found, lengths.tolist(), strict=False)) if a != b),
            min(len(found), len(lengths)),
        )
        raise DataError(
            f"{name} and histories have different lengths", where=f"{name}, history {at}",
            value=f"{found[at] if at < len(found) else 'nothing'} for "
            f"{lengths[at] if at < len(lengths) else 'no'} interactions",
            rule="one entry for each interaction", fix=f"correct {name}",
        )  # fmt: skip
    if (at_once := _numbers(given, parse)) is not None:
        return at_once.astype(kind)
    values = []
    for number, own in enumerate(given):
        for position, value in enumerate(own):
            try:
                values.append(parse(value))
            except (TypeError, ValueError, OverflowError, KeyError) as e:
                raise DataError(
                    f"invalid entry of {name}", where=f"{name}, history {number}, entry {position}",
                    value=repr(value), rule=getattr(parse, "rule", "a number"),
                    fix=f"correct {name}",
                ) from e  # fmt: skip
    return np.array(values, dtype=kind)


def _numbers(given: Lists, parse: Any) -> Array | None:
    """What ``parse`` makes of finite numbers, of all at once; None if it has to see each value."""
    if parse not in (_microseconds, _rating):
        return None
    flat = [value for own in given for value in own]
    if not set(map(type, flat)) <= {int, float}:
        return None
    try:
        values = np.array(flat, dtype=np.float64)
    except OverflowError:
        return None
    if parse is _rating:
        return values
    microseconds = np.rint(values * c.SECOND)
    return microseconds if (np.abs(microseconds) < _EXACT).all() else None


def _rating(value: Any) -> float:
    return np.nan if value is None else float(value)


_rating.rule = "a number, or None if there is no rating"  # type: ignore[attr-defined]


def _microseconds(value: Any) -> int:
    """Microseconds since 1970."""
    if isinstance(value, np.datetime64):
        value = value.astype("M8[us]").item()
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return microseconds(value)
    if not abs(value) < _YEAR_10000:
        raise ValueError
    found: int = round(value * c.SECOND)
    return found


_microseconds.rule = (  # type: ignore[attr-defined]
    "seconds since 1970 (not milliseconds), a datetime, or ISO 8601, at most the year 9999"
)


def _event_codes(manifest: Manifest) -> Any:
    codes: Mapping[str, int] = {name: i for i, name in enumerate(manifest.events, 1)}

    def code(value: Any) -> int:
        return 0 if value is None else codes[value]

    code.rule = f"one of: {', '.join(codes) or 'none'}; None: no event"  # type: ignore[attr-defined]
    return code


def _check_order(histories: Histories) -> None:
    time, owner = histories.timestamp, histories.owner()
    falls = np.flatnonzero((np.diff(time) < 0) & (owner[1:] == owner[:-1])) + 1
    if len(falls):
        at = int(falls[0])
        position = at - int(histories.offsets[owner[at]])
        raise DataError(
            "the times of a history decrease", where=f"history {owner[at]}, interaction {position}",
            value=f"{time[at] / c.SECOND:.15g} after {time[at - 1] / c.SECOND:.15g} (seconds)",
            rule="a history is in the order of time, the oldest interaction first",
            fix="sort the interactions of the history by time",
        )  # fmt: skip


def check_k(k: int) -> None:
    """Raise ConfigError unless ``k`` is a whole number from 1."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ConfigError(
            "invalid list length", where="k", value=repr(k), rule="a whole number, at least 1",
            fix="for example k=10",
        )  # fmt: skip


def check_lists(lists: Any, where: str) -> None:
    """Raise DataError unless ``lists`` is a list of lists of ids."""
    outer = [lists] if not _is_list(lists) else [one for one in lists if not _is_list(one)]
    if outer:
        raise DataError(
            f"{where} must be lists of item ids", where=where, value=repr(outer[0]),
            rule="lists of lists: [['a', 'b'], ['c']]",
            fix="put the ids of each history into a separate list",
        )  # fmt: skip


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, (str, bytes))
