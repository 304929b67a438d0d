"""The trials of a search as a table and a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich.table import Table

_SHOWN = 10


def table(result: Mapping[str, Any]) -> Table:
    """The best trials, and the job as it is.

    Args:
        result: of :func:`.search.run`.
    """
    keys = list(result["best"]["settings"])
    found = Table(
        title=f"{result['metric']} of {result['stage']} on the validation split",
        title_justify="left", box=None, padding=(0, 1, 0, 0),
    )  # fmt: skip
    found.add_column("", no_wrap=True)
    found.add_column(result["metric"], justify="right", no_wrap=True)
    for key in keys:
        found.add_column(key, justify="right")
    found.add_column("training")
    own = result["job_as_it_is"]
    shown = list(enumerate(result["trials"], 1))
    first = shown[:_SHOWN]
    first += [one for one in shown[_SHOWN:] if own is not None and one[1]["run"] == own["run"]]
    for number, trial in first:
        mine = own is not None and trial["run"] == own["run"]
        values = [_text(trial["settings"][key]) for key in keys]
        found.add_row(
            f"{number}{' (the job)' if mine else ''}",
            "" if trial["best"] is None else f"{trial['best']:.4f}", *values, _end(trial),
        )  # fmt: skip
    return found


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _end(trial: Mapping[str, Any]) -> str:
    if trial["error"] is not None:
        return "failed"
    steps = trial["validations"][-1][0] if trial["validations"] else 0
    return f"{'complete' if trial['complete'] else 'stopped'}, {steps:,} steps"


def picture(result: Mapping[str, Any]) -> str:
    """Every trial's validations by step, as SVG."""
    import matplotlib.style
    from matplotlib.figure import Figure

    sink = io.StringIO()
    with matplotlib.style.context(["default", {"svg.hashsalt": "tune"}]):
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        ax = figure.add_subplot()
        for number, trial in enumerate(reversed(result["trials"])):
            steps = [step for step, _ in trial["validations"]]
            values = [value for _, value in trial["validations"]]
            best = number == len(result["trials"]) - 1
            colour, width, label = ("C1", 2, "best") if best else ("0.7", 1, None)
            ax.plot(steps, values, color=colour, linewidth=width, label=label)
        ax.set_xlabel("steps")
        ax.set_ylabel(result["metric"])
        ax.legend(frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
        figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()
