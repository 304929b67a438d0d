"""Every registered encoder, of p5dist and of installed packages, keeps the contract on jagged
histories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from p5dist.config import dump_job, parse_job
from p5dist.config.registry import ENCODERS
from p5dist.data.batch import Batch
from p5dist.feed.collate import Collate
from p5dist.models.encoders.encoder import Encoder
from tests.data.test_histories import histories
from tests.small_data import small_job

DIM = 8
MAX_LENGTH = 40
LENGTHS = [1, 30, 7, 0, 22, 2, 30, 19]
SETTINGS: dict[str, dict[str, Any]] = {}
"""What a kind cannot do without."""
VARIANTS: dict[str, dict[str, Any]] = {
    "from_end": {"kind": "transformer", "positions": "learned_from_end"},
    "rotary": {"kind": "transformer", "positions": "rotary"},
    "intervals": {"kind": "transformer", "positions": "none", "time_intervals": True},
    "hstu_without_time": {"kind": "hstu", "time_intervals": False},
    "mean_dropped": {"kind": "mean", "dropout": 0.2},
    "mean_of_three": {"kind": "mean", "last": 3},
}
"""Further settings of ours that change what is computed."""


def encoder(settings: dict[str, Any]) -> Encoder:
    kind = settings["kind"]
    try:
        found = ENCODERS.find(kind).model_validate(settings)
    except ValidationError as e:
        pytest.fail(f"add minimal settings for {kind} to SETTINGS: {e}")
    assert isinstance(found, Encoder)
    return found


REGISTERED = {name: {"kind": name, **SETTINGS.get(name, {})} for name in ENCODERS.names()}
ALL = {name: encoder(settings) for name, settings in (REGISTERED | VARIANTS).items()}
BOTH_WAYS = {name: e for name, e in ALL.items() if e.sees_both_sides}


def without_dropout(name: str) -> Encoder:
    found = ALL[name]
    return found.model_copy(update={"dropout": 0.0}) if hasattr(found, "dropout") else found


def build(config: Encoder, *, causal: bool = True) -> nn.Module:
    """An encoder whose every parameter matters (biases start at zero)."""
    torch.manual_seed(0)
    encoder = config.build(dim=DIM, max_length=MAX_LENGTH, causal=causal)
    for p in encoder.parameters():
        nn.init.normal_(p, std=0.5)
    return encoder.eval()


def batch_of(lengths: list[int], step: int = 0) -> Batch:
    made = histories([[1] * n for n in lengths])
    made.timestamp[:] = np.random.default_rng(len(made.item)).integers(0, 10**13, len(made.item))
    made.timestamp.sort()
    return Collate(1)(made, step=step)


def alone(batch: Batch, begin: int, end: int) -> Batch:
    """One history of ``batch`` by itself."""
    made = histories([[1] * (end - begin)])
    made.timestamp[:] = batch.timestamp[begin:end].numpy()
    made.row[:] = batch.rows[int(batch.owner[begin])]
    return Collate(1)(made)


@pytest.mark.parametrize("name", ENCODERS.names())
def test_a_job_with_the_encoder_is_read_again(name: str) -> None:
    settings = ", ".join(f"{key}: {value}" for key, value in REGISTERED[name].items())
    job = small_job("runs", f"model.encoder={{{settings}}}")
    assert job.model.encoder == ALL[name]
    assert set(job.model.encoder.columns) <= {"timestamp", "rating", "event"}
    assert ALL[name].layer_count() >= 1
    for defaults in (True, False):
        assert parse_job(dump_job(job, defaults=defaults)) == job


@pytest.mark.parametrize(
    ("name", "causal"), [*((n, True) for n in ALL), *((n, False) for n in BOTH_WAYS)]
)
def test_states_do_not_depend_on_the_other_histories_of_the_batch(name: str, causal: bool) -> None:
    model = build(ALL[name], causal=causal).train()  # with dropout
    x = torch.randn(sum(LENGTHS), DIM)
    batch = batch_of(LENGTHS)
    together = model(x, batch)
    begin = 0
    for length in sorted(LENGTHS, reverse=True)[:-1]:
        end = begin + length
        assert torch.allclose(
            together[begin:end], model(x[begin:end], alone(batch, begin, end)), atol=1e-4
        )
        begin = end


@pytest.mark.parametrize("name", ALL)
def test_a_causal_state_sees_no_later_interaction(name: str) -> None:
    model = build(ALL[name])
    x = torch.randn(12, DIM)
    changed = x.clone()
    changed[7:] = 0
    batch = batch_of([12])
    assert torch.allclose(model(x, batch)[:7], model(changed, batch)[:7], atol=1e-5)
    assert not torch.allclose(model(x, batch)[7], model(changed, batch)[7], atol=1e-3)


@pytest.mark.parametrize("length", [2, 7, MAX_LENGTH])
@pytest.mark.parametrize("name", ALL)
def test_ranking_asks_for_the_state_that_training_predicts_the_last_item_from(
    name: str, length: int
) -> None:
    model = build(without_dropout(name))
    x = torch.randn(length, DIM)
    in_training = model.train()(x, batch_of([length]))[length - 2]
    batch = alone(batch_of([length]), 0, length - 1)
    asked = model.eval()(x[: length - 1], batch)[-1]
    assert torch.allclose(in_training, asked, atol=1e-5)


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_a_bidirectional_state_sees_later_interactions_of_its_own_history(name: str) -> None:
    model = build(ALL[name], causal=False)
    x = torch.randn(12, DIM)
    changed = x.clone()
    changed[7] = 0
    batch = batch_of([8, 4])
    assert (model(x, batch)[:8] - model(changed, batch)[:8]).abs().amax(1).gt(1e-5).all()
    assert torch.allclose(model(x, batch)[8:], model(changed, batch)[8:], atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    model = build(ALL[name]).double()
    x = torch.randn(9, DIM, dtype=torch.double, requires_grad=True)
    batch = batch_of([5, 1, 3])
    weight = torch.randn(9, DIM, dtype=torch.double)
    tensors = [x, *model.parameters()]
    (model(x, batch) * weight).sum().backward()
    for tensor in tensors:
        assert tensor.grad is not None
        place = int(tensor.grad.abs().argmax())
        values = []
        for change in (1e-6, -1e-6):
            with torch.no_grad():
                tensor.view(-1)[place] += change
                values.append(float((model(x, batch) * weight).sum()))
                tensor.view(-1)[place] -= change
        measured = (values[0] - values[1]) / 2e-6
        assert float(tensor.grad.view(-1)[place]) == pytest.approx(measured, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_no_interaction_at_all_still_has_gradients(name: str) -> None:
    """A worker without histories takes part in the exchange of gradients."""
    model = build(ALL[name])
    empty = Collate(1)(histories([[]]).take(np.zeros(0, dtype=np.int64)))
    model(torch.zeros(0, DIM), empty).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", [n for n, e in ALL.items() if hasattr(build(e), "states_at")])
def test_states_at_some_interactions_are_those_of_all(name: str) -> None:
    module, batch = build(ALL[name]), batch_of(LENGTHS)
    x = torch.randn(len(batch.owner), DIM, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found, whole = module.states_at(x, batch, batch.ends), module(x, batch)
        nothing = module.states_at(x, batch, batch.ends[:0])
    torch.testing.assert_close(found, whole[batch.ends], rtol=1e-5, atol=1e-5)
    assert nothing.shape == (0, DIM)
