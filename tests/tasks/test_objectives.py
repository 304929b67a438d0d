"""Losses and user vectors of the objectives against plain loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from p5dist.config.losses import FullSoftmax
from p5dist.data.attributes import Attributes
from p5dist.data.batch import Batch
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.labelled import LabelledUsers
from p5dist.data.labels import AttributeLabels
from p5dist.feed.batch_fields import BatchFields
from p5dist.feed.collate import Collate
from p5dist.models.backbone import Encoded
from p5dist.tasks.attributes import LabelFields
from p5dist.tasks.attributes.module import AttributeModule
from p5dist.tasks.item_prediction import ItemPrediction
from p5dist.tasks.masked.masking import Cloze
from p5dist.tasks.module import TaskModule
from p5dist.tasks.multi.module import MultiModule
from p5dist.tasks.predictions import ChosenInteractions, NextInteractions, TargetWeights
from p5dist.tasks.skip_gram.module import SkipGramModule
from p5dist.tasks.skip_gram.pairs import SkipGrams
from tests.data.test_histories import histories

ITEMS, DIM = 7, 6
CATALOGUE = Catalogue(ITEMS)
LISTS = [[1, 4, 2, 7], [3, 3], [5], []]
EVENTS = [[1, 2, 1, 2], [2, 1], [1], []]
LOSS = FullSoftmax()
ALIKE = [1.0, 1.0, 1.0]
# Labels of items 1…7: two genres, three brands.
LABELS = {1: [0, 2], 2: [1], 3: [], 4: [0, 1, 4], 5: [3], 6: [], 7: [2]}


def given() -> Histories:
    event = np.asarray([e for events in EVENTS for e in events], dtype=np.int8)
    return replace(histories(LISTS), event=event)


def batch_of(cloze: Cloze | None = None, **fields: BatchFields) -> tuple[Batch, Encoded]:
    """Histories are in the order of falling length already."""
    everything = np.arange(1, ITEMS + 1)
    collate = Collate(1, masking=cloze, fields=fields)
    batch = collate(given(), step=3, candidates=everything)
    vectors = torch.randn(ITEMS + 1, DIM, generator=torch.Generator().manual_seed(1))
    states = torch.randn(len(batch.token), DIM, generator=torch.Generator().manual_seed(0))
    return batch, Encoded(states, vectors[batch.items.values()])


def item_at(batch: Batch, t: int) -> int:
    return int(batch.items.values()[batch.token[t]])


def cross_entropy(state: Tensor, item: int, batch: Batch, encoded: Encoded) -> float:
    ids = batch.items.values().tolist()
    logits = {i: float(state @ encoded.items[ids.index(i)]) for i in range(1, ITEMS + 1)}
    return math.log(sum(map(math.exp, logits.values()))) - logits[item]


def mean_loss(head: TaskModule, encoded: Encoded, batch: Batch) -> float:
    losses = head.losses(encoded, batch)
    assert losses.shape == (len(head.names),)
    return float(head.combine(losses / torch.tensor(head.counts(batch))))


@pytest.mark.parametrize("weights", [ALIKE, [1.0, 1.0, 3.0], [0.0, 0.0, 1.0]])
def test_causal_weights_targets_by_their_event(weights: list[float]) -> None:
    batch, encoded = batch_of(next=NextInteractions(TargetWeights(weights), ranks=True))
    pairs = [(0, 1), (1, 2), (2, 3), (4, 5)]
    flat = [e for events in EVENTS for e in events]
    total = sum(weights[flat[to]] for _, to in pairs)
    expected = sum(
        weights[flat[to]] * cross_entropy(encoded.states[t], item_at(batch, to), batch, encoded)
        for t, to in pairs
    )
    assert mean_loss(ItemPrediction(LOSS, "next"), encoded, batch) == pytest.approx(
        expected / total, rel=1e-5
    )


@pytest.mark.parametrize("weights", [ALIKE, [1.0, 1.0, 3.0]])
def test_interactions_of_users_without_labels_are_no_targets(weights: list[float]) -> None:
    first, second = given().user[:2]
    seed = next(s for s in range(99) if LabelledUsers(0.5, s)(np.array([first, second])).tolist()
                == [False, True])  # fmt: skip
    some = NextInteractions(TargetWeights(weights, LabelledUsers(0.5, seed)), ranks=True)
    batch, encoded = batch_of(next=some)
    expected = cross_entropy(encoded.states[4], item_at(batch, 5), batch, encoded)
    assert mean_loss(ItemPrediction(LOSS, "next"), encoded, batch) == pytest.approx(expected)
    assert batch.fields["next"]["at"].tolist() == [4]


def test_interactions_of_an_earlier_run_are_no_targets() -> None:
    """Histories [1 4 2 7], [3 3], [5]; of the targets 4, 2, 7 and 3 the first two are too early."""
    late = replace(given(), timestamp=np.arange(7) * 10)
    fields = {"next": NextInteractions(TargetWeights(ALIKE, since=30), ranks=True)}
    batch = Collate(1, fields=fields)(late, candidates=np.arange(1, ITEMS + 1))
    assert [item_at(batch, t) for t in batch.fields["next"]["target"]] == [7, 3]
    assert batch.fields["next"]["weight"].tolist() == [1, 1]


@pytest.mark.parametrize("weights", [ALIKE, [0.0, 2.0, 1.0]])
def test_masked_predicts_what_the_batch_chose(weights: list[float]) -> None:
    cloze = Cloze(0.5, 0.0, CATALOGUE, 1)
    batch, encoded = batch_of(cloze, hidden=ChosenInteractions(TargetWeights(weights), ranks=True))
    chosen = np.flatnonzero(cloze(given(), 3).predicted).tolist()
    assert len(chosen) >= 2
    flat = [e for events in EVENTS for e in events]
    total = sum(weights[flat[t]] for t in chosen)
    expected = sum(
        weights[flat[t]] * cross_entropy(encoded.states[t], item_at(batch, t), batch, encoded)
        for t in chosen
    )
    assert mean_loss(ItemPrediction(LOSS, "hidden"), encoded, batch) == pytest.approx(
        expected / total, rel=1e-5
    )


def skip_grams(weights: list[float], temperature: float | None) -> tuple[SkipGramModule, Batch]:
    keep = np.ones(ITEMS, dtype=np.float32)
    batch, _ = batch_of(pairs=SkipGrams(2, keep, 1, TargetWeights(weights)))
    head = SkipGramModule(LOSS, "pairs", dim=DIM, user_items=2, temperature=temperature)
    with torch.no_grad():
        head.to_context.weight.copy_(torch.randn(DIM, DIM))
    return head, batch


def pairs_of(batch: Batch) -> list[tuple[int, int]]:
    made = batch.fields["pairs"]
    return list(zip(made["at"].tolist(), made["target"].tolist(), strict=True))


@pytest.mark.parametrize("weights", [ALIKE, [1.0, 0.5, 3.0]])
def test_skip_gram_predicts_contexts_of_centres(weights: list[float]) -> None:
    head, batch = skip_grams(weights, None)
    _, encoded = batch_of()
    flat = [e for events in EVENTS for e in events]
    pairs = pairs_of(batch)
    expected = [
        weights[flat[context]] * cross_entropy(
            head.to_context.weight @ (encoded.items[batch.token[centre]] * DIM**0.5),
            item_at(batch, context), batch, encoded,
        )
        for centre, context in pairs
    ]  # fmt: skip
    assert len(expected) >= 4
    total = sum(weights[flat[context]] for _, context in pairs)
    assert mean_loss(head, encoded, batch) == pytest.approx(sum(expected) / total, rel=1e-5)


def test_skip_gram_by_cosine() -> None:
    """The logit of a pair is cos(mapped centre, context) / temperature."""
    head, batch = skip_grams(ALIKE, 0.2)
    _, encoded = batch_of()
    items = torch.nn.functional.normalize(encoded.items) * 0.2**-0.5
    ids = batch.items.values().tolist()
    of = [ids.index(i) for i in range(1, ITEMS + 1)]
    losses = []
    for centre, context in pairs_of(batch):
        mapped = head.to_context.weight @ encoded.items[batch.token[centre]]
        cosine = torch.nn.functional.cosine_similarity(mapped[None], encoded.items[of])
        losses.append(
            torch.logsumexp(cosine / 0.2, 0) - cosine[item_at(batch, context) - 1] / 0.2
        )  # fmt: skip
    expected = float(torch.stack(losses).mean())
    assert mean_loss(head, Encoded(encoded.states, items), batch) == pytest.approx(
        expected, rel=1e-5
    )


def labels() -> AttributeLabels:
    lists = [LABELS[i] for i in range(1, ITEMS + 1)]
    flat = [np.asarray([v for v in values if (v < 2) == first]) for first in (True, False)
            for values in lists]  # fmt: skip
    genres, brands = flat[:ITEMS], flat[ITEMS:]
    offsets = [np.concatenate([[0], np.cumsum([0, *map(len, x)])]) for x in (genres, brands)]
    tables = Attributes(
        ("genre", "brand"),
        tuple(offsets),
        (np.concatenate(genres).astype(int) + 1, np.concatenate(brands).astype(int) - 1),
    )
    return AttributeLabels(tables, (2, 3))


def test_attributes_are_predicted_one_by_one() -> None:
    cloze = Cloze(0.5, 0.0, CATALOGUE, 1)
    fields = {
        of: LabelFields(of, labels(), TargetWeights(ALIKE)) for of in ("next", "masked", "item")
    }
    batch, encoded = batch_of(cloze, **fields)
    chosen = np.flatnonzero(cloze(given(), 3).predicted).tolist()
    positions = {
        "next": [(encoded.states[t], item_at(batch, to)) for t, to in [(0, 1), (1, 2), (2, 3)]],
        "masked": [
            (encoded.states[t], item_at(batch, t)) for t in chosen if item_at(batch, t) != 3
        ],
        "item": [
            (encoded.items[batch.token[t]], item_at(batch, t))
            for t in range(len(batch.token))
            if item_at(batch, t) != 3
        ],
    }  # item 3 has no attribute: nothing is known
    for of, pairs in positions.items():
        head = AttributeModule(of, of, dim=DIM, labels=5)  # type: ignore[arg-type]
        expected = []
        for vector, item in pairs:
            probability = torch.sigmoid(head.out(vector))
            target = torch.zeros(5)
            target[LABELS[item]] = 1
            expected.append(-torch.where(target == 1, probability, 1 - probability).log().sum())
        assert head.counts(batch) == [len(pairs)]
        assert mean_loss(head, encoded, batch) == pytest.approx(
            float(torch.stack(expected).mean()), rel=1e-5
        )


@pytest.mark.parametrize("of", ["next", "item"])
def test_attributes_weigh_interactions_by_their_event(of: str) -> None:
    weights = [1.0, 0.5, 3.0]
    batch, encoded = batch_of(labels=LabelFields(of, labels(), TargetWeights(weights)))
    flat = [e for events in EVENTS for e in events]
    # Positions that predict, and positions whose item has attributes and is predicted.
    pairs = [(0, 1), (1, 2), (2, 3)] if of == "next" else [(t, t) for t in (0, 1, 2, 3, 6)]
    head = AttributeModule(of, "labels", dim=DIM, labels=5)  # type: ignore[arg-type]
    total = loss = 0.0
    for at, to in pairs:
        vector = encoded.states[at] if of == "next" else encoded.items[batch.token[at]]
        target = torch.zeros(5)
        target[LABELS[item_at(batch, to)]] = 1
        loss += weights[flat[to]] * float(
            torch.nn.functional.binary_cross_entropy_with_logits(
                head.out(vector), target, reduction="sum"
            )
        )
        total += weights[flat[to]]
    assert head.counts(batch) == [pytest.approx(total)]
    assert mean_loss(head, encoded, batch) == pytest.approx(loss / total, rel=1e-5)


def test_attributes_in_chunks_have_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, encoded = batch_of(labels=LabelFields("item", labels(), TargetWeights(ALIKE)))
    gradients = []
    for logits in (1 << 20, 5):
        monkeypatch.setattr("p5dist.models.losses.CHUNK", {"cpu": logits})
        torch.manual_seed(0)
        head = AttributeModule("item", "labels", dim=DIM, labels=5)
        torch.autograd.backward(head.losses(encoded, batch).sum())
        assert head.out.weight.grad is not None
        gradients.append(head.out.weight.grad)
    assert torch.allclose(*gradients, atol=1e-6)


NEXT_AND_LABELS: dict[str, BatchFields] = {
    "next": NextInteractions(ranks=True),
    "labels": LabelFields("next", labels(), TargetWeights(ALIKE)),
}


def test_several_objectives_are_a_weighted_sum() -> None:
    batch, encoded = batch_of(**NEXT_AND_LABELS)
    parts: dict[str, TaskModule] = {
        "next": ItemPrediction(LOSS, "next"),
        "genres": AttributeModule("next", "labels", dim=DIM, labels=5),
    }
    one, other = (mean_loss(part, encoded, batch) for part in parts.values())
    fixed = MultiModule(parts, {"genres": 0.2})
    assert fixed.names == ("next", "genres")
    assert mean_loss(fixed, encoded, batch) == pytest.approx(one + 0.2 * other, rel=1e-5)


def test_learned_weights_are_those_of_uncertainty() -> None:
    """exp(-s) L + s / 2, which is least where exp(s) = 2 L."""
    batch, encoded = batch_of(**NEXT_AND_LABELS)
    parts: dict[str, TaskModule] = {
        "next": ItemPrediction(LOSS, "next"),
        "genres": AttributeModule("next", "labels", dim=DIM, labels=5),
    }
    one, other = (mean_loss(part, encoded, batch) for part in parts.values())
    learned = MultiModule(parts, None)
    assert learned.log_variance is not None
    with torch.no_grad():
        learned.log_variance.copy_(torch.tensor([2 * one, 2 * other]).log())
    assert mean_loss(learned, encoded, batch) == pytest.approx(
        1 + math.log(2 * one) / 2 + math.log(2 * other) / 2, rel=1e-5
    )
    scaled = learned.combine(torch.tensor([one, other]))
    torch.autograd.backward(scaled)
    assert learned.log_variance.grad is not None
    assert torch.allclose(learned.log_variance.grad, torch.zeros(2), atol=1e-6)
