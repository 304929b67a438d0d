"""Functions that the processes of test_private run, and a plain program to compare with."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from p5dist.config import RunConfig
from p5dist.data.batch import Batch
from p5dist.data.histories import Histories
from p5dist.data.manifest import Manifest
from p5dist.feed.stream import LaneStream, read_here
from p5dist.storage import RunFolder
from p5dist.tasks.build import Model, build_model
from p5dist.train.private.alone import Alone
from p5dist.train.session import Session
from tests.distributed.stages import open_stage

STAGE, VARIABLE = "finetune/rating", "TEST_NOISE_KEY"


def with_key(key: str, function: Callable[..., Any], *args: Any) -> Any:
    """What ``function`` returns in a process that has the key of the noise; processes of
    run_distributed do not have the environment of the test."""
    os.environ[VARIABLE] = key
    return function(*args)


def steps_of(session: Session, number: int) -> list[Histories]:
    """This worker's histories of the first steps."""
    readers = session.mix.readers(session.job, session.training)
    stream = LaneStream(readers, dist.get_rank(), dist.get_world_size(), 10, 1, read_here)
    return [histories for _, histories in stream.steps(0, number)]


def alone(session: Session, histories: Histories, step: int = 0) -> Alone:
    """As the feed makes it."""
    candidates = log_q = None
    if session.candidates is not None:
        candidates, log_q = session.candidates.at(step, histories)
    return Alone(histories, step, session.collate, candidates, log_q, len(histories))


def summed(session: Session, histories: Histories) -> Tensor:
    """[n] sum of clipped gradients, without noise."""
    session.model.train()
    assert session.private is not None
    return session.private.add_up(alone(session, histories)).gradients


@dataclass
class Plain:
    """The model without TorchRec's sharding and DDP, and users one by one."""

    model: Model
    names: list[str]
    """Of the trained parameters, in the order of a private step."""

    @classmethod
    def of(cls, session: Session) -> Plain:
        folder = RunFolder.of_job(session.job)
        manifest = Manifest.load(folder.prepare)
        model = build_model(session.job, session.stage, manifest, torch.device("cpu"))
        state = {name: _whole(value) for name, value in session.model.state_dict().items()}
        model.load_state_dict(state)
        model.train()
        dense = list(session.optimizers.dense_parameters)
        tables = {name: name for name, _ in model.named_parameters() if ".embedding" in name}
        items = [n for n in tables if n.startswith("backbone.items.ids")]
        bags = [n for n in tables if n.startswith("backbone.items.bags")]
        return cls(model, [*dense, *items, *bags])

    def gradient(self, batch: Batch) -> Tensor | None:
        """Of the loss of one user, flat; None without a target."""
        counts = self.model.head.counts(batch)
        if not any(counts):
            return None
        self.model.zero_grad(set_to_none=True)
        sums = self.model(batch)
        shares = torch.tensor([1 / n if n else 0.0 for n in counts])
        self.model.head.combine(sums * shares).backward()
        named = dict(self.model.named_parameters())
        parts = []
        for name in self.names:
            gradient = named[name].grad
            part = torch.zeros_like(named[name]) if gradient is None else gradient.clone()
            if ".embedding" in name:
                part[0] = 0
            parts.append(part.flatten())
        return torch.cat(parts)

    def summed(self, users: Alone, clip: float) -> Tensor:
        """The sum of clipped gradients."""
        total = torch.zeros(sum(dict(self.model.named_parameters())[n].numel() for n in self.names))
        for batch in users.batches():
            gradient = self.gradient(batch)
            if gradient is not None:
                total += gradient * min(1.0, clip / float(gradient.norm()))
        return total


def _whole(value: Any) -> Tensor:
    return value.local_shards()[0].tensor if hasattr(value, "local_shards") else value


def sums_of_both(job: RunConfig) -> tuple[Tensor, Tensor]:
    """The sum of the first step, by p5dist and by the plain program."""
    session = open_stage(job, STAGE)
    (histories,) = steps_of(session, 1)
    assert session.private is not None
    plain = Plain.of(session).summed(alone(session, histories), session.private.budget.clip)
    return summed(session, histories), plain


def without_each(job: RunConfig) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For some users: the sum of all, of all but the user, and of the user alone."""
    session = open_stage(job, STAGE)
    (histories,) = steps_of(session, 1)
    everyone = np.arange(len(histories))
    whole = summed(session, histories)
    return [
        (
            whole,
            summed(session, histories.take(np.delete(everyone, user))),
            summed(session, histories.take(everyone[[user]])),
        )
        for user in everyone[:5]
    ]


def planted(job: RunConfig) -> tuple[Tensor, Tensor, float]:
    """The sum of all, the sum with the ratings of the longest history times a million, and the norm
    of the gradient of this history."""
    session = open_stage(job, STAGE)
    (histories,) = steps_of(session, 1)
    user = int(histories.lengths.argmax())
    rating = histories.rating.copy()
    rating[histories.offsets[user] : histories.offsets[user + 1]] *= 1e6
    changed = replace(histories, rating=rating)
    (batch,) = alone(session, changed.take(np.array([user]))).batches()
    gradient = Plain.of(session).gradient(batch)
    assert gradient is not None
    return summed(session, histories), summed(session, changed), float(gradient.norm())


def noise_of_a_step(job: RunConfig) -> tuple[Tensor, Tensor, float]:
    """What a step changes beyond the sum of the gradients, of the dense part (its gradient after
    the step) and of the item table, in units of noise times clip; and the largest change of row
    0."""
    session = open_stage(job, STAGE)
    private = session.private
    assert private is not None
    (histories,) = steps_of(session, 1)
    before = private.rows.read()["item"].detach().clone()
    session.optimizers.prepare(0)
    found = summed(session, histories)
    total = found.clone()
    dist.all_reduce(total)
    private.apply(0, found)
    after = private.rows.read()["item"].detach()
    size, scale = session.training.batch_size, private.budget.noise * private.budget.clip
    dense = torch.cat([p.grad.flatten() for p in session.optimizers.dense_parameters.values()])
    rate = session.training.tables.lr
    own = total[dense.numel() :][: before.numel()].view_as(before)
    of_rows = (before - after) / rate * size - own
    of_dense = dense * size - total[: dense.numel()]
    row0 = float((before[0] - after[0]).abs().max())
    return of_dense / scale, of_rows[1:] / scale, row0


def plain_training(job: RunConfig, steps: int) -> dict[str, Tensor]:
    """The weights after some steps of a plain program: AdamW and SGD on the sum of the users' mean
    losses, divided by the batch size."""
    session = open_stage(job, STAGE)
    plain, training = Plain.of(session), session.training
    named = dict(plain.model.named_parameters())
    dense = [named[n] for n in plain.names if ".embedding" not in n]
    adam = torch.optim.AdamW(
        dense, lr=training.dense.lr, betas=training.dense.betas,
        weight_decay=training.dense.weight_decay,
    )  # fmt: skip
    for step, histories in enumerate(steps_of(session, steps)):
        total = plain.summed(alone(session, histories, step), float("inf"))
        total /= training.batch_size
        parts = torch.split(total, [named[n].numel() for n in plain.names])
        with torch.no_grad():
            for name, part in zip(plain.names, parts, strict=True):
                if ".embedding" in name:
                    named[name] -= training.tables.lr * part.view_as(named[name])
                else:
                    named[name].grad = part.view_as(named[name]).clone()
        adam.step()
    return {f"model.{name}": named[name].detach() for name in plain.names}


def checks(jobs: list[RunConfig]) -> list[str]:
    """What tells the noise of runs apart."""
    found: list[str] = []
    for job in jobs:
        private = open_stage(job, STAGE).private
        assert private is not None
        found.append(private.noise.check)
    return found


def raises(function: Callable[..., Any], *args: Any) -> str:
    """The text of what ``function`` raises."""
    try:
        function(*args)
    except Exception as e:
        return str(e)
    return ""
