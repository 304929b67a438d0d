"""The metrics of model and baselines as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

from p5dist.ranking import results


def table(result: dict[str, Any]) -> Group:
    """A table of the ranking metrics and a table per task, as far as there are metrics, and a line
    about the interactions that are no targets.

    Args:
        result: content of evaluate/result.json.
    """
    protocol = result["protocol"]
    found: list[Table | str] = []
    for group in results.groups(result):
        about = f"{group.title} of {group.examples or 0:,} {protocol['split']} examples"
        if group.ranking:
            about = f"{group.title} of {protocol['targets']:,} {protocol['split']} interactions"
            about += f" among {protocol['catalogue']:,} items"
            if protocol.get("ranked_ids", protocol["catalogue"]) != protocol["catalogue"]:
                about += f" that share {protocol['ranked_ids']:,} ids"
            if protocol["ranking_item_to_item"]:
                about += f", {protocol['ranking_item_to_item']:.0%} by item to item"
        found.append(_table(about, group))
    found.append(results.accounts(protocol) or "")
    return Group(*found)


def _table(title: str, group: results.Group) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("metric", no_wrap=True)
    table.add_column("model", justify="right")
    table.add_column("low – high", justify="right", no_wrap=True)
    for name in group.baselines:  # with spaces, so that a narrow terminal can break the heading
        table.add_column(name.replace("_", " "), justify="right")
    for key, measured in group.metrics.items():
        low, high = measured["low"], measured["high"]
        interval = "" if low is None or high is None else f"{low:.4f} – {high:.4f}"
        others = [values.get(key) for values in group.baselines.values()]
        shown = ["" if other is None else f"{other:.4f}" for other in others]
        table.add_row(key, f"{measured['value']:.4f}", interval, *shown)
    return table
