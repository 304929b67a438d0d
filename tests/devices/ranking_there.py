"""Function of test_ranking.py that runs in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import random_array

from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Jagged, offsets_of
from p5dist.ranking.interpolation import Mixture
from p5dist.ranking.products import HeldItems, rank_products
from p5dist.ranking.rough import with_exact_head
from p5dist.ranking.tiles import Query
from tests.devices import pretend
from tests.devices.tagged import MixedDevicesError, OnDevice

USERS, ITEMS, DIM, K = 70, 900, 8, 6


def results(_: Path) -> dict[str, Any]:
    """Ranks and lists here and there, and whether a mistake is noticed."""
    pretend.register()
    with OnDevice():
        here, there = (everything(torch.device(kind)) for kind in ("cpu", pretend.NAME))
        try:
            torch.zeros(3, device=pretend.NAME) + torch.zeros(3)
            mistake = ""
        except MixedDevicesError as e:
            mistake = str(e)
    return {"here": here, "there": there, "mistake": mistake}


def everything(device: torch.device) -> list[Any]:
    """Of one and of several blocks of items, alone and with counts, and with an exact head."""
    rng = np.random.default_rng(3)
    users = torch.from_numpy(rng.integers(-2, 3, (USERS, DIM)).astype(np.float32)).to(device)
    vectors = torch.from_numpy(rng.integers(-2, 3, (ITEMS, DIM)).astype(np.float32)).to(device)
    catalogue = Catalogue(ITEMS, np.delete(np.arange(1, ITEMS + 1), [4, 99]))
    lengths = rng.integers(0, 9, USERS)
    seen = Jagged(offsets_of(lengths), rng.integers(1, ITEMS + 1, int(lengths.sum())))
    owner = np.sort(rng.integers(0, USERS, 100))
    target = rng.choice(catalogue.ids, 100)
    counted = random_array((USERS, ITEMS), density=0.02, format="csr", rng=rng).astype(np.float32)
    offset = torch.from_numpy(rng.integers(0, 2, ITEMS).astype(np.float32)).to(device)
    query = Query(users, owner, target, seen, counted)
    found = []
    for items in (HeldItems(vectors, catalogue), Blocks(vectors, catalogue)):
        for mixture in (None, Mixture(0.3)):
            ((*ranked,),) = rank_products([query], items, K, mixture=mixture, offset=offset)
            found += [as_lists(one) for one in ranked]
        ((rough,),) = rank_products([query], items, 2 * K, precision=torch.bfloat16)
        exact = with_exact_head(
            query, rough, lambda ids: vectors[torch.from_numpy(ids - 1).to(device)], K, None
        )
        found.append(as_lists(exact))
    return found


def as_lists(ranked: Any) -> Any:
    ranks, lists = ranked
    return ranks.tolist(), lists.ids.tolist(), np.round(lists.scores, 4).tolist()


class Blocks(HeldItems):
    """The same items in several blocks."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        for begin in range(0, ITEMS, 300):
            yield begin + 1, self.vectors[begin : begin + 300]
