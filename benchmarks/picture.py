"""A picture of the runs of a result."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib.style
from compare import numbers
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

STYLE: list[str | Path | dict[str, Any]] = ["default", {"svg.hashsalt": "p5dist", "font.size": 9.5}]


def draw(result: dict[str, Any], place: Path) -> bool:
    """Draw every number that has a direction (``better``) in the result: runs as points, their
    median as a bar. Each number has a panel with a bar per measured thing; if only one thing was
    measured, each direction has a panel with a bar per number. Returns False, without drawing, if
    there is no such number."""
    panels: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for name, values in numbers(result.get("runs") or {}):
        *measured, number = name.split(": ")
        direction = result.get("better", {}).get(number)
        if direction is not None and measured:
            panels[f"{number} ({direction} is better)"][": ".join(measured)] = values
        elif direction is not None:
            panels[f"{direction} is better"][number] = values
    if not panels:
        return False
    with matplotlib.style.context(STYLE):
        heights = [0.7 + 0.3 * len(found) for found in panels.values()]
        figure = Figure(figsize=(5.5, sum(heights)), layout="constrained")
        axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
        for ax, (label, found) in zip(axes, panels.items(), strict=True):
            names = list(found)
            ax.barh(names, [statistics.median(values) for values in found.values()], color="0.85")
            for name, values in found.items():
                ax.plot(values, [name] * len(values), "o", color="C0", alpha=0.6, markersize=4)
            ax.invert_yaxis()
            ax.set_xlabel(label)
            ax.xaxis.set_major_locator(MaxNLocator(6))
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
            ax.spines[["top", "right"]].set_visible(False)
        figure.savefig(place, metadata={"Date": None})
    return True
