"""The inputs of the encoder, part by part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from p5dist.config.model import Inputs as InputsConfig
from p5dist.config.model import Model
from p5dist.data.attributes import Attributes
from p5dist.data.batch import Batch
from p5dist.data.columns import SECOND
from p5dist.data.manifest import Manifest
from p5dist.feed.collate import Collate
from p5dist.models.backbone import Backbone
from p5dist.models.inputs import Inputs, gap_class
from tests.data.test_histories import histories

DIM = 4
MANIFEST = Manifest.model_construct(
    items=9, users=20, item_attributes={"genre": 3}, user_attributes={"age": 3},
    rating_mean=3.0, rating_range=(1.0, 5.0),
)  # fmt: skip
HISTORIES = histories([[1, 2, 3], [4, 5]])
AGES = Attributes(
    ("age",), (np.concatenate([np.zeros(11, np.int64), [1, 2]]),), (np.asarray([2, 3]),)
)  # user 10 has age 2, user 11 age 3
ITEMS = torch.arange(5 * DIM, dtype=torch.float32).view(5, DIM)


def batch(step: int = 0) -> Batch:
    made = histories([[1, 2, 3], [4, 5]])
    made.timestamp[:] = [t * SECOND for t in (0, 0, 90_000, 7 * 86_400, 7 * 86_400 + 3)]
    made.event[:] = [0, 1, 2, 1, 1]
    return Collate(1, None, AGES)(made, step=step)


def inputs(*, hides: bool = False, **settings: Any) -> Inputs:
    torch.manual_seed(0)
    config = Model(dim=DIM, inputs=InputsConfig(**settings), user_attributes=("age",))
    return Inputs(config, MANIFEST, device=torch.device("cpu"), hides=hides).eval()


def of(module: Inputs, batch: Batch) -> torch.Tensor:
    return module(ITEMS, batch, module.user_rows(batch))


def added(module: Inputs) -> torch.Tensor:
    """[5, DIM] what the module adds to the item vectors."""
    return of(module, batch()) - ITEMS * DIM**0.5


def test_items_alone() -> None:
    assert not added(inputs()).any()


def test_events_are_rows_of_a_table() -> None:
    module = inputs(event=True)
    assert module.event is not None
    assert torch.allclose(added(module), module.event[[0, 1, 2, 1, 1]], atol=1e-5)


def test_gaps_double_and_the_first_interaction_has_none() -> None:
    assert gap_class(batch()).tolist() == [33, 0, 16, 33, 2]
    module = inputs(time_gap=True)
    assert module.gap is not None
    assert torch.allclose(added(module), module.gap[[33, 0, 16, 33, 2]], atol=1e-5)


def test_hour_and_weekday() -> None:
    module = inputs(calendar=True)
    assert module.hour is not None and module.weekday is not None
    expected = module.hour[[0, 0, 1, 0, 0]] + module.weekday[[0, 0, 1, 0, 0]]
    assert torch.allclose(added(module), expected, atol=1e-5)


def test_users_are_added_to_every_interaction() -> None:
    rows = {"user_id": "user", "user_attributes": "user_age"}
    for setting, table in rows.items():
        module = inputs(**{setting: True})
        assert module.users is not None
        bags = module.users.bags.embedding_bags
        assert list(bags) == [table]
        of = [10, 11] if setting == "user_id" else [2, 3]
        expected = bags[table].weight[of][[0, 0, 0, 1, 1]] * DIM**0.5
        assert torch.allclose(added(module), expected, atol=1e-5)


def test_of_a_hidden_interaction_only_the_user_is_seen() -> None:
    module = inputs(hides=True, rating=True, event=True, time_gap=True, user_id=True)
    one = batch()
    hidden = torch.tensor([False, True, False, False, False])
    object.__setattr__(one, "hidden", hidden)
    assert module.hidden is not None and module.users is not None
    user = module.users.bags.embedding_bags["user"].weight[10] * DIM**0.5
    x = of(module, one)
    assert torch.allclose(x[1], module.hidden + user, atol=1e-5)
    assert torch.allclose(x[~hidden], of(module, batch())[~hidden])


def test_item_dropout_hides_whole_items_in_training_only() -> None:
    module = inputs(item_dropout=0.5)
    assert not added(module).any()
    module.train()
    seen = torch.stack([module(ITEMS + 1, batch(step), None) for step in range(400)])
    kept = (seen > 0).all(2)
    assert torch.equal(kept, (seen > 0).any(2))
    assert (kept.float().mean(0) - 0.5).abs().max() < 0.13


def recommender(**settings: Any) -> Backbone:
    torch.manual_seed(0)
    config = Model(dim=DIM, **settings)
    return Backbone(config, MANIFEST, max_length=5, device=torch.device("cpu"))


def test_cosine_products_are_cosines_over_the_temperature() -> None:
    encoded = recommender(cosine_temperature=0.1).eval()(batch())
    products = encoded.states @ encoded.items.T
    plain = recommender().eval()(batch())
    cosine = torch.nn.functional.cosine_similarity(
        plain.states.unsqueeze(1), plain.items.unsqueeze(0), dim=2
    )
    assert torch.allclose(products, cosine / 0.1, atol=1e-4)


@pytest.mark.parametrize("rate", [0.25, 1 - 2**-8])
def test_id_dropout_leaves_the_attributes(rate: float) -> None:
    model = recommender(item_attributes=("genre",), inputs={"id_dropout": rate}).train()
    genres = Attributes(("genre",), (np.arange(11).clip(1) - 1,), (np.arange(9) % 3 + 1,))
    table = model.items.bags.embedding_bags["item_genre"].weight  # type: ignore[union-attr]
    dropped = []
    for step in range(200):
        made = Collate(1, genres)(HISTORIES, step=step)
        vectors = model.item_vectors(made)
        only_genre = table[(made.items.values() - 1) % 3 + 1]
        dropped.append((vectors == only_genre).all(1))
    assert float(torch.stack(dropped).float().mean()) == pytest.approx(rate, abs=0.05)
    model.eval()
    assert not (model.item_vectors(made) == only_genre).all(1).any()
