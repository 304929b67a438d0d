"""The steps of a training stage on one worker."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from p5dist.batch import Batch
from p5dist.errors import TrainingError
from p5dist.feed.histories import Histories
from p5dist.feed.stream import LaneStream
from p5dist.train.meter import Meter
from p5dist.train.session import Session


def run_steps(
    session: Session,
    stream: LaneStream,
    *,
    log: Callable[[dict[str, Any]], None],
    saved: Callable[[int], None],
) -> None:
    """Take all steps from ``session.start`` on, with checkpoints on the way and at the end.

    The loss of a step is the sum over the global batch divided by the global count, so that it
    does not depend on which worker has how many histories. Gradients: each worker's sum is scaled
    by N / count, which undoes the mean over N workers in both DDP and TorchRec.

    Args:
        log: called on every worker for every logged step.
        saved: called on every worker after a checkpoint, with its step.

    Raises:
        TrainingError: on all workers, when the loss is not finite; the step is not applied.
    """
    meter = Meter()
    histories_seen = 0.0
    stop = session.total
    every = session.training.log_every
    session.model.train()
    steps = stream.steps(session.start, stop)
    for _ in range(session.start, stop):
        with meter.part("data"):
            step, histories = next(steps)
            batch = _batch(session, step, histories)
        loss, global_histories, lr = _step(session, step, batch, meter)
        histories_seen += global_histories
        done = step + 1
        if done % every == 0 or done == stop:
            seconds, parts = meter.take()
            log(
                {
                    "step": done,
                    "epoch": session.order.locate(step)[0],
                    "loss": loss,
                    "lr": lr,
                    "samples_per_second": round(histories_seen / seconds, 1),
                    "seconds": parts,
                }
            )
            histories_seen = 0.0
        if done % session.training.checkpoint.every == 0 or done == stop:
            with meter.part("checkpoint"):
                session.save(done)
                saved(done)


def _batch(session: Session, step: int, histories: Histories) -> Batch:
    candidates, log_q = (None, None)
    if session.candidates is not None:
        candidates, log_q = session.candidates.at(step)
    batch = session.collate(histories, step=step, candidates=candidates, candidate_log_q=log_q)
    return batch.to(session.device)


def _step(session: Session, step: int, batch: Batch, meter: Meter) -> tuple[float, float, float]:
    """One step: (global loss, histories of the global batch, learning rate)."""
    totals = torch.tensor(
        [*session.inner.head.counts(batch), float(batch.histories)],
        dtype=torch.float64,
        device=session.device,
    )
    lr = session.optimizers.prepare(step)
    with meter.part("forward"):
        sums = session.model(batch)
    with meter.part("exchange"):
        totals = torch.cat([totals, sums.detach().double()])
        dist.all_reduce(totals)
        counts, histories, total = totals[: len(sums)], totals[len(sums)], totals[-len(sums) :]
        losses = torch.where(counts > 0, total / counts, 0.0)  # no target anywhere: no loss
        loss = session.inner.head.combine(losses).item()
    if not math.isfinite(loss):
        raise TrainingError(
            "the loss is not finite; the step was not applied",
            where=f"{session.stage}, step {step}",
            value=loss,
            rule="a loss is a finite number",
            fix="lower the learning rates (tables.lr, dense.lr) or look at the data; this worker "
            f"had the histories {batch.rows[:20].tolist()}",
        )
    if counts.any():
        with meter.part("backward"):
            scale = torch.where(counts > 0, dist.get_world_size() / counts, 0.0)
            minimised = session.inner.head.combine(sums * scale.to(sums.dtype))
            torch.autograd.backward(minimised)
        with meter.part("optimizer"):
            session.optimizers.step()
    return loss, histories.item(), lr
