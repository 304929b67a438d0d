"""Pre-training on item attributes (S³-Rec, Zhou et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from p5dist.config import RunConfig
from p5dist.data.attributes import Attributes as AttributeTables
from p5dist.data.jagged import Array, Ints, Jagged
from p5dist.data.labels import AttributeLabels
from p5dist.errors import ConfigError, DataError
from p5dist.feed.batch_fields import Collated
from p5dist.tasks.predictions import Predictions, TargetWeights, before_others
from p5dist.tasks.task import Context, Task, check_targets, target_weights

if TYPE_CHECKING:
    import torch

    from p5dist.tasks.module import TaskModule

_LARGEST_LAYER = 200_000


class Attributes(Task):
    """Predict the attribute values of an item, each yes or no (S³-Rec, Zhou et al. 2020)."""

    kind: Literal["attributes"]
    attributes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names under prepare.items.attributes."""
    of: Literal["next", "masked", "item"] = "next"
    """Items whose values are predicted. next: the next item, from the state before it; masked: the
    items hidden by a masked objective of the same ``kind: multi``; item: every item, from its own
    vector."""

    @property
    def sees(self) -> Literal["past", "both"] | None:
        return {"next": "past", "masked": "both", "item": None}[self.of]

    @property
    def reads_states(self) -> bool:
        return self.of != "item"

    @property
    def item_attributes(self) -> tuple[str, ...]:
        return self.attributes

    def check(self, job: RunConfig, key: str) -> None:
        known = job.readable_attributes("items")
        for name in self.attributes:
            if name not in known:
                raise ValueError(
                    f"{key}.attributes names '{name}', which prepare.items.attributes does "
                    f"not define (it has: {', '.join(known) or 'none'})"
                )
        if self.of == "masked" and key == "pretrain.objective":
            raise ValueError(
                f"{key}.of is 'masked', but no objective hides items: use kind: multi with "
                "this objective and a masked objective"
            )

    def check_data(self, context: Context, key: str) -> None:
        if not sum(self._sizes(context)):
            raise DataError(
                "nothing to predict: no item has a value", where=f"{key}.attributes",
                value=", ".join(self.attributes), rule="an attribute has at least one value",
                fix="name other attributes, or correct prepare.items (column, min_count)",
            )  # fmt: skip
        if self.of != "item":
            check_targets(context, key)

    def batch_fields(self, context: Context) -> LabelFields:
        tables = AttributeTables.load(context.folder, "item", self.attributes)
        assert tables is not None
        labels = AttributeLabels(tables, self._sizes(context))
        return LabelFields(self.of, labels, target_weights(context.manifest))

    def build(self, context: Context, device: torch.device) -> TaskModule:
        from p5dist.tasks.attributes.module import AttributeModule

        labels = sum(self._sizes(context))
        if labels > _LARGEST_LAYER:
            raise ConfigError(
                "too many attribute values to predict", where="pretrain.objective.attributes",
                value=f"{labels:,} values of {', '.join(self.attributes)}",
                rule=f"each value has a row of a dense layer, at most {_LARGEST_LAYER:,} rows",
                fix="name attributes with fewer values",
            )  # fmt: skip
        return AttributeModule(
            self.of,
            context.name,
            dim=context.job.model.dim,
            labels=labels,
        )

    def _sizes(self, context: Context) -> tuple[int, ...]:
        return tuple(context.manifest.item_attributes[name] for name in self.attributes)


class LabelFields(Predictions):
    """Predictions of items that have attribute values. ``label`` [V]: the number from 0 of every
    value; those of the item of prediction m begin at ``first_label[m]``, ``first_label`` [M].

    Args:
        of: as in :class:`Attributes`.
        labels: the labels of items.
        weights: of the interactions whose items are predicted.
    """

    def __init__(self, of: str, labels: AttributeLabels, weights: TargetWeights) -> None:
        super().__init__(weights, ranks=False)
        self._of, self._labels = of, labels

    def choose(self, batch: Collated) -> tuple[Ints, Ints]:
        if self._of == "next":
            at = before_others(batch.histories)
            target = at + 1
        elif self._of == "masked":
            assert batch.predicted is not None, "an objective hides interactions"
            at = target = np.flatnonzero(batch.predicted)
        else:
            at = target = np.arange(len(batch.token))
        known = np.diff(self._labels(batch.ids)[0])[batch.token[target]] > 0
        return at[known], target[known]

    def arrays(self, batch: Collated) -> dict[str, Array]:
        made = super().arrays(batch)
        offsets, labels = self._labels(batch.ids)
        own = Jagged(offsets, labels).take(batch.token[made["target"]])
        return made | {"label": own.values, "first_label": own.offsets[:-1]}
