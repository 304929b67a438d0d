"""The metrics of an evaluation beside the baselines, for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

_RATING = ("rmse", "mae")


def table(result: dict[str, Any]) -> Group:
    """A table of ranking metrics and one of rating metrics, as far as there are any.

    Args:
        result: what evaluate/result.json holds.
    """
    protocol = result["protocol"]
    found = []
    for title, rating in (("Ranking", False), ("Rating", True)):
        keys = [key for key in result["metrics"] if (key in _RATING) == rating]
        if keys:
            about = f"{title} of {protocol['targets']:,} {protocol['split']} interactions"
            if not rating:
                about += f" among {protocol['catalogue']:,} items"
            found.append(_table(about, keys, result))
    return Group(*found)


def _table(title: str, keys: list[str], result: dict[str, Any]) -> Table:
    baselines = result["baselines"]
    names = [n for n, values in baselines.items() if any(key in values for key in keys)]
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    for heading in ("model", "low – high", *(n.replace("_", " ") for n in names)):
        table.add_column(heading, justify="right")
    for key in keys:
        value, low, high = (result["metrics"][key][part] for part in ("value", "low", "high"))
        interval = "" if low is None or high is None else f"{low:.4f} – {high:.4f}"
        others = [baselines[n].get(key) for n in names]
        shown = ["" if other is None else f"{other:.4f}" for other in others]
        table.add_row(key, f"{value:.4f}", interval, *shown)
    return table
