"""Functions of test_ranking.py that run in a process of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import random_array
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Jagged, offsets_of
from p5dist.inference.scorer import Scorer
from p5dist.ranking.interpolation import shared
from p5dist.ranking.products import HeldItems, rank_products
from p5dist.ranking.rough import with_exact_head
from p5dist.ranking.tiles import Query
from tests.devices import pretend
from tests.devices.tagged import MixedDevicesError, OnDevice, Tagged
from tests.inference.test_scorer import scorer

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
    catalogue = Catalogue(ITEMS, np.asarray([5, 100]))
    lengths = rng.integers(0, 9, USERS)
    seen = Jagged(offsets_of(lengths), rng.integers(1, ITEMS + 1, int(lengths.sum())))
    owner = np.sort(rng.integers(0, USERS, 100))
    target = rng.choice(catalogue.ids, 100)
    counted = random_array((USERS, ITEMS), density=0.02, format="csr", rng=rng).astype(np.float32)
    offset = torch.from_numpy(rng.integers(0, 2, ITEMS).astype(np.float32)).to(device)
    query = Query(users, owner, target, seen, shared(counted, 0.3))
    found = []
    for items in (HeldItems(vectors, catalogue), Blocks(vectors, catalogue)):
        for mixture in (False, True):
            ((*ranked,),) = rank_products([query], items, K, mixture=mixture, offset=offset)
            found += [as_lists(one) for one in ranked]
    whole = replace(query, counted=shared(counted.toarray(), 0.3))
    one_block = HeldItems(vectors, catalogue)
    ((*ranked,),) = rank_products([whole], one_block, K, mixture=True, offset=offset)
    found += [as_lists(one) for one in ranked]
    # With few ties: of equal candidates any may be chosen by rounded products.
    noise = rng.normal(size=(ITEMS, DIM)).astype(np.float32)
    vectors = vectors + torch.from_numpy(noise).to(device)
    for items in (HeldItems(vectors, catalogue), Blocks(vectors, catalogue)):
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


class Held(nn.Module):
    """Stands for the tables of items or users, with all vectors on the device."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.vectors = Tagged(vectors)

    def forward(self, ids: KeyedJaggedTensor, *_: Any) -> torch.Tensor:
        return self.vectors.index_select(0, ids.values())


def scored(folder: Path) -> dict[str, list[Any]]:
    """User vectors, item vectors and ratings here and there."""
    pretend.register()
    found = {}
    for name, stage, more in (
        ("causal", "pretrain", ()),
        ("masked", "pretrain", ("pretrain.objective={kind: masked}",)),
        ("skip_gram", "pretrain", ("pretrain.objective={kind: skip_gram}",)),
        ("rating", "finetune/rating", ()),
    ):
        (folder / name).mkdir()
        here, histories = scorer(folder / name, stage, *more)
        expected = ask(here, stage, histories)
        users = np.arange(1, 51)
        model, vectors = here.model, here.item_vectors()
        with torch.no_grad():
            own = getattr(model.head, "users", None)
            if own is not None:
                rows = own(*here.collate.user_lookup(users))
                model.head.users = Held(torch.cat([rows[:1] * 0, rows]))
            model.backbone.items = Held(torch.cat([vectors[:1] * 0, vectors]))
        tag(model)
        device = torch.device(f"{pretend.NAME}:0")
        there = Scorer(model, here.collate, here.catalogue, 8, device=device)
        there.collate = there.collate.for_stored_vectors()
        with OnDevice():
            found[name] = [expected, ask(there, stage, histories)]
    return found


def tag(module: nn.Module) -> None:
    """Put the parameters and buffers of a module on the device."""
    for child in module.modules():
        for own in (child._parameters, child._buffers):
            for name, value in list(own.items()):
                if value is not None:
                    own[name] = Tagged(value.detach())  # type: ignore[assignment]


def ask(model: Scorer, stage: str, histories: Histories) -> list[Any]:
    if stage != "pretrain":
        owner, item = np.asarray([3, 0, 3, 7]), np.asarray([5, 5, 9, 1])
        return list(model.predict("", histories, owner, item, np.zeros(4, dtype=np.int64)))
    vectors = model.user_vectors(histories).cpu(), model.item_vectors().cpu()
    return [v.tolist() for v in vectors]
