"""Losses of the tasks against their formulas, written with plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from p5dist.config.model import Model
from p5dist.data.batch import Batch
from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Jagged
from p5dist.data.manifest import Manifest
from p5dist.feed.batch_fields import BatchFields
from p5dist.feed.collate import Collate
from p5dist.models.backbone import Encoded
from p5dist.tasks.click import Click
from p5dist.tasks.click.examples import Examples, Label
from p5dist.tasks.click.interactions import CrossNetwork, DotInteraction
from p5dist.tasks.click.module import ClickModule, HistoryFacts, dense_features
from p5dist.tasks.click.negatives import Unclicked
from p5dist.tasks.predictions import TargetWeights
from p5dist.tasks.rating import RatedInteractions, Rating
from p5dist.tasks.rating.module import RatingModule
from tests.data.test_histories import histories

DIM = 6
LISTS = [[1, 4, 2, 7], [3, 6], [5]]
EVENTS = [1, 2, 1, 2, 2, 2, 1]
RATINGS = [4.0, np.nan, 2.0, 5.0, 1.0, 3.0, 2.0]
TIMES = [0, 10, 4000, 90_000, 5, 6, 7]
MANIFEST = Manifest(
    fingerprint="", shards=(), rows_in=7, rows_kept=7, rows_rejected={}, rows_by_split={},
    users=20, users_by_split={}, items=9, events={"view": 1.0, "buy": 1.0}, longest_history=4,
    rating_mean=3.0, split="",
)  # fmt: skip


def batch_of(fields: BatchFields | None = None) -> tuple[Batch, Encoded]:
    whole = histories(LISTS)
    given = replace(
        whole,
        had=Jagged(whole.offsets, whole.item),
        had_of=np.arange(len(whole)),
        event=np.asarray(EVENTS, dtype=np.int8),
        rating=np.asarray(RATINGS, dtype=np.float32),
        timestamp=np.asarray(TIMES) * 1_000_000,
    )
    batch = Collate(1, fields={} if fields is None else {"": fields})(given)
    vectors = torch.randn(10, DIM, generator=torch.Generator().manual_seed(1))
    states = torch.randn(7, DIM, generator=torch.Generator().manual_seed(0))
    return batch, Encoded(states, vectors[batch.items.values()])


PAIRS = [(0, 1), (1, 2), (2, 3), (4, 5)]


def click(
    weights: tuple[float, ...] = (1, 1, 1), **settings: object
) -> tuple[ClickModule, Batch, Encoded]:
    torch.manual_seed(0)
    config = Click.model_validate({"kind": "click", "dim": 4, "dropout": 0, **settings})
    drawn = Unclicked(config.negatives, Catalogue(9), 1) if config.negatives else None
    batch, encoded = batch_of(Examples(Label(config, MANIFEST), drawn, TargetWeights(weights)))
    cpu = torch.device("cpu")
    head = ClickModule(config, "", MANIFEST, dim=DIM, model=Model(), device=cpu)
    return head, batch, encoded


def probability(head: ClickModule, batch: Batch, encoded: Encoded, t: int, item: int) -> float:
    """Of an example after interaction ``t``, computed alone."""
    users = head.rows_of_users(batch)
    logit = head.logits(
        HistoryFacts(3.0)(batch)[t : t + 1],
        torch.tensor([float(TIMES[t])]),
        torch.tensor([float(TIMES[t + 1])]),
        encoded.items[item : item + 1],
        encoded.states[t : t + 1],
        None if users is None else users[batch.owner[t : t + 1]],
    )
    return float(torch.sigmoid(logit))


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({"positive": ["buy"]}, [1, 0, 1, 1]),
        ({"threshold": 3}, [None, 0, 1, 1]),
        ({"positive": ["view"], "interaction": {"kind": "dcn", "rank": 2}}, [0, 1, 0, 0]),
    ],
)
def test_click_is_log_loss_of_labelled_targets(
    settings: dict[str, object], labels: list[int | None]
) -> None:
    head, batch, encoded = click((1, 1, 5), **settings)
    loss = weight = 0.0
    for (t, to), label in zip(PAIRS, labels, strict=True):
        if label is None:
            continue
        p = probability(head, batch, encoded, t, int(batch.token[to]))
        w = (1, 1, 5)[EVENTS[to]]
        loss -= w * math.log(p if label else 1 - p)
        weight += w
    assert head.counts(batch) == [weight]
    assert float(head.losses(encoded, batch)) == pytest.approx(loss, rel=1e-5)


def test_drawn_items_are_a_no_beside_every_yes() -> None:
    head, batch, encoded = click(positive=["buy"], negatives=3, user_table=False)
    made = batch.fields[""]
    drawn = [(int(t), int(i)) for t, i in zip(made["at"][4:], made["item"][4:], strict=True)]
    assert {t for t, _ in drawn} == {0, 2, 4}, "beside every yes"
    had = [set(batch.token[:4].tolist()), set(batch.token[4:6].tolist())]
    assert not [1 for t, item in drawn if item in had[t >= 4]]
    loss, count = 0.0, 0
    for (t, to), label in zip(PAIRS, [1, 0, 1, 1], strict=True):
        examples = [(int(batch.token[to]), label)]
        if label:
            examples += [(item, 0) for at, item in drawn if at == t]
        for item, yes in examples:
            p = probability(head, batch, encoded, t, item)
            loss -= math.log(p if yes else 1 - p)
            count += 1
    assert count > 8
    assert head.counts(batch) == [count]
    assert float(head.losses(encoded, batch)) == pytest.approx(loss, rel=1e-5)


def test_facts_of_a_history_are_of_it_alone_and_of_the_past() -> None:
    batch, _ = batch_of()
    facts = HistoryFacts(3.0)(batch)
    known = [[1.0], [1.0], [1.0, -1.0], [1.0, -1.0, 2.0], [-2.0], [-2.0, 0.0], [-1.0]]
    assert facts[:, 1].tolist() == pytest.approx([np.mean(x) for x in known])
    assert facts[:, 0].exp().tolist() == pytest.approx([2, 3, 4, 5, 2, 3, 2])
    features = dense_features(facts[1:2], torch.tensor([10.0]), torch.tensor([86_400 / 4]))
    assert features[0, 2] == pytest.approx(math.log1p(21_590) / 10)
    assert features[0, 3:].tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


def test_dot_interaction_by_hand() -> None:
    torch.manual_seed(0)
    network = DotInteraction(4, 3, (5,))
    a, b, c, d = network.parameters()  # weight and bias of two layers
    vectors = torch.randn(2, 4, 3)
    for row, logit in zip(vectors, network(vectors), strict=True):
        products = torch.stack([x @ y for x, y in combinations(row, 2)])
        hidden = torch.relu(a @ torch.cat([row[0], products]) + b)
        assert torch.allclose((c @ hidden + d)[0], logit)


@pytest.mark.parametrize("rank", [None, 2])
def test_cross_network_by_hand(rank: int | None) -> None:
    torch.manual_seed(0)
    network = CrossNetwork(2, 3, (5,), layers=2, rank=rank)
    for bias in network.cross.bias:
        torch.nn.init.normal_(bias)  # they are 0 at first
    weight, deep_bias = network.deep.parameters()
    vectors = torch.randn(2, 2, 3)
    for row, logit in zip(vectors.flatten(1), network(vectors), strict=True):
        x = row
        for layer in range(2):
            if rank is None:
                matrix = network.cross.kernels[layer]
            else:
                matrix = network.cross.W_kernels[layer] @ network.cross.V_kernels[layer]
            bias = network.cross.bias[layer].flatten()
            x = torch.stack([row[i] * (matrix[i] @ x + bias[i]) + x[i] for i in range(6)])
        deep = torch.relu(weight @ row + deep_bias)
        assert torch.allclose(network.out(torch.cat([x, deep]))[0], logit, atol=1e-6)


@pytest.mark.parametrize("score", ["dot", "mlp", "both"])
def test_rating_scores_by_hand(score: str) -> None:
    torch.manual_seed(0)
    config = Rating.model_validate({"kind": "rating", "score": score, "dropout": 0, "base": "mean"})
    device = torch.device("cpu")
    head = RatingModule(config, "", MANIFEST, dim=DIM, model=Model(), device=device)
    batch, encoded = batch_of(RatedInteractions(ranks=False))
    table = head.users.bags.embedding_bags["user"].weight  # type: ignore[union-attr]
    if head.mlp is not None:
        torch.nn.init.normal_(head.mlp.out.weight)
    expected = 0.0
    for t, to in PAIRS:
        if np.isnan(RATINGS[to]):
            continue
        user = torch.cat([encoded.states[t], table[10 + (t >= 4)]])
        item = encoded.items[batch.token[to]]
        predicted = torch.tensor(3.0)
        if head.product is not None:
            p = head.product
            predicted += (p.user_factor(user) * p.item_factor(item)).sum()
            predicted += p.user_bias(user)[0] + p.item_bias(item)[0]
        if head.mlp is not None:
            hidden = torch.relu(head.mlp.hidden(torch.cat([user, item])))
            predicted += head.mlp.out(hidden)[0]
        expected += float(predicted - RATINGS[to]) ** 2
    assert (head.product is None, head.mlp is None) == (score == "mlp", score == "dot")
    assert head.counts(batch) == [3]
    assert float(head.losses(encoded, batch)) == pytest.approx(expected, rel=1e-5)


def test_ratings_are_weighted_by_their_event() -> None:
    torch.manual_seed(0)
    config = Rating.model_validate({"kind": "rating", "dropout": 0, "base": "mean"})
    weights = [1.0, 0.5, 3.0]
    device = torch.device("cpu")
    head = RatingModule(config, "", MANIFEST, dim=DIM, model=Model(), device=device)
    batch, encoded = batch_of(RatedInteractions(TargetWeights(weights), ranks=False))
    users = head.rows_of_users(batch)
    assert users is not None
    rated = [(t, to) for t, to in PAIRS if not np.isnan(RATINGS[to])]
    expected = 0.0
    for t, to in rated:
        rating = head.ratings(
            encoded.states[t][None], encoded.items[batch.token[to]][None],
            users[batch.owner[t]][None],
        )  # fmt: skip
        expected += weights[EVENTS[to]] * float(rating - RATINGS[to]) ** 2
    assert float(head.losses(encoded, batch)) == pytest.approx(expected, rel=1e-5)
    assert head.counts(batch) == [sum(weights[EVENTS[to]] for _, to in rated)]
