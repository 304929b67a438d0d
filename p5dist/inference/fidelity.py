"""Whether explanations say what the model does: interactions are left out, and the fall of the
recommended item is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from p5dist.data.histories import Histories
from p5dist.data.jagged import Floats, Ints
from p5dist.inference.explain import Explainer

_MEANS = ("named", "random", "dealt", "named_listed", "random_listed")
FIDELITY = ("explained", *_MEANS, "margin", "margin_squares", "control", "control_squares")
"""Names of the sums of :meth:`Fidelity.sums`."""


@dataclass(frozen=True)
class Fidelity:
    """What it costs the first item of a list to leave out the interactions that explain it, beside
    the same number of interactions drawn at random; and the same with the shares dealt to the
    interactions at random, which must cost no more than random ones. By history [n]."""

    named: Floats
    """Fall of log p without the named interactions."""
    random: Floats
    dealt: Floats
    named_listed: Floats
    """1 if the item is still among the first k without the named interactions, else 0."""
    random_listed: Floats

    def sums(self) -> dict[str, float]:
        """Sums over the histories, which add up over portions; differences with their squares."""
        found = {"explained": float(len(self.named))}
        for name in _MEANS:
            found[name] = float(getattr(self, name).sum())
        for name, other in (("margin", self.named), ("control", self.dealt)):
            found[name] = float((other - self.random).sum())
            found[f"{name}_squares"] = float(np.square(other - self.random).sum())
        return found


def fidelity_of(sums: Mapping[str, float]) -> dict[str, Any]:
    """Means over the explained histories from the sums of :meth:`Fidelity.sums`; the margin of
    named over random interactions, and the control, with intervals of 95 % (None: of one history
    there is none)."""
    number = max(sums["explained"], 1.0)
    found: dict[str, Any] = {"histories": int(sums["explained"])}
    for name in ("named", "random", "dealt"):
        found[f"fall_of_log_p_{name}"] = sums[name] / number
    for name in ("named", "random"):
        found[f"still_listed_{name}"] = sums[f"{name}_listed"] / number
    for name in ("margin", "control"):
        mean = sums[name] / number
        found[name] = {"value": mean, "low": None, "high": None}
        if number > 1:
            spread = max(sums[f"{name}_squares"] - number * mean * mean, 0.0) / (number - 1)
            half = 1.96 * (spread / number) ** 0.5
            found[name] |= {"low": mean - half, "high": mean + half}
    return found


def fidelity(
    explainer: Explainer,
    histories: Histories,
    lists: Ints,
    still_listed: Callable[[Histories, Ints, Ints], Floats],
    *,
    most: int,
    seed: int,
) -> Fidelity:
    """Of the histories that have more than ``most`` interactions and a list.

    Args:
        lists: [B, k]
        still_listed: shorter histories, their indices among ``histories``, items → 1 where the item
            is still among the first k, else 0.
        most: interactions that are left out of each history.
    """
    chosen = np.flatnonzero((histories.lengths > most) & (lists[:, 0] > 0))
    histories, first = histories.take(chosen), lists[chosen][:, :1]
    share, rng = explainer(histories, first).share[:, 0], np.random.default_rng(seed)
    whole = explainer.log_p(histories, first)[:, 0]
    order = np.lexsort((rng.random(len(share)), histories.owner()))
    worth = {"named": share, "random": rng.random(len(share)), "dealt": share[order]}
    fall, listed = {}, {}
    for name, values in worth.items():
        kept = _without_best(histories, values, most)
        fall[name] = whole - explainer.log_p(kept, first)[:, 0]
        if name != "dealt":
            listed[name] = still_listed(kept, chosen, first[:, 0])
    return Fidelity(fall["named"], fall["random"], fall["dealt"], listed["named"], listed["random"])


def _without_best(histories: Histories, worth: Floats, most: int) -> Histories:
    """Every history without the ``most`` interactions of the largest worth."""
    order = np.lexsort((-worth, histories.owner()))
    place = np.empty(len(worth), dtype=np.int64)
    place[order] = histories.position()
    return histories.where(place >= most)
