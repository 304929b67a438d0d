"""RecTools' lists and metrics for given vectors: ``rectools_values.py FILE.npz RANKS.npy``; prints
the metrics as JSON.

The file has: users [B, d], items [L, d] of the ids 1…L; owner and target [M]; offsets [B + 1] and
seen, the item ids that a list leaves out; train_user, train_item; ks. RANKS.npy: [M] rank of each
target, 0 beyond the longest list.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pandas as pd
from rectools import Columns
from rectools.metrics import (
    MAP,
    MRR,
    NDCG,
    AvgRecPopularity,
    CatalogCoverage,
    HitRate,
    IntraListDiversity,
    MeanInvUserFreq,
    Precision,
    Recall,
    Serendipity,
    calc_metrics,
)
from rectools.metrics.distances import PairwiseDistanceCalculator
from rectools.models.rank import Distance, ImplicitRanker
from scipy.sparse import csr_matrix


class Cosine(PairwiseDistanceCalculator):
    """1 − cosine of the vectors of two items."""

    def __init__(self, items: Any) -> None:
        self.unit = items / np.maximum(np.linalg.norm(items, axis=1, keepdims=True), 1e-30)

    def _get_distances_for_item_pairs(self, items_0: Any, items_1: Any) -> Any:
        pairs = self.unit[np.asarray(items_0) - 1] * self.unit[np.asarray(items_1) - 1]
        return 1 - pairs.sum(1)


def main() -> None:
    """Rank, measure, print."""
    given = dict(np.load(sys.argv[1]))
    ks = given["ks"].tolist()
    lists = _lists(given, max(ks))
    owner, target = given["owner"], given["target"]
    targets = pd.DataFrame({Columns.User: owner, Columns.Item: target})
    known = pd.DataFrame({Columns.User: given["train_user"], Columns.Item: given["train_item"]})
    catalogue = list(range(1, len(given["items"]) + 1))
    found: dict[str, float] = {}

    def measure(metrics: dict[str, Any], interactions: pd.DataFrame, reco: pd.DataFrame) -> None:
        found.update(calc_metrics(metrics, reco, interactions, known, catalogue))

    # Every target is the only relevant item of a list of its own.
    single = pd.DataFrame({Columns.User: np.arange(len(owner)), Columns.Item: target})
    of_target = single.assign(owner=owner).merge(
        lists.rename(columns={Columns.User: "owner", Columns.Item: "listed"}), on="owner"
    )
    reco = of_target[[Columns.User, "listed", Columns.Rank]]
    reco = reco.rename(columns={"listed": Columns.Item})
    kinds = {"hr": HitRate, "mrr": MRR}
    measure({f"{n}@{k}": kind(k=k) for n, kind in kinds.items() for k in ks}, single, reco)
    ndcg = {f"ndcg@{k}": NDCG(k=k, divide_by_achievable=True) for k in ks}
    measure(ndcg, single, reco)
    kinds = {"precision": Precision, "recall": Recall, "map": MAP}
    of_lists = {f"{n}@{k}": kind(k=k) for n, kind in kinds.items() for k in ks}
    of_lists |= {f"list_ndcg@{k}": NDCG(k=k, divide_by_achievable=True) for k in ks}
    once = targets.drop_duplicates()
    measure(of_lists, once, lists)
    measure({f"twice {name}": metric for name, metric in of_lists.items()}, targets, lists)
    kinds = {"popularity": AvgRecPopularity, "novelty": MeanInvUserFreq, "serendipity": Serendipity}
    measure({f"{n}@{k}": kind(k=k) for n, kind in kinds.items() for k in ks}, once, lists)
    measure({f"coverage@{k}": CatalogCoverage(k=k, normalize=True) for k in ks}, once, lists)
    apart = Cosine(given["items"].astype(np.float64))
    measure({f"diversity@{k}": IntraListDiversity(k, apart) for k in ks}, once, lists)
    rank = targets.merge(lists, how="left", on=[Columns.User, Columns.Item])[Columns.Rank]
    np.save(sys.argv[2], rank.fillna(0).to_numpy().astype(np.int64))
    print(json.dumps(found))


def _lists(given: dict[str, Any], k: int) -> pd.DataFrame:
    """User, item and rank of the k best items, by RecTools' ranker with its own filter."""
    shape = len(given["users"]), len(given["items"])
    seen = None
    if len(given["seen"]):
        one = np.ones(len(given["seen"]), dtype=np.float32)
        seen = csr_matrix((one, given["seen"] - 1, given["offsets"]), shape=shape)
    ranker = ImplicitRanker(Distance.DOT, given["users"], given["items"], num_threads=1)
    user, item, _ = ranker.rank(np.arange(shape[0]), k, seen)
    reco = pd.DataFrame({Columns.User: user, Columns.Item: np.asarray(item) + 1})
    reco[Columns.Rank] = reco.groupby(Columns.User).cumcount() + 1
    return reco


if __name__ == "__main__":
    main()
