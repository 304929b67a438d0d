"""Losses over the catalogue, and the negatives that they use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from p5dist.config.base import Section

Distribution = Literal["uniform", "popularity", "in_batch"]
Mixture = Annotated[dict[Distribution, PositiveFloat], Field(min_length=1)]


class FullSoftmax(Section):
    """Cross-entropy over the whole catalogue, in chunks: memory of logits does not grow with the
    batch."""

    kind: Literal["softmax"] = "softmax"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that is spread over all items instead of the target."""

    @property
    def drawn_from_log(self) -> tuple[str, ...]:
        """The distributions of negatives that depend on the interactions of the log."""
        return ()


class SampledSoftmax(Section):
    """Cross-entropy over the positive and negatives shared by the global batch, with the logQ
    correction (Bengio and Senécal 2008; Yi et al. 2019); accidental hits are masked."""

    kind: Literal["sampled_softmax"]
    negatives: PositiveInt = 512
    """Negatives per step, shared by the global batch; in_batch may find fewer."""
    distribution: Distribution | Mixture = "popularity"
    """uniform: all items alike; popularity: in proportion to count^alpha; in_batch: items of
    interactions of the global batch, whose vectors are looked up anyway. A mixture gives the share
    of each distribution: ``{popularity: 0.5, uniform: 0.5}``."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.75
    """Exponent of popularity."""

    @property
    def drawn_from_log(self) -> tuple[str, ...]:
        """As of :class:`FullSoftmax`."""
        named = self.distribution
        names = (named,) if isinstance(named, str) else tuple(named)
        return tuple(name for name in names if name != "uniform")


class GeneralisedBce(Section):
    """Binary cross-entropy over the positive and uniform negatives shared by the global batch; an
    exponent on the positive's probability corrects the overconfidence that sampling causes (gBCE,
    Petrov and Macdonald 2023): α (t (1 - 1/α) + 1/α) with the sampling rate α = negatives /
    (items - 1)."""

    kind: Literal["gbce"]
    negatives: PositiveInt = 256
    """Negatives of a step, for the whole global batch."""
    calibration: Annotated[float, Field(ge=0, le=1)] = 0.75
    """t: 0 is plain binary cross-entropy, 1 gives calibrated probabilities."""

    @property
    def drawn_from_log(self) -> tuple[str, ...]:
        """As of :class:`FullSoftmax`."""
        return ()


Loss = Annotated[FullSoftmax | SampledSoftmax | GeneralisedBce, Field(discriminator="kind")]
