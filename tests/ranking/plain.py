"""Ranks, lists and means in plain Python or NumPy: the reference of the tests."""

from __future__ import annotations

import numpy as np

from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Ints, Jagged
from p5dist.ranking.counts import Counts
from p5dist.ranking.topk import MISSED, Lists, Ranked


def whole(counts: Counts) -> np.ndarray:
    """[B, L]"""
    found: np.ndarray = counts if isinstance(counts, np.ndarray) else counts.toarray()
    return found


def rank_plainly(
    scores: np.ndarray,
    catalogue: Catalogue,
    owner: Ints,
    target: Ints,
    k: int,
    *,
    seen: Jagged | None = None,
) -> Ranked:
    """Ranks of the targets and the k best ids of each row of ``scores`` [B, L]; of equal scores the
    lower id comes first."""
    k = min(k, len(catalogue))
    ids = np.zeros((len(scores), k), dtype=np.int64)
    values = np.full((len(scores), k), -np.inf, dtype=np.float32)
    order = []
    for row, own in enumerate(scores):
        hidden: set[int] = set()
        if seen is not None:
            hidden = set(seen.values[seen.offsets[row] : seen.offsets[row + 1]].tolist())
        left = [i for i in catalogue.ids.tolist() if i not in hidden]
        left.sort(key=lambda i, own=own: (-own[i - 1], i))
        order.append(left)
        ids[row, : len(left)] = left[:k]
        values[row, : len(left)] = own[np.asarray(left[:k], dtype=np.int64) - 1]
    ranks = [
        order[row].index(item) + 1 if item in order[row] else MISSED
        for row, item in zip(owner.tolist(), target.tolist(), strict=True)
    ]
    return np.asarray(ranks, dtype=np.int64), Lists(ids, values)


def list_means(
    name: str, ids: Ints, value: np.ndarray, ks: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """``name@k`` [B]: the mean of a value over the first k listed items, NaN for an empty list.

    Args:
        value: [L] of the ids 1…L.
    """
    of = np.where(ids > 0, np.asarray(value, dtype=np.float64)[np.maximum(ids, 1) - 1], 0.0)
    totals, numbers = of.cumsum(1), (ids > 0).cumsum(1)
    last = [min(k, ids.shape[1]) - 1 for k in ks]
    with np.errstate(invalid="ignore"):
        return {f"{name}@{k}": totals[:, i] / numbers[:, i] for k, i in zip(ks, last, strict=True)}
