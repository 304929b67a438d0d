"""The metrics of an evaluation beside the baselines, for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table


def table(result: dict[str, Any]) -> Group:
    """A table of the ranking metrics and one of each kind of task, as far as there are any, and a
    line about the interactions that are no targets.

    Args:
        result: what evaluate/result.json holds.
    """
    protocol, info = result["protocol"], result["metric_info"]
    found: list[Table | str] = []
    for title in dict.fromkeys(entry["title"] for entry in info.values()):
        keys = [key for key in result["metrics"] if info[key]["title"] == title]
        if keys:
            about = f"{title} of {protocol['targets']:,} {protocol['split']} interactions"
            if title == "Ranking":
                about += f" among {protocol['catalogue']:,} items"
                if protocol["ranking_item_to_item"]:
                    about += f", {protocol['ranking_item_to_item']:.0%} by item to item"
            found.append(_table(about, keys, result))
    found.append(accounts(protocol))
    return Group(*found)


def accounts(protocol: dict[str, Any]) -> str:
    """Where every interaction of the split went, in a sentence."""
    words = {
        "no_history": "without an earlier interaction to predict from",
        "repeated": "repeats (evaluate.targets: new)",
        "user_not_chosen": "of users that evaluate.users does not choose",
    }
    text = (
        f"{protocol['interactions']:,} {protocol['split']} interactions: "
        f"{protocol['targets']:,} targets"
    )
    for reason, number in protocol["left_out"].items():
        text += f", {number:,} {words.get(reason, reason)}"
    if protocol["repeats"] and protocol["targets_wanted"] == "all":
        fate = "count as misses (mask_seen)" if protocol["mask_seen"] else "are ranked as any"
        text += f"; {protocol['repeats']:,} targets repeat an item of their user and {fate}"
    return text


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
