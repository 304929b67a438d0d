"""How often training meets an interaction of a history that is longer than a window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p5dist.data.manifest import Manifest
from p5dist.feed.mix import open_mix
from p5dist.feed.units import units
from p5dist.feed.windows import met_in_windows, window_shares
from tests.small_data import small_job, write_small_data


def test_shares_by_hand() -> None:
    # Five interactions, windows of three: they start at 0, 1 or 2. A shorter history is whole.
    shares = window_shares(np.asarray([5, 2, 0]), 3, random=True)
    assert shares.tolist() == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 1, 1])
    # Windows that are nearly whole: two starts.
    assert window_shares(np.asarray([4]), 3, random=True).tolist() == [0.5, 1, 1, 0.5]
    last = window_shares(np.asarray([5, 2, 0]), 3, random=False)
    assert last.tolist() == [0, 0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("window", ["random", "last"])
def test_items_are_met_as_often_as_expected(tmp_path: Path, window: str) -> None:
    """Against the windows that 400 epochs take; the same for any number of workers."""
    job = small_job(tmp_path, f"feed.window={window}", "feed.max_length=4")
    folder = write_small_data(job)
    mix = open_mix(job, "pretrain", folder, Manifest.load(folder.prepare))
    (reader,) = readers = mix.readers(job, job.trainings()["pretrain"])
    epochs = 400
    counts = np.zeros(30)
    steps = mix.own.order.steps_before(epochs)
    for unit in units(mix.own.order, rank=0, world_size=1, start=0, stop=steps, unit_rows=10_000):
        counts += np.bincount(reader.read(unit).item - 1, minlength=30)

    def met(workers: int) -> list[np.ndarray]:
        parts: list[np.ndarray] = []
        for rank in range(workers):
            met_in_windows(
                mix, readers, rank=rank, workers=workers, add=lambda x: parts.append(x) or x
            )
        whole = sum(parts)
        return [
            met_in_windows(mix, readers, rank=rank, workers=workers, add=lambda _: whole)
            for rank in range(workers)
        ]

    (expected,) = met(1)
    assert counts / epochs == pytest.approx(expected, rel=0.08, abs=0.05)
    if window == "last":
        assert counts / epochs == pytest.approx(expected)
    assert all(np.array_equal(found, expected) for found in met(3))
