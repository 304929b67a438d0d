"""Names of events: what a misspelt name was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to ``name``, whatever the case of letters; None if no
    known name is similar."""
    folded = {other.casefold().strip(): other for other in known}
    found = difflib.get_close_matches(name.casefold().strip(), folded, n=1)
    return folded[found[0]] if found else None
