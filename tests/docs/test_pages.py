"""The commands and the Python of the pages run, in the folder of a small shop.

The shop is trained once, by the commands of the quickstart. Pages that have a job of their own
begin without a run.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import ROOT, Block, blocks
from tests.docs.pages import DOCS, MANUAL, README, name_of
from tests.docs.shop import run_block, write_file, write_shop

QUICKSTART = DOCS / "quickstart.md"
RUNS = ("run", "file")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """The folder after the quickstart."""
    folder = tmp_path_factory.mktemp("trained")
    write_shop(folder)
    with pytest.MonkeyPatch.context() as m:
        m.chdir(folder)
        play(blocks(QUICKSTART), folder)
    shutil.copy(folder / "shop.yaml", folder / "JOB.yaml")
    return folder


def play(found: list[Block], folder: Path, markers: tuple[str, ...] = RUNS) -> None:
    names: dict[str, Any] = {}
    for block in found:
        if block.marker == "file":
            write_file(folder, block)
        elif block.marker in markers:
            run_block(block, names, alone=block.marker == "slow")


def in_shop(page: Path, trained: Path, folder: Path) -> None:
    """A copy of the trained shop; without the run if the page has another job of this name."""
    own = [b for b in blocks(page) if b.marker == "file" and b.value == "shop.yaml"]
    write_file(folder.parent, own[0]) if own else None
    same = (
        not own or (folder.parent / "shop.yaml").read_text() == (trained / "shop.yaml").read_text()
    )
    shutil.copytree(trained, folder, ignore=None if same else shutil.ignore_patterns("runs"))


def with_marker(marker: str) -> list[Path]:
    pages = [page for page in MANUAL if page != QUICKSTART]
    return [page for page in pages if any(b.marker == marker for b in blocks(page))]


def test_the_quickstart_runs(trained: Path) -> None:
    assert (trained / "runs/shop/report.html").exists()


@pytest.mark.parametrize("page", with_marker("run"), ids=name_of)
def test_commands_run(
    page: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shop"
    in_shop(page, trained, folder)
    monkeypatch.chdir(folder)
    play(blocks(page), folder)


@pytest.mark.slow
@pytest.mark.parametrize("page", with_marker("slow"), ids=name_of)
def test_slow_commands_run(
    page: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shop"
    in_shop(page, trained, folder)
    monkeypatch.chdir(folder)
    play(blocks(page), folder, ("file", "slow"))


def test_blocks_that_other_tests_have_are_there() -> None:
    for page in MANUAL:
        for block in blocks(page):
            if block.marker == "tested":
                assert (ROOT / block.value).exists(), block


def test_the_readme_shows_the_job_of_the_quickstart() -> None:
    shown = [next(b for b in blocks(p) if b.marker == "file") for p in (README, QUICKSTART)]
    assert shown[0].text == shown[1].text
