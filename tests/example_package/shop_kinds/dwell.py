"""A task: how long it takes until the user comes back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from pydantic import PositiveFloat

from p5dist.config import RunConfig
from p5dist.config.base import Column
from p5dist.data.columns import SECOND
from p5dist.data.histories import Histories
from p5dist.data.jagged import Array, Floats
from p5dist.ranking.metrics import Estimate, estimate
from p5dist.ranking.targets import TargetBatch
from p5dist.tasks.evaluation import MODEL, USER, Evaluation, Predictor
from p5dist.tasks.predictions import NextInteractions
from p5dist.tasks.task import Context, Metric, Task, check_columns

if TYPE_CHECKING:
    import torch

    from p5dist.tasks.module import TaskModule

ERROR = "mean_absolute_log_error"
MEDIAN = "median_gap"
GAP = "log_gap"


class Dwell(Task):
    """Predict the logarithm of 1 + the seconds until the next interaction; absolute error."""

    metrics = {ERROR: Metric(label="Mean absolute log error", higher_is_better=False)}
    start_s: PositiveFloat = 86_400.0
    """Seconds that an untrained model predicts for everyone."""

    @property
    def columns(self) -> tuple[Column, ...]:
        return ("timestamp",)

    def check(self, job: RunConfig, key: str) -> None:
        check_columns(job, key, "timestamp")

    def batch_fields(self, context: Context) -> NextInteractions:
        return NextInteractions(ranks=False)

    def build(self, context: Context, device: torch.device) -> TaskModule:
        import torch
        from torch import Tensor, nn

        from p5dist.data.batch import Batch
        from p5dist.models.backbone import Encoded
        from p5dist.tasks.module import Asked, TaskModule

        class DwellModule(TaskModule):
            """A linear function of the state."""

            def __init__(self, name: str, dim: int, start: float) -> None:
                super().__init__()
                self.name = name
                self.out = nn.Linear(dim, 1)
                nn.init.zeros_(self.out.weight)
                nn.init.constant_(self.out.bias, start)

            def losses(self, encoded: Encoded, batch: Batch) -> Tensor:
                made = batch.fields[self.name]
                now, target = made["at"], made["target"]
                seconds = batch.seconds[target] - batch.seconds[now]
                predicted = self.out(encoded.states[now]).squeeze(1)
                error: Tensor = predicted - torch.log1p(seconds.float())
                return error.abs().sum().reshape(1)

            def predict(self, asked: Asked) -> Tensor:
                predicted: Tensor = self.out(asked.last(asked.states)).squeeze(1)
                return predicted

        return DwellModule(context.name, context.job.model.dim, float(np.log1p(self.start_s)))

    def evaluation(self, context: Context) -> DwellEvaluation:
        return DwellEvaluation()


class DwellEvaluation(Evaluation):
    """The error of the first held-out interaction of every history, beside the median of all gaps
    between training interactions."""

    title = "Dwell"

    def fit(self, parts: Iterable[Histories]) -> float | None:
        gaps = np.concatenate([np.zeros(0), *map(gaps_of, parts)])
        return float(np.median(gaps)) if len(gaps) else None

    def examples(
        self, predictor: Predictor, batch: TargetBatch, baselines: float | None
    ) -> Mapping[str, Array]:
        _, first = np.unique(batch.owner, return_index=True)
        owner, item, time = batch.owner[first], batch.item[first], batch.timestamp[first]
        before = batch.histories.timestamp[batch.histories.offsets[1:][owner] - 1]
        found: dict[str, Array] = {
            USER: batch.user[first],
            GAP: np.log1p((time - before) / SECOND),
            MODEL: predictor.predict(batch.histories, owner, item, time),
        }
        if baselines is not None:
            found[MEDIAN] = np.full(len(first), baselines)
        return found

    def measure(
        self, examples: Mapping[str, Array], *, resamples: int, seed: int
    ) -> Mapping[str, Mapping[str, Estimate]]:
        return {
            name: estimate(
                {ERROR: np.abs(examples[name] - examples[GAP])}, examples[USER],
                resamples=resamples if name == MODEL else 0, seed=seed,
            )
            for name in (MODEL, MEDIAN)
            if name in examples
        }  # fmt: skip


def gaps_of(histories: Histories) -> Floats:
    """log(1 + seconds) between the neighbouring interactions of each history."""
    seconds = np.diff(histories.timestamp)[np.diff(histories.owner()) == 0] / SECOND
    gaps: Floats = np.log1p(seconds)
    return gaps
