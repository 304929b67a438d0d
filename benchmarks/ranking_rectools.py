"""Seconds of RecTools' rankers for given vectors, as JSON: ``ranking_rectools.py FILE.npz K``."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from rectools.models.rank import Distance, ImplicitRanker
from scipy.sparse import csr_matrix


def main() -> None:
    """Rank all users with each ranker, seen items left out."""
    given, k = np.load(sys.argv[1]), int(sys.argv[2])
    users, items = given["users"], given["items"]
    shape = len(users), len(items)
    ones = np.ones(len(given["seen"]), dtype=np.float32)
    seen = csr_matrix((ones, given["seen"] - 1, given["offsets"]), shape=shape)
    everyone = np.arange(len(users))
    implicit = ImplicitRanker(Distance.DOT, users, items, num_threads=1)
    found = {"rectools implicit": _best(lambda: implicit.rank(everyone, k, seen))}
    try:
        import torch
        from rectools.models.rank import TorchRanker
    except ImportError:
        pass
    else:
        torch.set_num_threads(1)
        for batch in (128, 1024):
            ranker = TorchRanker(
                Distance.DOT, "cpu", torch.from_numpy(users), torch.from_numpy(items), batch
            )
            name = f"rectools torch, batches of {batch}"
            found[name] = _best(lambda ranker=ranker: ranker.rank(everyone, k, seen))
    print(json.dumps(found))


def _best(function) -> float:  # type: ignore[no-untyped-def]
    times = []
    for _ in range(2):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    main()
