"""The steps of a training stage on one worker."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from p5dist.data.batch import Batch
from p5dist.data.histories import Histories
from p5dist.errors import TrainingError
from p5dist.feed.ahead import Ready, prefetch
from p5dist.feed.stream import LaneStream
from p5dist.observe.events import Callback, Logged, Saved, Saving, Skipped, Trained, Validated, tell
from p5dist.observe.metrics_log import DATA
from p5dist.train.agreement import NUMBER_OF_FLAGS, Flags, OtherWorkerError
from p5dist.train.memory import FreeMemory
from p5dist.train.meter import (
    BACKWARD,
    CHECKPOINT,
    FORWARD,
    OPTIMIZER,
    Meter,
    meter_for,
    watch_tables,
)
from p5dist.train.requests import NoRequests, Requests
from p5dist.train.session import Session
from p5dist.train.validation import Validator

_WAIT_SECONDS = 0.05


@dataclass(frozen=True)
class _Step:
    """The results of a step that all workers know."""

    loss: float
    losses: list[float]
    histories: float
    lr: float
    agreed: Flags
    applied: bool
    targets: bool
    """Whether any worker had a target."""


def run_steps(
    session: Session,
    stream: LaneStream,
    *,
    callbacks: Sequence[Callback] = (),
    requests: Requests = NoRequests(),  # noqa: B008
    validator: Validator | None = None,
) -> bool:
    """Take all steps from ``session.start`` on, with checkpoints on the way and at the end.

    The loss of a step is the sum over the global batch divided by the global count, so that it
    does not depend on how the histories are spread over the workers. Gradients: each worker's sum
    is scaled by N / count, which undoes the mean over N workers in both DDP and TorchRec.

    Returns:
        True at the end of the stage, which may be an early stop; False if the stage was asked to
        stop and has written a checkpoint.

    Raises:
        TrainingError: on all workers, when a loss is not finite (see ``non_finite``).
        P5Error: on a worker that cannot continue; OtherWorkerError on the others.
    """
    if session.selection.exhausted:
        return True
    session.model.train()
    start, stop = session.start, session.total
    steps = stream.steps(start, stop)
    meter = meter_for(session.device)
    with (
        watch_tables(session.model, meter),
        prefetch(steps, partial(_batch, session), start=start, stop=stop) as batches,
    ):
        newest, completed = _take_steps(session, batches, meter, callbacks, requests, validator)
    _finish_saving(session)
    if newest > completed:
        tell(callbacks, Saved(newest, session.saver.seconds))
    return newest >= stop or session.selection.exhausted


def _take_steps(
    session: Session,
    batches: Iterator[Ready],
    meter: Meter,
    callbacks: Sequence[Callback],
    requests: Requests,
    validator: Validator | None,
) -> tuple[int, int]:
    """The steps of :func:`run_steps`; the step of the newest checkpoint, and of the newest one
    that is known to be complete."""
    histories_seen = 0.0
    stop, every = session.total, session.training.log_every
    completed = newest = session.start
    memory = FreeMemory()
    learned = session.start > 0
    while True:
        with meter.part(DATA):
            ready = next(batches, None)
        if ready is None:
            break
        step, batch = ready.step, ready.batch
        problem = session.saver.error or ready.error
        local = Flags(
            stop=requests.stop(),
            problem=problem is not None,
            look=requests.look(),
            completed=session.saver.completed or 0,
        )
        taken = _step(session, step, batch, meter, local)
        if taken.agreed.problem:
            raise problem or _other(session)
        if not taken.applied:
            _skip(session, step, batch, taken.loss, callbacks)
        tell(callbacks, Trained(step, batch.rows))
        histories_seen += taken.histories
        learned |= taken.targets
        done = step + 1
        if done == stop and not learned:
            raise _nothing(session)
        if done % every == 0 or done == stop:
            tell(callbacks, _logged(session, step, taken, histories_seen, meter))
            histories_seen = 0.0
        if session.average is not None:
            with meter.part("average"):
                session.average.update(done)
        score: float | None = None
        if validator is not None and (done % validator.config.every == 0 or done == stop):
            with meter.part("validation"):
                score = _validate(session, validator, done, callbacks)
        stopping = taken.agreed.stop > 0
        ending = done == stop or stopping or session.selection.exhausted
        due = done % session.training.checkpoint.every == 0 or score is not None or ending
        if due or (taken.agreed.look and requests.preempted()):
            with meter.part(CHECKPOINT):
                tell(callbacks, Saving(done))
                session.save(done, score)
                newest = done
        if taken.agreed.completed > completed:
            completed = int(taken.agreed.completed)
            with meter.part(CHECKPOINT):
                tell(callbacks, Saved(completed, session.saver.seconds))
        memory.look()
        if ending:
            break
    return newest, completed


def _logged(session: Session, step: int, taken: _Step, histories: float, meter: Meter) -> Logged:
    """The numbers of a step, with rate and seconds since the preceding logged step."""
    seconds, parts = meter.take()
    several = len(taken.losses) > 1
    return Logged(
        step=step + 1,
        epoch=session.order.locate(step)[0],
        loss=taken.loss if taken.applied else None,
        lr=taken.lr,
        samples_per_second=round(histories / seconds, 1),
        seconds=parts,
        losses=dict(zip(session.inner.head.names, taken.losses, strict=True)) if several else {},
    )


def _validate(
    session: Session, validator: Validator, done: int, callbacks: Sequence[Callback]
) -> float:
    """The score after ``done`` steps, the higher the better."""
    average = nullcontext() if session.average is None else session.average.in_place()
    with average:
        value = validator()
    session.model.train()
    metric = validator.config.metric
    tell(callbacks, Validated(done, metric, value))
    score = value if validator.higher_is_better else -value
    session.selection.add(score)
    return score


def _batch(session: Session, step: int, histories: Histories) -> Batch:
    candidates, log_q = (None, None)
    if session.candidates is not None:
        candidates, log_q = session.candidates.at(step, histories)
    batch = session.collate(histories, step=step, candidates=candidates, candidate_log_q=log_q)
    return batch.to(session.device)


def _step(session: Session, step: int, batch: Batch, meter: Meter, local: Flags) -> _Step:
    """Take one step; it is not applied where a worker has a problem or the loss is not finite."""
    head = session.inner.head
    known = [*local.values(), *head.counts(batch), float(batch.histories)]
    with meter.part(OPTIMIZER):
        lr = session.optimizers.prepare(step)
    with meter.part(FORWARD):
        sums = session.model(batch)
    with meter.part("exchange"):
        totals = torch.tensor(known, dtype=torch.float64, device=session.device)
        totals = torch.cat([totals, sums.detach().double()])
        dist.all_reduce(totals)
        sizes = [NUMBER_OF_FLAGS, len(sums), 1, len(sums)]
        flags, counts, histories, total = totals.split_with_sizes(sizes)
        losses = torch.where(counts > 0, total / counts, 0.0)  # no target anywhere: no loss
        loss = head.combine(losses).item()
    agreed = Flags.agreed(flags)
    applied = math.isfinite(loss)
    found = bool(counts.any())
    if applied and not agreed.problem and found:
        with meter.part(BACKWARD):
            scale = torch.where(counts > 0, dist.get_world_size() / counts, 0.0)
            minimised = head.combine(sums * scale.to(sums.dtype))
            torch.autograd.backward(minimised)
        with meter.part(OPTIMIZER):
            session.optimizers.step()
    return _Step(loss, losses.tolist(), histories.item(), lr, agreed, applied, found)


def _skip(
    session: Session, step: int, batch: Batch, loss: float, callbacks: Sequence[Callback]
) -> None:
    """The loss is not finite: skip this step if the job allows it."""
    rows: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(rows, batch.rows.tolist())
    policy = session.training.non_finite
    if policy.policy == "stop" or session.skipped >= policy.budget:
        allowed = f"{policy.budget} steps may be skipped" if policy.policy == "skip" else "stop"
        raise TrainingError(
            "the loss is not finite; the step was not applied",
            where=f"{session.stage}, step {step}",
            value=loss,
            rule=f"a loss is a finite number (non_finite: {allowed})",
            fix="lower the learning rates (tables.lr, dense.lr), look at the data, or set "
            "non_finite.policy: skip; the step had the histories with row numbers "
            f"{sorted(row for worker in rows for row in worker)[:50]} …",
        )
    session.skipped += 1
    tell(callbacks, Skipped(step, rows))


def _finish_saving(session: Session) -> None:
    """Wait, all workers together, until the last checkpoint is complete."""
    while True:
        saver = session.saver
        state = torch.tensor([float(saver.busy), float(saver.error is not None)])
        state = state.to(session.device)
        dist.all_reduce(state)
        if state[1]:
            raise saver.error or _other(session)
        if not state[0]:
            return
        time.sleep(_WAIT_SECONDS)


def _nothing(session: Session) -> TrainingError:
    """For tasks of other packages: p5dist's own look at the data before workers are started."""
    return TrainingError(
        "nothing to predict: no step had a target", where=session.stage,
        value=f"{session.total:,} steps", rule="a training needs targets",
        fix="look at the data and at what the objective or task takes for a target (its counts)",
    )  # fmt: skip


def _other(session: Session) -> OtherWorkerError:
    return OtherWorkerError("another worker cannot go on", where=session.stage)
