"""Losses over the catalogue against their formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p5dist.config.losses import FullSoftmax, GeneralisedBce, SampledSoftmax
from p5dist.data.batch import Batch
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.feed.collate import Collate
from p5dist.feed.negatives import Candidates, shares_of
from p5dist.models import losses
from p5dist.models.losses import catalogue_loss, chunk_shape
from p5dist.tasks.predictions import NextInteractions
from tests.data.test_histories import histories

COUNTS = np.asarray([40, 20, 10, 5, 3, 2, 1])
CATALOGUE = Catalogue(len(COUNTS))
HISTORIES = histories([[1, 4, 2, 7], [3, 3], [5]])
STATES = torch.randn(7, 6, generator=torch.Generator().manual_seed(0)).double()
VECTORS = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)).double()
COLLATE = Collate(1, fields={"": NextInteractions(ranks=True)})
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0]).double()

Loss = FullSoftmax | SampledSoftmax | GeneralisedBce


def sampled(negatives: int, **settings: Any) -> SampledSoftmax:
    return SampledSoftmax(kind="sampled_softmax", negatives=negatives, **settings)


def batch_for(loss: Loss, step: int = 0, of: Histories = HISTORIES) -> Batch:
    ids, log_q = Candidates(loss, COUNTS, CATALOGUE, 1).at(step, of)
    return COLLATE(of, candidates=ids, candidate_log_q=log_q)


def loss_of_next(
    loss: Loss, batch: Batch, states: Tensor = STATES, weight: Tensor | None = None
) -> Tensor:
    made = dict(batch.fields[""])
    if weight is not None:
        made["weight"] = weight
    items, target = VECTORS[batch.items.values()], batch.token[made["target"]]
    return catalogue_loss(states[made["at"]], target, items, batch, made, loss=loss)


def loss_of(loss: Loss, step: int = 0) -> float:
    return float(loss_of_next(loss, batch_for(loss, step)))


PAIRS = [(0, 4), (1, 2), (2, 7), (4, 3)]  # state index and target item of the four predictions


def partitions() -> tuple[list[float], list[float]]:
    """By hand: (logit of the target, log of the partition) of the four predictions."""
    logits = [float(STATES[i] @ VECTORS[y]) for i, y in PAIRS]
    sums = [math.log(sum(math.exp(float(STATES[i] @ VECTORS[j])) for j in range(1, 8)))
            for i, _ in PAIRS]  # fmt: skip
    return logits, sums


def test_full_softmax_is_cross_entropy_over_all_items() -> None:
    logits, sums = partitions()
    assert loss_of(FullSoftmax()) == pytest.approx(sum(sums) - sum(logits), rel=1e-9)


def test_label_smoothing_and_weights_are_those_of_torch() -> None:
    logits = STATES[[i for i, _ in PAIRS]] @ VECTORS[1:].T
    target = torch.tensor([y - 1 for _, y in PAIRS])
    expected = F.cross_entropy(logits, target, label_smoothing=0.1, reduction="none") @ WEIGHT
    loss = FullSoftmax(label_smoothing=0.1)
    value = loss_of_next(loss, batch_for(loss), weight=WEIGHT)
    assert float(value) == pytest.approx(float(expected), rel=1e-9)


def plain(loss: Loss, states: Tensor, target: Tensor, items: Tensor, batch: Batch) -> Tensor:
    """The same losses with all logits at once, left to autograd."""
    logits = states @ items[batch.candidates].T
    if batch.candidate_log_q is None:
        return F.cross_entropy(
            logits, torch.searchsorted(batch.candidates, target), reduction="sum"
        )
    positive = (states * items[target]).sum(1, keepdim=True)
    hit = target.unsqueeze(1) == batch.candidates
    if isinstance(loss, GeneralisedBce):
        rate = min(len(batch.candidates) / (len(COUNTS) - 1), 1.0)  # the catalogue without one
        beta = rate * (loss.calibration * (1 - 1 / rate) + 1 / rate)
        negatives = torch.log(1 - logits.sigmoid()).masked_fill(hit, 0.0).sum()
        return -(torch.log(positive.sigmoid() ** beta).sum() + negatives) / (len(hit[0]) + 1)
    logits = (logits - batch.candidate_log_q).masked_fill(hit, float("-inf"))
    logits = torch.cat([positive, logits], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(target), reduction="sum")


@pytest.mark.parametrize(
    "loss",
    [
        FullSoftmax(),
        sampled(5),
        sampled(6, distribution={"uniform": 1, "popularity": 2}),
        GeneralisedBce(kind="gbce", negatives=5, calibration=0.6),
        GeneralisedBce(kind="gbce", negatives=20, calibration=1.0),
    ],
    ids=str,
)
@pytest.mark.parametrize(("chunk", "predictions"), [(1, 1), (6, 3), (15, 1), (1 << 20, 256)])
def test_value_and_gradients_are_those_of_the_formula(
    loss: Loss, chunk: int, predictions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the candidates of a prediction are taken in blocks."""
    monkeypatch.setattr(losses, "CHUNK", {"cpu": chunk})
    monkeypatch.setattr(losses, "_PREDICTIONS", predictions)
    batch = batch_for(loss)
    made = batch.fields[""]
    now, target = made["at"], batch.token[made["target"]]
    assert now.tolist() == [0, 1, 2, 4]
    results = []
    for compute in (plain, None):
        states = STATES[now].clone().requires_grad_()
        items = VECTORS[batch.items.values()].clone().requires_grad_()
        value = (
            catalogue_loss(states, target, items, batch, made, loss=loss)
            if compute is None
            else compute(loss, states, target, items, batch)
        )
        (value * 3).backward()
        results.append((value.detach(), states.grad, items.grad))
    for expected, found in zip(*results, strict=True):
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_chunks_have_hundreds_of_predictions_in_bounded_memory() -> None:
    assert chunk_shape(5000, 1000, "cpu") == (1048, 1000)
    assert chunk_shape(100, 1000, "cpu") == (100, 1000)
    assert chunk_shape(5000, 16_384, "cpu") == (64, 16_384)
    for candidates in (4_096, 16_385, 524_289, 100_000_000):
        assert chunk_shape(5000, candidates, "cpu") == (256, 4096)
    assert chunk_shape(5000, 100_000_000, "cuda") == (256, 1 << 18)
    assert chunk_shape(3, 524_289, "cpu") == (3, (1 << 20) // 3)
    assert chunk_shape(0, 0, "cpu") == (1, 1)


def test_a_large_catalogue_in_blocks_is_the_whole_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32, large logits, and a block whose candidates are all left out."""
    monkeypatch.setattr(losses, "CHUNK", {"cpu": 40})
    monkeypatch.setattr(losses, "_PREDICTIONS", 10)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(25, 8, generator=generator) * 30
    candidates = torch.randn(33, 8, generator=generator)
    positive, weight = torch.randn(25, generator=generator), torch.rand(25, generator=generator)
    hits = torch.tensor([0] * 4 + [7]), torch.tensor([8, 9, 10, 11, 32])
    found_hits = losses.Hits(*hits, np.searchsorted(hits[0].numpy(), np.arange(26)))
    found = [t.clone().requires_grad_() for t in (states, candidates, positive)]
    value = losses._over(losses.LOG_SUM_EXP, *found, weight, None, found_hits, torch.float32)
    logits = [t.double().requires_grad_() for t in (states, candidates, positive)]
    whole = (logits[0] @ logits[1].T).index_put(hits, torch.tensor(-torch.inf).double())
    whole = torch.logsumexp(torch.cat([whole, logits[2][:, None]], 1), 1)
    expected = whole @ weight.double()
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    for one, other in zip(
        torch.autograd.grad(value, found), torch.autograd.grad(expected, logits), strict=True
    ):
        assert torch.allclose(one.double(), other, rtol=1e-4, atol=1e-4)


def test_no_prediction_at_all_is_a_loss_of_zero_with_gradients() -> None:
    loss = sampled(5)
    batch = batch_for(loss, of=histories([[1], [2]]))
    items = VECTORS[batch.items.values()].requires_grad_()
    nothing = torch.zeros(0, 6, dtype=torch.double)
    value = catalogue_loss(nothing, batch.token[:0], items, batch, batch.fields[""], loss=loss)
    value.backward()
    assert value == 0 and items.grad is not None and not items.grad.any()


@pytest.mark.parametrize(
    "distribution", ["uniform", "popularity", {"uniform": 0.3, "popularity": 0.7}], ids=str
)
def test_sampled_softmax_approaches_the_full_one(distribution: Any) -> None:
    """With many draws the estimate of the partition converges, whatever the distribution."""
    loss = sampled(60_000, distribution=distribution)
    assert loss_of(loss) == pytest.approx(loss_of(FullSoftmax()), abs=0.05)


@pytest.mark.parametrize(
    "distribution", ["uniform", "popularity", {"uniform": 0.5, "popularity": 0.5}], ids=str
)
def test_the_partition_is_estimated_without_bias(distribution: Any) -> None:
    """The mean over steps of the estimated partition of one prediction is the exact one."""
    loss = sampled(8, distribution=distribution)
    one = histories([[1, 4]])
    candidates = Candidates(loss, COUNTS, CATALOGUE, 1)
    estimates = []
    for step in range(700):
        ids, log_q = candidates.at(step, one)
        batch = COLLATE(one, candidates=ids, candidate_log_q=log_q)
        value = float(loss_of_next(loss, batch, STATES[:2]))
        estimates.append(math.exp(value + float(STATES[0] @ VECTORS[4])))
    exact = math.exp(partitions()[1][0])
    error = np.std(estimates) / len(estimates) ** 0.5
    assert abs(np.mean(estimates) - exact) < 4 * error
    assert error < 0.15 * exact


def test_calibrated_bce_has_the_probability_of_the_softmax_free_optimum() -> None:
    """t = 1: the positive's exponent is the sampling rate, so that σ(s) = P(y) is where the
    expected gradient vanishes (Petrov and Macdonald 2023, theorem 5.1)."""
    p, negatives, items = 0.3, 21, 70
    counts = np.full(items, 1)
    loss = GeneralisedBce(kind="gbce", negatives=negatives, calibration=1.0)
    ids, log_q = Candidates(loss, counts, Catalogue(len(counts)), 1).at(0, Histories.empty())
    batch = COLLATE(histories([[1, 2]]), candidates=ids, candidate_log_q=log_q)
    logit = torch.tensor([[math.log(p / (1 - p))]], requires_grad=True)
    one = torch.ones(1, 1)
    # As target in a share p of the predictions; else a negative with the sampling rate.
    nothing = torch.zeros(len(batch.items.values()), 1)  # without gradient to the state
    items_ = nothing.index_put((batch.token[1],), one[0])
    positive = catalogue_loss(logit, batch.token[1:], items_, batch, batch.fields[""], loss=loss)
    gradient = torch.autograd.grad(positive, logit)[0] * (negatives + 1)
    rate = negatives / (items - 1)  # the negatives are drawn from the other items
    assert float(p * gradient + (1 - p) * rate * p) == pytest.approx(0.0, abs=1e-6)


def test_shares_add_up_by_largest_remainder() -> None:
    mixture = {"uniform": 1.0, "popularity": 1.0, "in_batch": 1.0}
    shares = shares_of(sampled(512, distribution=mixture))
    assert sorted(shares.values()) == [170, 171, 171]
    assert shares_of(FullSoftmax()) == {}


def test_in_batch_negatives_are_interactions_of_the_batch_however_it_is_spread() -> None:
    loss = sampled(6, distribution="in_batch")
    many = histories([[1, 4, 2, 7], [3, 3], [5], [6, 1, 1, 1]])
    ids, log_q = Candidates(loss, COUNTS, CATALOGUE, 1).at(3, many)
    assert len(ids) == 6
    assert set(ids.tolist()) <= set(many.item.tolist())
    assert log_q is not None
    assert np.allclose(log_q, np.log(6 * COUNTS[ids - 1] / COUNTS.sum()))
    workers = [many.take(np.asarray(part, dtype=np.int64)) for part in ([2, 0], [], [1, 3])]
    sent: list[Any] = []
    for part in workers:  # what each would send
        Candidates(loss, COUNTS, CATALOGUE, 1, gather=lambda x: sent.append(x) or [x]).at(3, part)
    gathered, _ = Candidates(loss, COUNTS, CATALOGUE, 1, gather=lambda _: sent).at(3, workers[0])
    assert gathered.tolist() == ids.tolist()
    other = Candidates(loss, COUNTS, CATALOGUE, 1).at(4, many)[0]
    assert sorted(other.tolist()) != sorted(ids.tolist())


def test_in_batch_negatives_may_be_fewer() -> None:
    ids, log_q = Candidates(sampled(50, distribution="in_batch"), COUNTS, CATALOGUE, 1).at(
        0, HISTORIES
    )
    assert sorted(ids.tolist()) == sorted(HISTORIES.item.tolist())
    assert log_q is not None and np.allclose(log_q, np.log(7 * COUNTS[ids - 1] / COUNTS.sum()))


def test_items_never_seen_are_left_out_of_the_candidates() -> None:
    counts = np.asarray([5, 0, 3, 0])
    ids, _ = Candidates(FullSoftmax(), counts, Catalogue(len(counts)), 1, only_seen=True).at(
        0, HISTORIES
    )
    assert ids.tolist() == [1, 3]
    loss = sampled(200, distribution={"uniform": 1, "popularity": 1})
    ids, log_q = Candidates(loss, counts, Catalogue(len(counts)), 1, only_seen=True).at(
        0, HISTORIES
    )
    assert set(ids.tolist()) == {1, 3}
    weight = np.asarray([5, 3]) ** 0.75
    expected = 100 * 0.5 + 100 * weight / weight.sum()
    assert log_q is not None and np.allclose(np.exp(log_q), expected[(ids == 3).astype(int)])


def test_ids_that_no_item_has_are_no_candidates() -> None:
    counts, catalogue = np.asarray([5, 0, 0, 0, 3]), Catalogue(5, np.asarray([2, 4]))
    ids, _ = Candidates(FullSoftmax(), counts, catalogue, 1).at(0, HISTORIES)
    assert ids.tolist() == [1, 3, 5]
    loss = sampled(300, distribution={"uniform": 1, "popularity": 2})
    ids, log_q = Candidates(loss, counts, catalogue, 1).at(0, HISTORIES)
    assert set(ids.tolist()) == {1, 3, 5}
    weight = np.asarray([5, 1, 3]) ** 0.75
    expected = np.log(100 / 3 + 200 * weight / weight.sum())
    assert np.allclose(log_q, expected[(ids - 1) // 2])
    of = histories([[1, 5, 3]])
    ids, _ = Candidates(sampled(9, distribution="in_batch"), counts, catalogue, 1).at(0, of)
    assert sorted(ids.tolist()) == [1, 3, 5]


def test_in_batch_negatives_are_corrected_by_what_windows_show() -> None:
    met = np.asarray([4, 4, 8, 0.5, 1, 0, 0.5])
    loss = sampled(3, distribution="in_batch")
    of = histories([[1, 3, 4]])
    ids, log_q = Candidates(loss, COUNTS, CATALOGUE, 1, met=met).at(0, of)
    assert sorted(ids.tolist()) == [1, 3, 4]
    assert np.allclose(log_q, np.log(3 * met[ids - 1] / 18))
