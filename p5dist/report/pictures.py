"""Pictures as inline SVG that follow the page's colours, light and dark.

matplotlib draws with marker colours, which are then replaced by CSS variables. The same numbers
give the same bytes: no date, and element ids from a fixed salt.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from p5dist.report.format import compact
from p5dist.report.read import Facts, Floats, TrainingRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 400  # of a curve; more are not visible

_COLOURS = {
    name: f"#0102{i:02x}" for i, name in enumerate(("ink", "muted", "line", "first", "second"), 10)
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "text.color": _COLOURS["ink"],
    "axes.edgecolor": _COLOURS["line"],
    "axes.labelcolor": _COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _COLOURS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": _COLOURS["line"],
    "ytick.color": _COLOURS["line"],
    "xtick.labelcolor": _COLOURS["muted"],
    "ytick.labelcolor": _COLOURS["muted"],
    "lines.linewidth": 1.6,
    "date.converter": "concise",
}


def data_pictures(profile: Facts) -> list[tuple[str, Markup]]:
    """(caption, picture) of every distribution in profile.json that has numbers."""
    lengths, items = profile.get("lengths", {}), profile.get("item_counts", {})
    days, ratings = profile.get("per_day", {}), profile.get("ratings", {})
    found = [
        ("History lengths", lengths.get("counts"), lambda ax: _lengths(ax, lengths)),
        ("Popularity of items", items.get("count"), lambda ax: _popularity(ax, items)),
        ("Interactions over time", days.get("count"), lambda ax: _days(ax, days)),
        ("Ratings", ratings.get("count"), lambda ax: _ratings(ax, ratings)),
    ]
    return [(caption, draw(caption, how)) for caption, numbers, how in found if numbers]


def loss_picture(training: TrainingRun) -> Markup | None:
    """Loss (as logged, and its running mean) and learning rate by step."""
    step, loss, rate = (training.column(name) for name in ("step", "loss", "lr"))
    known = np.isfinite(loss)
    if known.sum() < 2:
        return None
    return draw(
        f"Loss of {training.stage}",
        lambda ax: _loss(ax, step[known], loss[known], rate[known]),
    )


def draw(label: str, how: Callable[[Axes], None]) -> Markup:
    """An ``<svg>`` element with the drawing of ``how``; screen readers read ``label``."""
    import matplotlib.style
    from matplotlib.figure import Figure

    sink = io.StringIO()
    with matplotlib.style.context(["default", {**_STYLE, "svg.hashsalt": label}]):
        figure = Figure(figsize=(4.5, 2.5), layout="constrained")
        how(figure.add_subplot())
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_inline(sink.getvalue(), label))


def running_mean(values: Floats, window: int) -> Floats:
    """[n] mean of the last ``window`` values (fewer at the start)."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return np.asarray((total[end] - total[start]) / (end - start))


def thin(values: Floats, points: int = POINTS) -> Floats:
    """[≤ points] means of equally many neighbours each."""
    if len(values) <= points:
        return values
    edges = np.linspace(0, len(values), points + 1).astype(np.int64)
    return np.asarray(np.add.reduceat(values, edges[:-1]) / np.diff(edges))


def _inline(svg: str, label: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # numbered by figure: not unique on a page
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for name, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None, "matplotlib writes a viewBox"
    head = f'<svg {box.group()} role="img" aria-label="{escape(label)}">'
    return re.sub(r"\n\s*", "\n", head + svg[svg.index(">") + 1 :]).strip()


def _plain(ax: Axes, *axes: str) -> None:
    for name in axes or ("x", "y"):
        axis = ax.xaxis if name == "x" else ax.yaxis
        axis.set_major_formatter(compact)
        axis.set_minor_formatter("")
    ax.tick_params(which="both", length=0)


def _lengths(ax: Axes, lengths: Facts) -> None:
    counts = np.trim_zeros(np.asarray(lengths["counts"]), "f")
    edges = np.asarray(lengths["edges"], dtype=np.float64)[-len(counts) - 1 :]
    ax.stairs(counts, edges, fill=True, color=_COLOURS["first"])
    ax.set(xlabel="interactions of a user", ylabel="users")
    ax.grid(False, axis="x")
    if edges[0] > 0:
        ax.set_xscale("log", subs=[2, 5])
    _plain(ax)
    if edges[-1] < 1000 * max(edges[0], 1):  # few decades have few whole powers of ten
        ax.xaxis.set_minor_formatter(compact)


def _popularity(ax: Axes, items: Facts) -> None:
    few = len(items["rank"]) < 2
    ax.loglog(items["rank"], items["count"], color=_COLOURS["first"], marker="o" if few else "")
    ax.set(xlabel="rank of the item", ylabel="training interactions")
    _plain(ax)


def _days(ax: Axes, days: Facts) -> None:
    when: Sequence[Any] = list(np.asarray(days["day"], dtype="datetime64[D]"))
    if len(when) < 2:
        ax.bar(when, days["count"], color=_COLOURS["first"])
    else:
        ax.fill_between(when, days["count"], color=_COLOURS["first"], alpha=0.25, linewidth=0)
        ax.plot(when, days["count"], color=_COLOURS["first"])
    ax.set(ylabel="interactions", ylim=(0, None))
    ax.grid(False, axis="x")
    _plain(ax, "y")


def _ratings(ax: Axes, ratings: Facts) -> None:
    value = np.asarray(ratings["value"], dtype=np.float64)
    step = float(np.diff(value).min()) if len(value) > 1 else 1.0
    ax.bar(value, ratings["count"], width=0.7 * step, color=_COLOURS["first"])
    if len(value) <= 12:
        ax.set_xticks(value)
    ax.set(xlabel="rating", ylabel="interactions")
    ax.grid(False, axis="x")
    _plain(ax)


def _loss(ax: Axes, step: Floats, loss: Floats, rate: Floats) -> None:
    smooth = running_mean(loss, max(1, len(loss) // 20))
    ax.plot(thin(step), thin(loss), color=_COLOURS["first"], alpha=0.35, linewidth=1)
    ax.plot(thin(step), thin(smooth), color=_COLOURS["first"])
    ax.set(xlabel="step")
    ax.set_ylabel("loss", color=_COLOURS["first"])
    _plain(ax)
    if not np.isfinite(rate).all():
        return
    right = ax.twinx()
    right.grid(False)
    right.plot(thin(step), thin(rate), "--", color=_COLOURS["second"], linewidth=1.2)
    right.set_ylabel("learning rate", color=_COLOURS["second"])
    right.set_ylim(0, None)
    _plain(right, "y")
