"""Writes rectools_values.json: the metrics of rectools_case.py by RecTools 0.19.

Run in an environment of RecTools (pip install rectools==0.19.0), in the root of the project:
``python -m tests.ranking.make_rectools_values``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rectools import Columns
from rectools.metrics import (
    MAP,
    NDCG,
    AvgRecPopularity,
    CatalogCoverage,
    IntraListDiversity,
    MeanInvUserFreq,
    Precision,
    Recall,
    Serendipity,
)
from rectools.metrics.distances import PairwiseDistanceCalculator

from tests.ranking.rectools_case import ITEMS, KS, LISTED, Case, make

VALUES = Path(__file__).with_name("rectools_values.json")


class Cosine(PairwiseDistanceCalculator):
    """1 − cosine; 1 with a zero vector."""

    def __init__(self, case: Case) -> None:
        self.vectors = case.vectors

    def _get_distances_for_item_pairs(self, items_0: Any, items_1: Any) -> Any:
        found = []
        for i, j in zip(items_0, items_1, strict=True):
            a, b = self.vectors[i - 1], self.vectors[j - 1]
            length = np.linalg.norm(a) * np.linalg.norm(b)
            found.append(1 - a @ b / length if length else 1.0)
        return np.array(found)


class Jaccard(PairwiseDistanceCalculator):
    """Of the attribute values; 0 of two items without values."""

    def __init__(self, case: Case) -> None:
        self.values = [set(values) for values in case.values]

    def _get_distances_for_item_pairs(self, items_0: Any, items_1: Any) -> Any:
        found = []
        for i, j in zip(items_0, items_1, strict=True):
            a, b = self.values[i - 1], self.values[j - 1]
            found.append(1 - len(a & b) / len(a | b) if a | b else 0.0)
        return np.array(found)


def main() -> None:
    """Write the values of every metric, by user in the order of users."""
    case = make()
    lists = [order[:LISTED] for order in case.order]
    reco = table(lists)
    reco[Columns.Rank] = np.concatenate([np.arange(1, len(x) + 1) for x in lists])
    interactions = table([sorted(set(items)) for items in case.targets])
    known = table(case.train)
    catalog = list(range(1, ITEMS + 1))
    found: dict[str, Any] = {}
    for k in KS:
        per_user = {
            "precision": Precision(k=k).calc_per_user(reco, interactions),
            "recall": Recall(k=k).calc_per_user(reco, interactions),
            "map": MAP(k=k).calc_per_user(reco, interactions),
            "list_ndcg": NDCG(k=k, divide_by_achievable=True).calc_per_user(reco, interactions),
            "popularity": AvgRecPopularity(k=k).calc_per_user(reco, known),
            "novelty": MeanInvUserFreq(k=k).calc_per_user(reco, known),
            "serendipity": Serendipity(k=k).calc_per_user(reco, interactions, known, catalog),
            "diversity": IntraListDiversity(k, Cosine(case)).calc_per_user(reco),
            "attribute_diversity": IntraListDiversity(k, Jaccard(case)).calc_per_user(reco),
        }
        found |= {f"{name}@{k}": v.sort_index().tolist() for name, v in per_user.items()}
        found[f"coverage@{k}"] = CatalogCoverage(k=k, normalize=True).calc(reco, catalog)
    lines = [f"{json.dumps(name)}: {json.dumps(values)}" for name, values in found.items()]
    VALUES.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def table(items: list[list[int]]) -> pd.DataFrame:
    """One row per user and item."""
    users = np.repeat(np.arange(len(items)), [len(x) for x in items])
    return pd.DataFrame({Columns.User: users, Columns.Item: np.concatenate(items)})


if __name__ == "__main__":
    main()
