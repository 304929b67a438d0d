"""Functions of test_placement.py that run in a process of their own."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p5dist.config.registry import OBJECTIVES, TASKS
from p5dist.data.batch import Batch
from p5dist.tasks.module import Asked
from tests.devices import pretend
from tests.models.test_encoder_contract import ALL, BOTH_WAYS, DIM, LENGTHS, MAX_LENGTH, batch_of
from tests.tasks.test_contract import KINDS, SETTINGS, Case, make_case

LOSSES = {
    "full": {"kind": "softmax", "label_smoothing": 0.1},
    "sampled": {
        "kind": "sampled_softmax", "negatives": 9,
        "distribution": {"uniform": 1, "popularity": 1, "in_batch": 1},
    },
    "gbce": {"kind": "gbce", "negatives": 9},
}  # fmt: skip
INPUTS = {
    "inputs": {
        "rating": True, "event": True, "time_gap": True, "calendar": True, "user_id": True,
        "id_dropout": 0.2, "item_dropout": 0.2,
    },
    "cosine_temperature": 0.1,
}  # fmt: skip
Check = Callable[[], None]


def results(folder: Path) -> dict[str, str]:
    """By name of a check what went wrong; empty if nothing did."""
    pretend.register()
    found = {}
    for name, check in checks(folder):
        found[name] = ""
        try:
            check()
        except Exception:
            found[name] = traceback.format_exc(limit=-6)
    return found


def checks(folder: Path) -> Iterator[tuple[str, Check]]:
    for registry, kind in KINDS:
        settings = {"kind": kind, **SETTINGS.get((registry.noun, kind), {})}
        yield f"{registry.noun}-{kind}", _training(folder, registry, settings)
    for name, loss in LOSSES.items():
        yield f"loss-{name}", _training(folder, OBJECTIVES, {"kind": "causal", "loss": loss})
    for part in ("next", "item"):
        attributes = {"kind": "attributes", "attributes": ["genre"], "of": part}
        yield f"attributes-{part}", _training(folder, OBJECTIVES, attributes)
    dcn = {"kind": "click", "threshold": 3, "interaction": {"kind": "dcn", "rank": 4}}
    yield "click-dcn", _training(folder, TASKS, dcn)
    everything = {"kind": "masked"}
    yield "inputs", _training(folder, OBJECTIVES, everything, model=INPUTS)
    for name in ALL:
        yield f"encoder-{name}-causal", lambda name=name: encode(name, causal=True)
    for name in BOTH_WAYS:
        yield f"encoder-{name}-both", lambda name=name: encode(name, causal=False)


def _training(folder: Path, registry: Any, settings: dict[str, Any], **more: Any) -> Check:
    def check() -> None:
        train(make_case(folder, registry, settings, **more))

    return check


def train(case: Case) -> None:
    """Losses, gradients, user vectors and predictions."""
    model, histories = case.model(), case.histories()
    made = case.batch(histories)
    with pretend.no_values():
        pretend.move(model)
        batch = pretend.moved(made)
        losses = model.train()(batch)
        assert losses.device.type == pretend.NAME
        torch.autograd.backward(model.head.combine(losses * torch.ones_like(losses)))
        reached = [p for p in model.parameters() if p.grad is not None]
        assert reached and all(p.grad.device == p.device for p in reached)
        model.eval()
        with torch.no_grad():
            for name, task in case.training.tasks().items():
                if task.ranks:
                    vectors = model.head.part(name).user_vectors(model.backbone, batch)
                    assert vectors.shape == (len(histories), case.job.model.dim)
                if task.metrics:
                    predict(model, name, batch)


def predict(model: Any, name: str, batch: Batch) -> None:
    module = model.head.part(name)
    encoded = module.encode(model.backbone, batch)
    history = torch.zeros(5, dtype=torch.long, device=pretend.NAME)
    asked = Asked(batch, encoded.states, encoded.items[history], history, history, history)
    assert module.predict(asked).device.type == pretend.NAME


def encode(name: str, *, causal: bool) -> None:
    module = ALL[name].build(dim=DIM, max_length=MAX_LENGTH, causal=causal)
    made = batch_of(LENGTHS)
    with pretend.no_values():
        pretend.move(module)
        batch = pretend.moved(made)
        x: Tensor = torch.empty(len(made.token), DIM, device=pretend.NAME, requires_grad=True)
        torch.autograd.backward(module.train()(x, batch).sum())
        assert x.grad is not None and x.grad.device == x.device


def planted(_: Path) -> dict[str, str]:
    """What is said of mistakes, so that the checks are known to find them."""
    pretend.register()
    found = {}
    with pretend.no_values():
        x = torch.empty(4, device=pretend.NAME)
        for name, mistake in {
            "mixed": lambda: x + torch.arange(4.0),
            "index": lambda: x.index_fill(0, torch.arange(2), 0.0),
            "waits": lambda: x.sum().item(),
            "size": lambda: x[x > 0],
        }.items():
            try:
                mistake()
                found[name] = ""
            except Exception as e:
                found[name] = f"{type(e).__name__}: {e}"
    return found
