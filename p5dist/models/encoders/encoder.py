"""The contract of encoders: interactions → states."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from p5dist.config.sections import EncoderSection

if TYPE_CHECKING:
    from torch import nn


class Encoder(EncoderSection):
    """An encoder: its section of the job file, and the method that builds its module.

    A subclass adds its settings as fields. It is imported whenever a job file names it, so it must
    import PyTorch inside :meth:`build` only.
    """

    @abstractmethod
    def build(self, *, dim: int, max_length: int, causal: bool) -> nn.Module:
        """The module. Its forward takes the inputs [T, dim] of T interactions and the
        :class:`p5dist.data.batch.Batch`, and gives their states [T, dim]. A state depends on the
        interactions of its own history only; if ``causal``, on none that is later than its own
        interaction. Random numbers come from ``batch.dropout_key`` (see
        :class:`p5dist.models.dropout.HashedDropout`), so that the losses do not depend on the
        number of workers.

        A module may also have ``states_at(x, batch, at)``, which gives the states of the
        interactions ``at`` [n] in less time than forward gives those of all: the vectors of users
        are last states.

        Args:
            dim: width of inputs and states.
            max_length: interactions of the longest history.
            causal: the state of an interaction sees no later interaction.
        """

    def layer_count(self) -> int:
        """Layers, for the estimate of ``p5dist plan``."""
        return 1
