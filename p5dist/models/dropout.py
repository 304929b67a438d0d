"""Dropout whose mask is a function of the interaction, not of a generator's state.

The mask of an element comes from a hash of (seed, step, row, position, site, channel). A history
has the same mask on whichever worker it is trained, so a run with dropout has the same losses on
any number of workers.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor, nn


class Site(IntEnum):
    """The places of dropout in the model; masks of different sites are independent.

    An encoder numbers its own dropouts from :attr:`ENCODER`, a task of another package from 2000.
    """

    ENCODER = 0
    ITEM_IDS = 900
    INPUT_ITEMS = 901
    RATING_STATE = 1001
    RATING_ITEM = 1002
    RATING_USER = 1003
    CLICK_FEATURES = 1011


def threshold(p: float) -> int:
    """The number of the 256 bytes that drop an element: ``p`` in units of 1/256, at least 1 and at
    most 255 unless ``p`` is 0, so that dropout neither vanishes nor drops everything."""
    return min(max(round(p * 256), 1), 255) if p else 0


class HashedDropout(nn.Module):
    """Dropout with p rounded as by :func:`threshold`.

    Args:
        p: probability that an element is zeroed.
        site: number of this dropout in the model; different sites have independent masks.
    """

    def __init__(self, p: float, site: int) -> None:
        super().__init__()
        self.threshold = threshold(p)
        self.site = site

    def forward(self, x: Tensor, key: Tensor) -> Tensor:
        """``x`` [T, d] with elements dropped and the others scaled by 1 / (1 - p).

        Args:
            key: [T] int64, the hash of the interaction.
        """
        if not self.training or self.threshold == 0:
            return x
        keep = hashed_bytes(key, x.shape[1], self.site) >= self.threshold
        return x * (keep * (256.0 / (256 - self.threshold)))


def hashed_bytes(key: Tensor, width: int, site: int) -> Tensor:
    """[T, width] uint8, uniform: one 32-bit hash gives the bytes of four channels."""
    words = -(-width // 4)
    # An odd multiplier per channel word (golden ratio steps), then Murmur3's finaliser in int32.
    channel = torch.arange(words, dtype=torch.int64, device=key.device)
    multiplier = ((channel + 1 + site * 0x1F123BB5) * 0x9E3779B1).to(torch.int32) | 1
    seed = ((key >> 32) ^ key).to(torch.int32).unsqueeze(1)
    h = seed * multiplier + multiplier
    h = (h ^ ((h >> 16) & 0xFFFF)) * -2048144789  # 0x85EBCA6B
    h = (h ^ ((h >> 13) & 0x7FFFF)) * -1028477387  # 0xC2B2AE35
    h = h ^ ((h >> 16) & 0xFFFF)
    return h.view(torch.uint8)[:, :width]
