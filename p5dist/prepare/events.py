"""Events that the job names and the log does not have: misspelt, or absent for now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from p5dist.config.prepare import Prepare
from p5dist.config.splits import LeaveOneOut
from p5dist.data.events import nearest
from p5dist.errors import ConfigError
from p5dist.prepare.cleaning import OTHER_EVENTS

_SHOWN = 20


def absent_events(prepare: Prepare, seen: Iterable[str]) -> list[str]:
    """Warnings about the events of prepare.events that no row has.

    Args:
        seen: all events of the log, also of dropped rows.

    Raises:
        ConfigError: a name is probably a mistake, see :attr:`Prepare.events`.
    """
    named = [name for name in prepare.events or {} if name != OTHER_EVENTS]
    most = max(len(named) - 1, 1)
    return _absent(named, seen, "prepare.events", "give it a weight", most=most, dotted=True)


def absent_held_out(prepare: Prepare, seen: Iterable[str]) -> list[str]:
    """Warnings about the events of prepare.split.events that no row has.

    Args:
        seen: all events of the log that are not dropped.

    Raises:
        ConfigError: there is none of them, or a name is probably a mistake.
    """
    split = prepare.split
    if not isinstance(split, LeaveOneOut) or split.events is None:
        return []
    most = len(split.events) - 1
    return _absent(split.events, seen, "prepare.split.events", "hold it out", most=most)


def _absent(
    named: Sequence[str],
    seen: Iterable[str],
    key: str,
    advice: str,
    *,
    most: int,
    dotted: bool = False,
) -> list[str]:
    """Warnings about up to ``most`` names that are absent and similar to no event of the log; more
    of them, or a similar one, are an error. With ``dotted`` a name is a key below ``key``."""
    there = sorted(set(seen) - {""})
    absent = [name for name in named if name not in there]
    others = [name for name in there if name not in named]
    shown = ", ".join(there[:_SHOWN]) + (" …" if len(there) > _SHOWN else "")
    for name in absent:
        near = nearest(name, others)
        if near is not None or len(absent) > most:
            hint = (
                f"did you mean '{near}'? If '{near}' is another event, {advice} too"
                if near is not None
                else "name events of the log, or correct prepare.source.columns.event"
            )
            raise ConfigError(
                f"no row of the log has the event '{name}'",
                where=f"{key}.{name}" if dotted else key, value=name,
                rule=f"the events of the log: {shown or 'none'}", fix=hint,
            )  # fmt: skip
    return [f"no row of the log has the event '{name}' of {key}" for name in absent]
