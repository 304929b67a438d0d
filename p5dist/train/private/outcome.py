"""What a private stage has spent, for its result and for people."""

from __future__ import annotations

from collections import Counter
from typing import Any

from p5dist.feed.order import LaneOrder
from p5dist.observe.metrics_log import read_metrics
from p5dist.storage import Folder
from p5dist.train.private.budget import Budget, begun_epochs

REPORT = "privacy.json"
"""File of the stage with what is trained; the first worker writes it."""


def outcome(budget: Budget, order: LaneOrder, stage: Folder, steps: int) -> dict[str, Any]:
    """The budget that ``steps`` steps have spent; ``clipped``: by epoch the share of the users
    with a gradient whose gradient was clipped (of the steps that were logged); what is trained."""
    users: Counter[str] = Counter()
    clipped: Counter[str] = Counter()
    for line in read_metrics(stage):
        for epoch, (counted, changed) in line.get("clipped", {}).items():
            users[epoch] += counted
            clipped[epoch] += changed
    shares = {epoch: clipped[epoch] / max(users[epoch], 1) for epoch in sorted(users, key=int)}
    spent = budget.spent(begun_epochs(order, steps))
    return {**spent, "clipped": shares, "trained": (stage / REPORT).read_json()}


def lines(found: dict[str, Any]) -> list[str]:
    """:func:`outcome` for the terminal."""
    shares, frozen = found["clipped"], found["trained"]["frozen"]
    mean = sum(shares.values()) / max(len(shares), 1)
    return [
        f"user-level differential privacy: {headline(found)}; {mean:.0%} of the users clipped",
        f"this covers {found['covers']}, and not: {', '.join(found['not_covered'])}",
        *(f"frozen: {name} ({why})" for name, why in frozen.items()),
    ]


def headline(found: dict[str, Any]) -> str:
    """The numbers in one line."""
    epochs = found["epochs"]
    return (
        f"ε = {found['epsilon']:.3g} at δ = {found['delta']:.2g} (noise {found['noise']:.3g}, clip "
        f"{found['clip']:g}, {epochs} epoch{'' if epochs == 1 else 's'})"
    )
