"""How the predictions of a task are evaluated, beside baselines: the contract."""

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
        """[E] prediction for item id ``item[e]`` at time ``timestamp[e]`` (seconds) by the user of
        history ``owner[e]``.

        Raises:
            TrainingError: a prediction that is not a number.
        """
        ...


class Evaluation:
    """Makes examples from targets and measures the predictions for them.

    An example is a held-out interaction, or an item drawn beside one. The evaluate stage makes
    examples on many actors; the validation during training makes the same ones on its workers.
    """

    title: str
    """Heading of the metrics, for people."""

    def fit(self, parts: Iterable[Histories]) -> Any:
        """The baselines, fitted on training interactions (one history a user); what is returned
        travels to every actor. None where there are none."""
        return None

    def examples(
        self, predictor: Predictor, batch: TargetBatch, baselines: Any
    ) -> Mapping[str, Array]:
        """Arrays [E] by name, the same names for every batch, also for an empty one: ``user``
        (internal ids), what :meth:`measure` needs, and predictions.

        Args:
            baselines: what :meth:`fit` returned, or None: no predictions of baselines then.
        """
        raise NotImplementedError

    def measure(
        self, examples: Mapping[str, Array], *, resamples: int, seed: int
    ) -> Mapping[str, Mapping[str, Estimate]]:
        """The metrics by name of ``model`` and of every baseline.

        Args:
            examples: of all batches together, in any order.
            resamples: of the users, for the intervals of the model's metrics; 0: none.
        """
        raise NotImplementedError

    def columns(self, examples: Mapping[str, Array]) -> Mapping[str, Array]:
        """What ``evaluate/targets.parquet`` holds of examples that are the targets themselves, in
        their order; nothing where they are not."""
        return {}
