"""Counts by tasks over portions and ranges of items are those of all histories at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.manifest import Manifest
from p5dist.data.reader import ShardReader
from p5dist.environment.processes import Processes
from p5dist.environment.workers import Here
from p5dist.inference import counting, fitting
from p5dist.inference.fitting import fit, read_fitted
from p5dist.ranking.item_to_item import ItemToItem
from p5dist.storage import RunFolder
from tests.small_data import small_job, write_small_data

ITEMS = 30


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Portions of 8 histories, a task each, of which each spills; ranges of few items."""
    monkeypatch.setattr(counting, "PAIRS_HELD", 150)
    monkeypatch.setattr(counting, "HISTORIES_READ", 8)
    monkeypatch.setattr(counting, "_INTERACTIONS_OF_A_TASK", 200)


def training(folder: RunFolder) -> tuple[Manifest, list[list[tuple[int, int]]]]:
    """(item, microseconds) of the training interactions of every user."""
    manifest = Manifest.load(folder.prepare)
    reader = ShardReader(folder.prepare, manifest, (c.TIMESTAMP,))
    found = []
    for portion in reader.portions(1000):
        h = reader.users(portion).histories
        for i in range(len(h)):
            own = range(h.offsets[i], h.offsets[i + 1])
            found.append(
                [(int(h.item[t]), int(h.timestamp[t])) for t in own if h.split[t] == c.TRAIN]
            )
    return manifest, found


def test_as_from_all_histories(tmp_path: Path, small: None) -> None:
    job = small_job(tmp_path, "evaluate.recent_days=1", "ranking.counted=null")
    folder = write_small_data(job)
    manifest, users = training(folder)
    fit(job, folder, manifest, Here())
    fitted = read_fitted(job, folder, manifest)
    flat = [pair for user in users for pair in user]
    expected = np.bincount([item - 1 for item, _ in flat], minlength=ITEMS)
    assert fitted.counted.count.tolist() == expected.tolist()
    having = [
        sum(any(i == item for i, _ in user) for user in users) for item in range(1, ITEMS + 1)
    ]
    assert fitted.counted.users.tolist() == having
    assert fitted.counted.all_users == sum(map(bool, users))
    assert fitted.counted.interactions == len(flat)
    end = max(time for _, time in flat)
    recent = np.bincount(
        [item - 1 for item, time in flat if end - time < 86_400 * c.SECOND], minlength=ITEMS
    )
    assert fitted.counted.recent.tolist() == recent.tolist()
    reader = ShardReader(folder.prepare, manifest)
    parts = [reader.users(portion).histories for portion in reader.portions(1000)]
    parts = [part.where(part.split == c.TRAIN) for part in parts]
    weight = ItemToItem.fit(parts, Catalogue(ITEMS)).weight.toarray()
    np.testing.assert_allclose(fitted.item_to_item.weight.toarray(), weight, rtol=1e-6)


def test_processes_give_the_same_bytes(tmp_path: Path, small: None) -> None:
    job = small_job(tmp_path)
    folder = write_small_data(job)
    manifest = Manifest.load(folder.prepare)
    files = []
    for workers in (Here(), Processes("test", 2)):
        (folder.prepare / "fitted").remove()
        fit(job, folder, manifest, workers)
        workers.close()
        place = folder.prepare / "fitted"
        files.append({name: (place / name).read_bytes() for name in place.children()})
    assert set(files[0]) >= {"count.npy", "weight-data.npy", "fitted.json"}
    assert "scratch" not in files[0]
    assert files[0] == files[1]


def test_counted_once_and_anew_for_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = small_job(tmp_path)
    folder = write_small_data(job)
    manifest = Manifest.load(folder.prepare)
    fit(job, folder, manifest, Here())
    calls = []
    monkeypatch.setattr(fitting, "_fit", lambda *_: calls.append(1))
    fit(job, folder, manifest, Here())
    assert not calls
    other = small_job(tmp_path, "ranking.counted=50")
    fit(other, folder, manifest, Here())
    assert calls == [1]


def test_a_share_of_the_users_is_counted(tmp_path: Path, small: None) -> None:
    job = small_job(tmp_path, "ranking.counted=100")
    folder = write_small_data(job)
    manifest, users = training(folder)
    fit(job, folder, manifest, Here())
    fitted = read_fitted(job, folder, manifest)
    share = 100 / sum(map(len, users))
    assert fitted.about["share_of_users_in_pairs"] == pytest.approx(share)
    assert fitted.counted.interactions == sum(map(len, users)), "popularity knows all"
    whole = small_job(tmp_path, "ranking.counted=null")
    fit(whole, folder, manifest, Here())
    assert (
        0
        < fitted.item_to_item.weight.nnz
        < read_fitted(whole, folder, manifest).item_to_item.weight.nnz
    )
    told = fitting.fitted_on(job, manifest, fitted)
    assert f"{share:.1%} of the users" in told["item_to_item"]
