"""Names of events: their codes, and what a misspelt name was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to ``name``, whatever the case of letters; None if no
    known name is similar."""
    folded = {other.casefold().strip(): other for other in known}
    found = difflib.get_close_matches(name.casefold().strip(), folded, n=1)
    return folded[found[0]] if found else None


def check_events(manifest: Manifest, names: Iterable[str], key: str) -> None:
    """Raise a ConfigError if the prepared data does not have one of the events ``names``.

    Args:
        key: key path of the setting that names them.
    """
    for name in names:
        if name not in manifest.events:
            near = nearest(name, manifest.events)
            raise ConfigError(
                "no such event in the prepared data", where=key, value=name,
                rule=f"its events: {', '.join(manifest.events) or 'none'}",
                fix=f"did you mean '{near}'?" if near is not None else
                "name one of them; prepare.events drops events of weight 0",
            )  # fmt: skip


def event_codes(manifest: Manifest, names: Iterable[str], key: str) -> tuple[int, ...]:
    """The codes of events in histories, rising.

    Raises:
        ConfigError: as :func:`check_events`.
    """
    names = set(names)
    check_events(manifest, names, key)
    return tuple(code for code, name in enumerate(manifest.events, 1) if name in names)
