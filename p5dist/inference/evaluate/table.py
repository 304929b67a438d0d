"""The metrics of an evaluation beside the baselines, for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

_KINDS = {"rmse": "Rating", "mae": "Rating", "auc": "Click", "logloss": "Click",
          "calibration": "Click"}  # fmt: skip


def table(result: dict[str, Any]) -> Group:
    """A table of ranking metrics, one of rating and one of click metrics, as far as there are any.

    Args:
        result: what evaluate/result.json holds.
    """
    protocol = result["protocol"]
    found = []
    for title in ("Ranking", "Rating", "Click"):
        keys = [key for key in result["metrics"] if _KINDS.get(key, "Ranking") == title]
        if keys:
            about = f"{title} of {protocol['targets']:,} {protocol['split']} interactions"
            if title == "Ranking":
                about += f" among {protocol['catalogue']:,} items"
                if protocol["ranking_item_to_item"]:
                    about += f", {protocol['ranking_item_to_item']:.0%} by item to item"
            found.append(_table(about, keys, result))
    return Group(*found)


def _table(title: str, keys: list[str], result: dict[str, Any]) -> Table:
    baselines = result["baselines"]
    names = [n for n, values in baselines.items() if any(key in values for key in keys)]
    table = Table(title=title, title_justify="left")
    table.add_column("metric", no_wrap=True)
    table.add_column("model", justify="right")
    table.add_column("low – high", justify="right", no_wrap=True)
    for name in names:  # where the terminal is narrow, these headings take two lines
        table.add_column(name.replace("_", " "), justify="right")
    for key in keys:
        value, low, high = (result["metrics"][key][part] for part in ("value", "low", "high"))
        interval = "" if low is None or high is None else f"{low:.4f} – {high:.4f}"
        others = [baselines[n].get(key) for n in names]
        shown = ["" if other is None else f"{other:.4f}" for other in others]
        table.add_row(key, f"{value:.4f}", interval, *shown)
    return table
