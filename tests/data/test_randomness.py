"""Random numbers are functions of their coordinates and look uniform."""

from __future__ import annotations

import numpy as np

from p5dist.data.randomness import hashed, permutation, uniform


def test_the_hash_is_fixed_for_ever() -> None:
    """SplitMix64 step by step in Python integers; another value would change every run's order."""

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    h = 0
    for x in (7, -1, 3):
        h = mix((h + 0x9E3779B97F4A7C15 + x) % 2**64)
    assert hashed(7, -1, 3).tolist() == [h]


def test_coordinates_are_not_interchangeable() -> None:
    assert hashed(1, 2) != hashed(2, 1)
    assert hashed(1, 0) != hashed(1)


def test_uniform_numbers_are_uniform() -> None:
    drawn = uniform(5, np.arange(200_000))
    counts, _ = np.histogram(drawn, bins=20, range=(0, 1))
    assert abs(counts - 10_000).max() < 5 * 10_000**0.5
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.01


def test_permutation_has_every_number_once() -> None:
    assert sorted(permutation(1000, 1, 2)) == list(range(1000))
    assert permutation(1000, 1, 2).tolist() != permutation(1000, 1, 3).tolist()
