"""Items that training never saw are ranked through their attributes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from p5dist.config.losses import FullSoftmax
from p5dist.config.model import Model
from p5dist.data.attributes import Attributes
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.manifest import Manifest
from p5dist.feed.collate import Collate
from p5dist.feed.negatives import Candidates
from p5dist.models.backbone import Backbone
from p5dist.models.tables import ItemTables
from p5dist.tasks.item_prediction import ItemPrediction
from p5dist.tasks.predictions import NextInteractions
from tests.data.test_histories import histories

ITEMS, SEEN, GENRES = 44, 40, 4
GENRE = Attributes(
    ("genre",), (np.append(0, np.arange(ITEMS + 1)),), (np.arange(ITEMS) % GENRES + 1,)
)  # item i has genre (i - 1) % 4 + 1; 41…44 are never seen


@pytest.fixture(scope="module")
def trained() -> tuple[Backbone, Collate]:
    """Users who stay in one genre; 60 steps of Adam over the whole catalogue."""
    rng = np.random.default_rng(0)
    counts = np.append(np.full(SEEN, 100), np.zeros(ITEMS - SEEN, dtype=np.int64))
    manifest = Manifest.model_construct(
        items=ITEMS, users=0, item_attributes={"genre": GENRES}, user_attributes={}
    )
    torch.manual_seed(0)
    config = Model(dim=16, item_attributes=("genre",), inputs={"id_dropout": 0.1})
    model = Backbone(config, manifest, max_length=8, device=torch.device("cpu")).train()
    collate = Collate(
        1, GENRE, unseen=np.append(False, counts == 0), fields={"": NextInteractions(ranks=True)}
    )
    candidates, log_q = Candidates(
        FullSoftmax(), counts, Catalogue(len(counts)), 1, only_seen=True
    ).at(0, Histories.empty())
    head = ItemPrediction(FullSoftmax(), "")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    for step in range(60):
        genre = rng.integers(0, GENRES, 16)
        items = genre[:, None] + 1 + GENRES * rng.integers(0, SEEN // GENRES, (16, 8))
        batch = collate(
            histories(items.tolist()), step=step, candidates=candidates, candidate_log_q=log_q
        )
        optimizer.zero_grad()
        (head(model, batch).sum() / head.counts(batch)[0]).backward()
        optimizer.step()
    return model.eval(), collate


def test_what_describes_an_item_is_added_to_its_row() -> None:
    """Two supplied vectors, each times its matrix; an item without row has them only."""
    tables = ItemTables(3, {}, 2, torch.device("cpu"), vectors={"text": 2, "image": 1})
    text, image = (layer.weight for layer in tables.projected.values())  # type: ignore[union-attr]
    with torch.no_grad():
        tables.ids.embeddings["item"].weight.copy_(torch.tensor([[0, 0], [1, 2], [3, 4], [5, 6]]))
        text.copy_(torch.tensor([[1.0, 0], [0, 10]]))
        image.copy_(torch.tensor([[100.0], [0]]))
    items = KeyedJaggedTensor(
        keys=["item"], values=torch.tensor([1, 0, 3]), lengths=torch.tensor([3]), stride=1
    )
    supplied = torch.tensor([[1.0, 1, 0], [0, 0.5, 1], [0, 0, 0]])
    assert tables(items, None, supplied).tolist() == [[2, 12], [100, 5], [5, 6]]
    dropped = torch.tensor([[True], [False], [False]])
    assert tables(items, None, supplied, dropped).tolist() == [[1, 10], [100, 5], [5, 6]]


def test_an_unseen_item_is_near_the_items_of_its_attributes_and_ranked_with_them(
    trained: tuple[Backbone, Collate],
) -> None:
    model, collate = trained
    batch = collate(Histories.empty(), candidates=np.arange(1, ITEMS + 1))
    with torch.inference_mode():
        vectors = model.item_vectors(batch)
    bags = model.items.bags
    assert bags is not None
    genres = bags.embedding_bags["item_genre"].weight[1:]
    assert torch.equal(vectors[SEEN:], genres)  # item 41 has genre 1, …
    similarity = F.cosine_similarity(vectors[SEEN:, None], vectors[None, :SEEN], dim=2)
    same = torch.arange(GENRES)[:, None] == torch.arange(SEEN) % GENRES
    assert similarity[same].min() > similarity[~same].max()
    # A user of genre 2: the unseen item of that genre beats all items of other genres.
    with torch.inference_mode():
        state = model(collate(histories([[2, 6, 10, 14]]))).states[-1]
    scores = vectors @ state
    others = torch.arange(ITEMS) % GENRES != 1
    assert scores[SEEN + 1] > scores[others].max()


def test_the_row_of_id_zero_is_neither_used_nor_trained(
    trained: tuple[Backbone, Collate],
) -> None:
    model, collate = trained
    batch = collate(histories([[41, 42]]))
    assert batch.items.values().tolist() == [0, 0]
    model.train()
    model(batch).states.sum().backward()
    grad = model.items.ids.embeddings["item"].weight.grad
    assert grad is not None and not grad[0].any()
