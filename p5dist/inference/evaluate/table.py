"""The metrics of model and baselines as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from p5dist.ranking import results


def table(result: dict[str, Any]) -> Group:
    """A table of the ranking metrics and a table per task, as far as there are metrics, and a line
    about the interactions that are no targets.

    Args:
        result: content of evaluate/result.json.
    """
    protocol = result["protocol"]
    found: list[Table | str | Group] = []
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
    if result.get("audit"):
        found.append(audit_table(result["audit"]))
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


def audit_table(checks: Sequence[Mapping[str, Any]]) -> Group:
    """The checks of the protocol that found something, and how many passed.

    Args:
        checks: of :func:`.protocol_audit.audit`.
    """
    found: list[Table | Text] = []
    wrong = [check for check in checks if check["status"] == "found"]
    if wrong:
        table = Table(
            title="Checks of the protocol", title_justify="left", box=None, padding=(0, 1)
        )
        table.add_column("found")
        table.add_column("number", justify="right", no_wrap=True)
        table.add_column("meaning")
        for check in wrong:
            words = check["explanation"]
            if check["examples"]:
                words += f" ({check['examples'][0]})"
            number = f"{check['number']:,} of {check['of']:,}"
            table.add_row(Text(check["name"]), number, Text(words))
        found.append(table)
    passed = sum(check["status"] == "ok" for check in checks)
    words = f"{passed} checks of the protocol passed"
    if not_checked := len(checks) - passed - len(wrong):
        words += f", {not_checked} not checked"
    found.append(Text(words))
    return Group(*found)
