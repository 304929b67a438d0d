"""Formats of numbers and times on the page."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

NOTHING = "\N{EN DASH}"


def number(value: Any) -> str:
    """12,345 · 0.1234 · yes · text as it is; a dash for None and NaN."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def metric(value: float | None) -> str:
    """Four decimals, as in published tables; fewer of large numbers."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def percent(share: float | None, digits: int = 1) -> str:
    """0.123 → 12.3 %"""
    if share is None or not math.isfinite(share):
        return NOTHING
    return f"{100 * share:.{digits}f} %"


def change(share: float | None) -> str:
    """0.123 → +12.3 %, with a true minus sign."""
    if share is None or not math.isfinite(share):
        return NOTHING
    return f"{100 * share:+.1f} %".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float | None) -> str:
    """Seconds as 12 ms · 3.4 s · 5 min 07 s · 2 h 05 min."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def compact(value: float, _: float = 0) -> str:
    """Axis labels: 0.5 · 20 · 3k · 4.5M (the second argument is matplotlib's tick position)."""
    for unit, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{sign}"
    return f"{value:.3g}"


def moment(text: str | None) -> str:
    """An ISO time as 2026-11-24 04:45 UTC."""
    if not text:
        return NOTHING
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".rstrip()
