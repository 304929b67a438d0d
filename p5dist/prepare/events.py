"""Events that the job names and the log does not have: misspelt, or absent for now."""

from __future__ import annotations

from collections.abc import Iterable

from p5dist.config.prepare import Prepare
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
    there = sorted(set(seen) - {""})
    named = [name for name in prepare.events or {} if name != OTHER_EVENTS]
    absent = [name for name in named if name not in there]
    others = [name for name in there if name not in named]
    shown = ", ".join(there[:_SHOWN]) + (" …" if len(there) > _SHOWN else "")
    for name in absent:
        near = nearest(name, others)
        if near is not None or len(absent) == len(named) > 1:
            hint = (
                f"did you mean '{near}'? If '{near}' is another event, give it a weight too"
                if near is not None
                else "name events of the log, or correct prepare.source.columns.event"
            )
            raise ConfigError(
                f"no row of the log has the event '{name}'", where=f"prepare.events.{name}",
                value=name, rule=f"the events of the log: {shown or 'none'}", fix=hint,
            )  # fmt: skip
    return [f"no row of the log has the event '{name}' of prepare.events" for name in absent]
