"""The contract of the modules of objectives and tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from p5dist.data.batch import Batch
from p5dist.models.backbone import Backbone, Encoded


@dataclass(frozen=True)
class Asked:
    """E examples that a trained task is to predict: an item and a history each."""

    batch: Batch
    """The batch of the histories."""
    states: Tensor
    """[T, dim] see :class:`.Encoded`; empty if the task reads no states"""
    items: Tensor
    """[E, dim] vectors of the items"""
    timestamp: Tensor
    """[E] int64 microseconds, time of the prediction"""
    history: Tensor
    """[E] index of the history in the batch"""
    end: Tensor
    """[E] index of the last interaction of the history; -1 if the history is empty"""

    @property
    def known(self) -> Tensor:
        """[E] whether the history has interactions."""
        return self.end >= 0

    def last(self, values: Tensor) -> Tensor:
        """[E, …] ``values`` [T, …] at the last interaction; zero for an empty history."""
        if not len(values):
            return values.new_zeros(len(self.end), *values.shape[1:])
        chosen = values[self.end.clamp(min=0)]
        return chosen * self.known.view(-1, *[1] * (values.dim() - 1)).to(values.dtype)


class TaskModule(nn.Module):
    """The module of an objective or task: K losses over the batch, K = 1 for most.

    Each loss is a sum over this worker's batch; the training loop divides it by its count over the
    global batch, so that it does not depend on how the histories are spread over the workers.

    :meth:`losses` must not wait for the device: no ``item()``, no index whose size depends on
    values (``nonzero``, a mask in brackets). Such indices are batch fields, made beside the step.
    """

    name = ""
    """Of the task: its batch fields are under this name."""
    names: tuple[str, ...] = ("loss",)
    """[K] names of the losses."""
    reads_states = True
    """Whether the losses read the states of the encoder."""
    ranks = False
    """Whether :meth:`user_vectors` rank items."""
    compares_histories = False
    """Whether :meth:`losses` compare the histories of all workers, which exchange what that takes;
    the losses of other modules are sums over histories."""
    squared_error = False
    """Whether the loss is a squared error, as of a normal distribution."""

    def counts(self, batch: Batch) -> list[float]:
        """[K] divisor of each loss: the sum of the weights of this worker's predictions. Called
        beside the step, with the batch in memory of the host; by default for the fields of
        :mod:`p5dist.tasks.predictions`."""
        made = batch.fields[self.name]
        weight = made.get("weight")
        return [float(len(made["at"]) if weight is None else weight.double().sum())]

    def losses(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[K] sums over the predictions of this worker's batch; with a gradient for every
        parameter even if the batch is empty."""
        raise NotImplementedError

    def forward(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Encode the batch with ``backbone``, then :meth:`losses`."""
        return self.losses(self.encode(backbone, batch), batch)

    def encode(self, backbone: Backbone, batch: Batch) -> Encoded:
        """The input of :meth:`losses`; without states if the losses read none."""
        if self.reads_states:
            encoded: Encoded = backbone(batch)
            return encoded
        items = backbone.item_vectors(batch)
        return Encoded(items.new_zeros(batch.token.shape[0], 0), items)

    def combine(self, losses: Tensor) -> Tensor:
        """The scalar that is minimised, a linear function of the K mean losses [K]."""
        return losses.sum()

    def part(self, name: str) -> TaskModule:
        """The module of the task ``name``; the empty name is the module itself."""
        assert not name, f"one task only, which is not called {name}"
        return self

    def user_vectors(self, backbone: Backbone, batch: Batch) -> Tensor:
        """[B, dim] user vectors, whose inner products with item vectors rank items: the last state
        of each history; zero for an empty history."""
        last = backbone.last_states(batch)
        return F.pad(last, (0, 0, 0, batch.histories - last.shape[0]))

    def predict(self, asked: Asked) -> Tensor:
        """[E] predictions; for tasks that have an evaluation."""
        raise NotImplementedError
