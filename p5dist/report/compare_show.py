"""A comparison of runs in the terminal and as a page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from p5dist.report.page import environment

_MINUS = "\N{MINUS SIGN}"


def table(result: Mapping[str, Any]) -> Group:
    """A table for each side but the first, at most 80 columns wide.

    Args:
        result: of :func:`.compare.compare_runs`.
    """
    first = result["sides"][0]["label"]
    found: list[Table | Text] = []
    for s, side in enumerate(result["sides"][1:], 1):
        found.append(Text(f"{side['label']} against {first}", style="bold", overflow="fold"))
        for title in dict.fromkeys(metric["title"] for metric in result["metrics"]):
            rows = [metric for metric in result["metrics"] if metric["title"] == title]
            about = f"{title} of {rows[0]['examples']:,} targets of {rows[0]['users']:,} users"
            shown = _table("metric", about)
            for metric in rows:
                arrow = " ↓" if metric["lower_is_better"] else ""
                shown.add_row(metric["metric"] + arrow, *_cells(metric, s))
            found.append(shown)
        for segment in result["segments"]:
            if segment["groups"]:
                shown = _table("segment", f"{segment['metric']} by {segment['name']}")
                for group in segment["groups"]:
                    shown.add_row(group["label"], *_cells(group, s))
                found.append(shown)
    found += [Text(f"warning: {text}", style="yellow") for text in result["warnings"]]
    found.append(Text(method(result)))
    return Group(*found)


def method(result: Mapping[str, Any]) -> str:
    """A sentence about the intervals."""
    how = result["method"]
    if not how["resamples"]:
        return "no intervals (0 resamples)"
    text = f"{how['interval']} ({how['resamples']:,}, seed {how['seed']})"
    if "runs" in how["interval"].rpartition("users")[2]:
        text += ", the same seeds for all sides" if how["same_seeds"] else ", seeds of each side"
    return text + "; better, worse: share of users whose own mean differs"


def page(result: Mapping[str, Any]) -> str:
    """The comparison as one HTML page."""
    template = environment().get_template("compare.html.j2")
    return template.render(
        result=result, method=method(result), difference=signed, percent=_percent, bar=_bar,
        widest=widest(result), verdict=verdict,
    )  # fmt: skip


def signed(value: float | None) -> str:
    """+0.0123, with a true minus sign."""
    return "" if value is None else f"{value:+.4f}".replace("-", _MINUS)


def verdict(metric: Mapping[str, Any], side: int) -> str:
    """CSS class: good or bad if the interval leaves out 0, else muted."""
    difference = metric["sides"][side]["difference"]
    low, high = difference["low"], difference["high"]
    if low is None or low <= 0 <= high:
        return "muted"
    return "good" if (difference["value"] > 0) != metric["lower_is_better"] else "bad"


def widest(result: Mapping[str, Any]) -> dict[str, float]:
    """By title of the metrics: the largest distance of any interval's end from 0."""
    found: dict[str, float] = {}
    listed = [*result["metrics"], *(g for s in result["segments"] for g in s["groups"])]
    for metric in listed:
        for side in metric["sides"][1:]:
            ends = [side["difference"][name] for name in ("value", "low", "high")]
            reach = max(abs(end) for end in ends if end is not None)
            found[metric["title"]] = max(found.get(metric["title"], 0.0), reach)
    return found


def _bar(difference: Mapping[str, Any], reach: float) -> dict[str, float]:
    """x of value, low and high in a picture from 0 to 100 whose middle is 0."""

    def place(end: float | None) -> float:
        value = difference["value"] if end is None else end
        return 50 + 48 * value / reach if reach and math.isfinite(value) else 50.0

    return {name: round(place(difference[name]), 2) for name in ("value", "low", "high")}


def _table(first: str, title: str) -> Table:
    shown = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    shown.add_column(first, no_wrap=True)
    for name in ("first", "this", "change", "low – high", "p", "better", "worse"):
        shown.add_column(name, justify="right", no_wrap=True)
    return shown


def _cells(metric: Mapping[str, Any], side: int) -> list[str | Text]:
    first, own = metric["sides"][0], metric["sides"][side]
    apart = own["difference"]
    colour = {"good": "green", "bad": "red", "muted": ""}[verdict(metric, side)]
    low = "" if apart["low"] is None else f"{signed(apart['low'])} – {signed(apart['high'])}"
    p = "" if apart["p"] is None else f"{apart['p']:.3f}"
    return [
        f"{first['value']:.4f}", f"{own['value']:.4f}", Text(signed(apart["value"]), style=colour),
        low, p, _percent(apart["better"]), _percent(apart["worse"]),
    ]  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
