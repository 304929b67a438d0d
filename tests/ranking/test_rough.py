"""Lists from rounded products with exact scores of their head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Jagged, offsets_of
from p5dist.ranking.products import HeldItems, rank_products
from p5dist.ranking.rough import HEAD, with_exact_head
from p5dist.ranking.tiles import Query
from p5dist.ranking.topk import MISSED, Ranked
from tests.ranking.plain import rank_plainly


def both(query: Query, vectors: torch.Tensor, k: int, offset: torch.Tensor | None) -> Ranked:
    items = HeldItems(vectors, Catalogue(len(vectors)))
    ((rough,),) = rank_products([query], items, HEAD * k, precision=torch.bfloat16, offset=offset)
    return with_exact_head(query, rough, lambda ids: vectors[torch.from_numpy(ids - 1)], k, offset)


@pytest.mark.parametrize("seed", range(6))
def test_numbers_that_bfloat16_can_hold_give_the_exact_result(seed: int) -> None:
    """Whole numbers: many ties, seen items, several targets, offsets."""
    rng = np.random.default_rng(seed)
    users, items = 300, 90
    u, v = (
        torch.from_numpy(rng.integers(-3, 4, (n, 4)).astype(np.float32)) for n in (users, items)
    )
    lengths = rng.integers(0, 80, users)
    seen = Jagged(offsets_of(lengths), rng.integers(1, items + 1, lengths.sum()))
    owner = np.sort(rng.integers(0, users, 500))
    target = rng.integers(1, items + 1, 500)
    offset = None
    scores = (u @ v.T).numpy()
    if seed % 2:
        offset = torch.from_numpy(rng.integers(-2, 1, items).astype(np.float32))
        scores = scores + offset.numpy()
    ranks, lists = both(Query(u, owner, target, seen), v, 7, offset)
    expected, best = rank_plainly(scores, Catalogue(items), owner, target, 7, seen=seen)
    assert lists.ids.tolist() == best.ids.tolist()
    assert lists.scores.tolist() == best.scores.tolist()
    assert ranks.tolist() == expected.tolist()


def test_rounding_rarely_changes_a_list_and_never_the_rank_in_it() -> None:
    generator = torch.Generator().manual_seed(3)
    u, v = (torch.randn(n, 64, generator=generator) for n in (500, 5000))
    owner, none = np.arange(500), None
    exact = (u.double() @ v.double().T).float().numpy()
    target = np.random.default_rng(1).integers(1, 5001, 500)
    target[:250] = np.argsort(-exact[:250], axis=1)[:, 3] + 1  # of rank 4
    ranks, lists = both(Query(u, owner, target, none), v, 10, None)
    expected, best = rank_plainly(exact, Catalogue(5000), owner, target, 10)
    assert (lists.ids == best.ids).mean() > 0.999
    assert (ranks[:250] == 4).mean() > 0.99
    assert expected[:250].tolist() == [4] * 250
    assert (ranks[250:] > 10).sum() == (expected[250:] > 10).sum()
    assert np.abs(np.log(ranks / expected)).max() < 0.2, "ranks beyond the list are close"
    assert (ranks != MISSED).all()
