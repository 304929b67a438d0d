"""The steps of a training stage on one worker."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist

from p5dist.environment.heap import FreeMemory
from p5dist.errors import TrainingError
from p5dist.feed.stream import LaneStream
from p5dist.observe.events import Callback, Logged, Saved, Saving, Skipped, Trained, Validated, tell
from p5dist.observe.metrics_log import DATA
from p5dist.train.agreement import Flags, OtherWorkerError
from p5dist.train.batches import Ready, batches_of
from p5dist.train.lookups import Lookups, lookups_of
from p5dist.train.meter import CHECKPOINT, Meter, meter_for, watch_tables
from p5dist.train.requests import NoRequests, Requests
from p5dist.train.session import Session
from p5dist.train.step import Taken, Totals, take_private_step, take_step
from p5dist.train.validation import Validator

_WAIT_SECONDS = 0.05


def run_steps(
    session: Session,
    stream: LaneStream,
    *,
    callbacks: Sequence[Callback] = (),
    requests: Requests = NoRequests(),  # noqa: B008
    validator: Validator | None = None,
) -> bool:
    """Take all steps from ``session.start`` on, with checkpoints on the way and at the end.

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
    meter = meter_for(session.device)
    steps = _Steps(session, meter, callbacks, requests, validator)
    with (
        watch_tables(session.model, meter),
        lookups_of(session) as lookups,
        batches_of(session, stream) as batches,
    ):
        steps.take_all(batches, lookups)
    _finish_saving(session)
    if steps.newest > steps.completed:
        tell(callbacks, Saved(steps.newest, session.saver.seconds))
    return steps.newest >= session.total or session.selection.exhausted


class _Steps:
    """Takes the steps, and does what is due after a step.

    The totals of a step are looked at one step late, so that a step need not wait for the others;
    they are looked at before anything is logged, validated or saved. Every worker looks at the same
    totals after the same step, so that all agree.
    """

    def __init__(
        self,
        session: Session,
        meter: Meter,
        callbacks: Sequence[Callback],
        requests: Requests,
        validator: Validator | None,
    ) -> None:
        self._session, self._meter = session, meter
        self._callbacks, self._requests, self._validator = callbacks, requests, validator
        self._open: deque[Taken] = deque()  # steps whose totals were not looked at
        self._histories, self._making = 0, 0.0  # since the last logged step
        self._clipped: dict[str, tuple[int, ...]] = {}  # likewise
        self.newest = self.completed = session.start
        """The step of the newest checkpoint, and of the newest one that is known to be complete."""

    def take_all(self, batches: Iterator[Ready], lookups: Lookups) -> None:
        """All steps, up to the end of the stage or an agreed stop."""
        memory = FreeMemory()
        learned = self._session.start > 0
        self._begin()
        following = self._next(batches)
        while following is not None:
            ready, following = following, self._next(batches)
            if ready.problem:
                self._look(0)
                raise ready.error or _other(self._session)
            taken = self._take(lookups, ready, following)
            self._making += ready.seconds
            learned |= taken.targets
            if taken.step + 1 == self._session.total and not learned:
                raise _nothing(self._session)
            if self._after(taken):
                return
            memory.look()

    def _begin(self) -> None:
        """The model that the stage starts with is the first candidate for the best one."""
        session, validator = self._session, self._validator
        if validator is None or session.start or session.selection.any or not session.starts_well:
            return
        with self._meter.part("validation"):
            score = _validate(session, validator, 0, self._callbacks)
        if score is not None:
            self._save(0, score)

    def _take(self, lookups: Lookups, ready: Ready, following: Ready | None) -> Taken:
        if self._session.private is not None:
            return take_private_step(self._session, ready, self._meter, self._flags())
        return take_step(self._session, lookups, ready, following, self._meter, self._flags())

    def _next(self, batches: Iterator[Ready]) -> Ready | None:
        with self._meter.part(DATA):
            return next(batches, None)

    def _flags(self) -> Flags:
        """What this worker alone knows."""
        saver = self._session.saver
        return Flags(
            stop=self._requests.stop(),
            problem=saver.error is not None,
            look=self._requests.look(),
            completed=saver.completed or 0,
        )

    def _after(self, taken: Taken) -> bool:
        """What is due after a step; whether it is the last one."""
        session, meter, done = self._session, self._meter, taken.step + 1
        last, every = done == session.total, session.training.log_every
        validates = self._validator is not None and (
            done % self._validator.config.every == 0 or last
        )
        saves = validates or last or done % session.training.checkpoint.every == 0
        logs = last or done % every == 0
        self._open.append(taken)
        self._histories += taken.histories
        agreed, totals = self._look(0 if logs or saves or not taken.applied else 1)
        tell(self._callbacks, Trained(taken.step, taken.rows))
        if logs and totals is not None:
            tell(self._callbacks, self._logged(taken, totals))
        if session.average is not None:
            with meter.part("average"):
                session.average.update(done)
        score: float | None = None
        if validates and self._validator is not None:
            with meter.part("validation"):
                score = _validate(session, self._validator, done, self._callbacks)
        ending = last or agreed.stop > 0 or session.selection.exhausted
        if saves or ending or (agreed.look and self._requests.preempted()):
            self._save(done, score)
        if agreed.completed > self.completed:
            self.completed = int(agreed.completed)
            with meter.part(CHECKPOINT):
                tell(self._callbacks, Saved(self.completed, session.saver.seconds))
        return ending

    def _save(self, done: int, score: float | None) -> None:
        self._look(0)
        with self._meter.part(CHECKPOINT):
            tell(self._callbacks, Saving(done))
            self._session.save(done, score)
            self.newest = done

    def _look(self, keep: int) -> tuple[Flags, Totals | None]:
        """Look at the totals of all steps but the last ``keep``: their flags together, and the
        newest totals.

        Raises:
            TrainingError: a loss is not finite.
            P5Error: a worker cannot write checkpoints.
        """
        agreed, totals = Flags(), None
        while len(self._open) > keep:
            taken = self._open.popleft()
            with self._meter.part("exchange"):
                totals = taken.totals
            if totals.flags.problem:
                raise self._session.saver.error or _other(self._session)
            if not math.isfinite(totals.loss):
                _refuse(self._session, taken, totals.loss, self._callbacks)
            agreed = agreed.with_later(totals.flags)
            if taken.private:
                epoch = str(self._session.order.locate(taken.step)[0])
                before = self._clipped.get(epoch, (0, 0))
                added = (a + int(b) for a, b in zip(before, totals.counted, strict=True))
                self._clipped[epoch] = tuple(added)
        return agreed, totals

    def _logged(self, taken: Taken, totals: Totals) -> Logged:
        """The numbers of a step, with rate and seconds since the preceding logged step."""
        session, histories, making = self._session, self._histories, self._making
        self._histories, self._making = 0, 0.0
        clipped, self._clipped = self._clipped, {}
        seconds, parts = self._meter.take()
        names = session.inner.head.names
        return Logged(
            step=taken.step + 1,
            epoch=session.order.locate(taken.step)[0],
            loss=totals.loss if taken.applied else None,
            lr=taken.lr,
            samples_per_second=round(histories / seconds, 1),
            seconds=parts,
            losses=dict(zip(names, totals.losses, strict=True)) if len(names) > 1 else {},
            beside={"batches": round(making, 6)},
            clipped={epoch: list(counted) for epoch, counted in clipped.items()},
        )


def _validate(
    session: Session, validator: Validator, done: int, callbacks: Sequence[Callback]
) -> float | None:
    """The score after ``done`` steps, the higher the better; None without targets."""
    average = nullcontext() if session.average is None else session.average.in_place()
    with average:
        value = validator()
    session.model.train()
    if value is None:
        return None
    metric = validator.config.metric
    tell(callbacks, Validated(done, metric, value))
    score = value if validator.higher_is_better else -value
    session.selection.add(score)
    return score


def _refuse(session: Session, taken: Taken, loss: float, callbacks: Sequence[Callback]) -> None:
    """The loss is not finite: end the stage, or skip the step if the job allows it."""
    rows: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(rows, taken.rows.tolist())
    policy = session.training.non_finite
    if policy.policy == "stop" or session.skipped >= policy.budget:
        allowed = f"{policy.budget} steps may be skipped" if policy.policy == "skip" else "stop"
        raise TrainingError(
            "the loss is not finite; no checkpoint has this step",
            where=f"{session.stage}, step {taken.step}",
            value=loss,
            rule=f"a loss is a finite number (non_finite: {allowed})",
            fix="lower the learning rates (tables.lr, dense.lr), look at the data, or set "
            "non_finite.policy: skip; the step had the histories with row numbers "
            f"{sorted(row for worker in rows for row in worker)[:50]} …",
        )
    session.skipped += 1
    tell(callbacks, Skipped(taken.step, rows))


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
        fix="look at the data, and at the targets of the objective or task (its counts)",
    )  # fmt: skip


def _other(session: Session) -> OtherWorkerError:
    return OtherWorkerError("another worker cannot go on", where=session.stage)
