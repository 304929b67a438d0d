"""The contract of evaluations: how the predictions of a task and of its baselines are measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from p5dist.data.histories import Histories
from p5dist.data.jagged import Array, Floats, Ints
from p5dist.ranking.metrics import Estimate
from p5dist.ranking.targets import TargetBatch

MODEL = "model"
USER = "user"


class Predictor(Protocol):
    """A trained task."""

    def predict(self, histories: Histories, owner: Ints, item: Ints, timestamp: Ints) -> Floats:
        """[E] prediction for item id ``item[e]`` at ``timestamp[e]`` (microseconds) by the user of
        history ``owner[e]``.

        Raises:
            TrainingError: a prediction is not a number.
        """
        ...


class Evaluation:
    """Makes examples from targets and measures the predictions for them.

    An example is a held-out interaction, or a negative item drawn for a held-out interaction. The
    evaluate stage makes examples on many actors; the validation during training makes the same
    examples on its workers.
    """

    title: str
    """Heading of the metrics in the terminal and in the report."""

    def fit(self, parts: Iterable[Histories]) -> Any:
        """The baselines, fitted on training interactions (one history per user), or None without
        baselines. The result is pickled and sent to every actor."""
        return None

    def examples(
        self, predictor: Predictor, batch: TargetBatch, baselines: Any
    ) -> Mapping[str, Array]:
        """Arrays [E] by name, the same names for every batch, also for an empty one: ``user``
        (internal ids), what :meth:`measure` needs, and predictions.

        Args:
            baselines: the result of :meth:`fit`; None: make no predictions of baselines.
        """
        raise NotImplementedError

    def measure(
        self, examples: Mapping[str, Array], *, resamples: int, seed: int
    ) -> Mapping[str, Mapping[str, Estimate]]:
        """Metrics by name, of ``model`` and of every baseline.

        Args:
            examples: of all batches together, in any order.
            resamples: number of resamples of the users for the intervals of the model's metrics;
                0: no intervals.
        """
        raise NotImplementedError

    def number(self, examples: Mapping[str, Array]) -> int:
        """How many of the examples :meth:`measure` measures; all, unless a task leaves some out."""
        return len(examples[USER])

    def columns(self, examples: Mapping[str, Array]) -> Mapping[str, Array]:
        """Columns of ``evaluate/targets.parquet``, if the examples are the targets in their order;
        otherwise none."""
        return {}
