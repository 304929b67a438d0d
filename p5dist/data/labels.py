"""Attribute values as labels of items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p5dist.data.attributes import Attributes
from p5dist.data.jagged import Ints


@dataclass(frozen=True)
class AttributeLabels:
    """The values of several attributes in one numbering.

    Args:
        attributes: their tables.
        sizes: number of values of each; value v (from 1) of attribute a is label
            ``sum(sizes[:a]) + v - 1``.
    """

    attributes: Attributes
    sizes: tuple[int, ...]

    def __call__(self, ids: Ints) -> tuple[Ints, Ints]:
        """Offsets [U + 1] and labels [V]; item i has ``labels[offsets[i]:offsets[i + 1]]``.

        Args:
            ids: [U]
        """
        values, lengths = self.attributes.of(ids)
        starts = np.cumsum(self.sizes) - self.sizes
        by_attribute = lengths.reshape(len(self.sizes), len(ids))
        item = np.repeat(np.tile(np.arange(len(ids)), len(self.sizes)), lengths)
        labels = values - 1 + np.repeat(starts, by_attribute.sum(axis=1))
        offsets = np.concatenate([[0], np.cumsum(by_attribute.sum(axis=0))])
        return offsets, labels[np.argsort(item, kind="stable")]
