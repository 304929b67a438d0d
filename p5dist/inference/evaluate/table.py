"""The metrics of model and baselines as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from p5dist.ranking import results

_MAIN = ("ndcg", "hr", "mrr", "accuracy")
"""Metrics that are shown at every k, in this order."""
_BASELINES = 5
"""Baselines of one table."""


def table(result: dict[str, Any]) -> Group:
    """A table of the ranking metrics, one of the lists and one per task, as far as there are
    metrics, and a line about the interactions that are no targets. A terminal of 80 columns has
    room for a table.

    Args:
        result: content of evaluate/result.json.
    """
    protocol = result["protocol"]
    found: list[Table | str | Group] = []
    for group in results.groups(result):
        for number, part in enumerate(_parts(group)):
            about = _about(part, protocol) if not number else f"{group.title}: more baselines"
            found.append(_table(about, part))
    found.append(results.accounts(protocol) or "")
    if result.get("audit"):
        found.append(audit_table(result["audit"]))
    return Group(*found)


def _about(group: results.Group, protocol: dict[str, Any]) -> str:
    """The title of a table."""
    if group.title == results.LISTS:
        return f"Lists of {protocol['lists']:,} {protocol['histories']}; other k: --json, report"
    if not group.ranking:
        return f"{group.title} of {group.examples or 0:,} {protocol['split']} examples"
    about = f"{group.title} of {protocol['targets']:,} {protocol['split']} interactions"
    about += f" among {protocol['catalogue']:,} items"
    if protocol.get("ranked_ids", protocol["catalogue"]) != protocol["catalogue"]:
        about += f" that share {protocol['ranked_ids']:,} ids"
    if protocol["ranking_item_to_item"]:
        about += f", {protocol['ranking_item_to_item']:.0%} by item to item"
    if protocol.get("ranking_returns"):
        about += ", own items by returns"
    return about


def _parts(group: results.Group) -> list[results.Group]:
    """Tables with few baselines each, and without the metrics that have no room: of lists those at
    one k only."""
    keys = list(group.metrics)
    if group.ranking or group.title == results.LISTS:
        keys = _shown(keys)
    names = list(group.baselines)
    return [
        replace(
            group,
            metrics={key: group.metrics[key] for key in keys},
            baselines={name: group.baselines[name] for name in names[begin : begin + _BASELINES]},
        )
        for begin in range(0, max(len(names), 1), _BASELINES)
    ]


def _shown(keys: list[str]) -> list[str]:
    """The main metrics of targets first; then those of lists, at one k."""
    split = {key: key.partition("@")[::2] for key in keys}
    main = results.main_k({int(k) for _, k in split.values() if k} or {1})
    first = [key for root in _MAIN for key in keys if split[key][0] == root]
    others = [key for key in keys if split[key][0] not in _MAIN and split[key][1] == str(main)]
    return first + others


def _table(title: str, group: results.Group) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("metric", no_wrap=True)
    table.add_column("model", justify="right", no_wrap=True)
    intervals = any(m["low"] is not None for m in group.metrics.values())
    if intervals:
        table.add_column("low–high", justify="right", no_wrap=True)
    for name in group.baselines:  # the heading breaks between words
        words = name.split("_")
        table.add_column(" ".join(words), justify="right", width=max(6, *map(len, words)))
    for key, measured in group.metrics.items():
        low, high = measured["low"], measured["high"]
        cells = [_text(measured["value"])]
        if intervals:
            both = low is not None and high is not None
            cells.append(f"{_text(low)}–{_text(high)}" if both else "")
        others = [values.get(key) for values in group.baselines.values()]
        table.add_row(key, *cells, *map(_text, others))
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


def _text(value: float | None) -> str:
    """Four decimals of a metric of targets, fewer of large numbers such as popularity@10."""
    if value is None:
        return ""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:.{4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0}f}"
