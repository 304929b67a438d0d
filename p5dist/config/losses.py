"""Losses over the catalogue: what the positives are compared with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from p5dist.config.base import Section


class FullSoftmax(Section):
    """Cross-entropy over the whole catalogue."""

    kind: Literal["softmax"] = "softmax"


class SampledSoftmax(Section):
    """Cross-entropy over the positive and negatives shared by the global batch, with the logQ
    correction (Bengio and Senécal 2008; Yi et al. 2019); accidental hits are masked."""

    kind: Literal["sampled_softmax"]
    negatives: PositiveInt = 512
    distribution: Literal["uniform", "popularity"] = "popularity"
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.75
    """Popularity: an item is drawn in proportion to count^alpha."""


Loss = Annotated[FullSoftmax | SampledSoftmax, Field(discriminator="kind")]
