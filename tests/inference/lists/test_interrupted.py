"""A recommend stage that is killed goes on where it was, and its lists are the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from p5dist.config import RunConfig, dump_job
from p5dist.inference.lists import new_people
from p5dist.inference.lists.parts import Parts
from p5dist.observe import status
from p5dist.observe.stages import state_of
from p5dist.storage import RunFolder
from tests.inference.lists.made import job_at, made, parts_of, prepared
from tests.inference.lists.slow import PORTION
from tests.inference.lists.test_new_people import settings_for, write_table

ROOT = Path(__file__).parents[3]
SETTINGS = ("recommend.popularity_penalty=0.5", "recommend.diversity=0.3")


def kill_in_the_middle(job: RunConfig, folder: RunFolder, overrides: tuple[str, ...]) -> set[int]:
    """Start the stage in a process and kill it once three parts are there; returns the parts."""
    words = [sys.executable, "-m", "tests.inference.lists.slow", job.storage, *overrides]
    process = subprocess.Popen(words, cwd=ROOT)
    parts = Parts(folder.recommend)
    deadline = time.time() + 120
    while len(parts.done()) < 3:
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return parts.done()


def times(folder: RunFolder) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in Path(folder.recommend.path).glob("*.parquet")}


@pytest.mark.parametrize("people", ["users", "new people"])
def test_killed(tmp_path: Path, people: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_people, "ROWS", PORTION)
    overrides: tuple[str, ...] = SETTINGS
    _, folder = prepared(tmp_path)
    if people == "new people":
        write_table(folder, tmp_path / "new.parquet", shuffled=True)
        overrides = (*SETTINGS, settings_for(tmp_path / "new.parquet", ", format: parquet"))
    job = job_at(tmp_path, *overrides)
    folder.job.write_text(dump_job(job))
    _, expected = made(job, folder)
    whole = parts_of(folder)
    folder.recommend.remove()

    done = kill_in_the_middle(job, folder, overrides)
    assert 3 <= len(done) < len(whole)
    assert state_of(job, folder, "recommend") == "to continue"
    assert Parts(folder.recommend).progress() == (len(done), len(whole))
    before = times(folder)
    _, result = made(job, folder)
    assert parts_of(folder) == whole
    after = times(folder)
    assert {name: after[name] for name in before} == before  # not written again
    for name in ("users", "rows", "candidate_items"):
        assert result[name] == expected[name]
    assert state_of(job, folder, "recommend") == "complete"


def test_other_settings_or_files_start_anew(tmp_path: Path) -> None:
    (tmp_path / "deny.txt").write_text("i1\n")
    deny = f"recommend.deny={tmp_path}/deny.txt"
    _, folder = prepared(tmp_path)
    job = job_at(tmp_path, deny)
    made(job, folder)
    expected = parts_of(folder)

    def interrupted(overrides: tuple[str, ...]) -> dict[str, int]:
        kill_in_the_middle(job_at(tmp_path, *overrides), folder, overrides)
        return times(folder)

    folder.recommend.remove()
    before = interrupted(("recommend.k=4", deny))
    made(job, folder)  # k is 5
    assert parts_of(folder) == expected
    assert all(times(folder)[name] != at for name, at in before.items())
    folder.recommend.remove()
    before = interrupted((deny,))
    (tmp_path / "deny.txt").write_text("i2\n")
    made(job, folder)
    assert all(times(folder)[name] != at for name, at in before.items())
    assert parts_of(folder) != expected


def test_lists_are_made_anew_when_a_file_has_changed(tmp_path: Path) -> None:
    stock = tmp_path / "stock.txt"
    stock.write_text("i1\ni2\n")
    job, folder = prepared(tmp_path, f"recommend.stock={stock}", "recommend.mask_seen=false")
    folder.job.write_text(dump_job(job))
    found, _ = made(job, folder)
    assert {name for own in found.values() for name, _ in own} == {"i1", "i2"}
    assert state_of(job, folder, "recommend") == "complete"
    stock.write_text("i1\ni2\n")  # another time, the same content
    assert state_of(job, folder, "recommend") == "complete"
    stock.write_text("i3\ni2\n")
    assert state_of(job, folder, "recommend") == "to do"
    found, _ = made(job, folder)
    assert {name for own in found.values() for name, _ in own} == {"i2", "i3"}
    stock.unlink()
    assert state_of(job, folder, "recommend") == "complete"


def test_the_status_shows_the_parts(tmp_path: Path) -> None:
    job, folder = prepared(tmp_path, "evaluate=null")
    folder.job.write_text(dump_job(job))
    for stage in job.trainings():
        (folder.training(stage) / "result.json").write_json({})
    parts = Parts(folder.recommend)
    parts.claim({"a": 1})
    parts.expect(7)
    found = status.read(str(folder.root))
    assert (found.stage, found.lists) == ("recommend", (0, 7))
    assert "lists       0 of 7 parts" in status._screen(found)
