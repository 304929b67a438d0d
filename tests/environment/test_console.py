"""Log lines on a terminal, above the progress bar, and in a file."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console

from p5dist.environment import console
from p5dist.observe.events import Callback, Failed, Logged, Saved, Started, Validated, tell
from p5dist.train.callbacks.terminal import LogLines, ProgressBar


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.getLogger("p5dist")
    before, level = list(found.handlers), found.level
    yield found
    found.handlers[:] = before
    found.setLevel(level)
    found.propagate = True


def _stage(callbacks: list[Callback]) -> None:
    tell(callbacks, Started(0, 20, 2, {}))
    tell(callbacks, Logged(5, 0, 1.25, lr=0.1, samples_per_second=1200.0, seconds={}))
    tell(callbacks, Saved(5, 0.251))
    tell(callbacks, Failed("worker 1 lost: its node is gone", {1: "…"}))
    tell(callbacks, Started(5, 20, 1, {}))
    tell(callbacks, Validated(5, "ndcg@10", 0.12345))


def test_on_a_terminal_the_bar_shows_the_steps(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=160, color_system=None)
    monkeypatch.setattr(console, "console", terminal)
    console.show_log()
    logger.info("1/3 prepare started")
    with console.progress("steps") as bar:
        _stage([LogLines("small", "pretrain"), ProgressBar(bar, "pretrain")])
    text = re.sub(r"\x1b\[[^m]*m", "", out.getvalue())
    lines = [line.strip() for line in text.splitlines()]
    assert any(line.startswith("1/3 prepare started ──") for line in lines)
    assert text.count("pretrain: worker 1 lost: its node is gone") == 1
    assert "checkpoint 5" not in text and "workers started" not in text
    shown = [line for line in lines if "5/20 steps" in line][-1]
    assert shown.endswith("restart 1  loss 1.2500  1,200/s  ndcg@10 0.1235")


def test_elsewhere_every_event_is_a_line_with_time_level_and_run(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=out))
    monkeypatch.setattr(sys, "stderr", out)
    console.show_log()
    _stage([LogLines("small", "pretrain")])
    logging.getLogger("p5dist.storage.s3.filesystem").warning("503, tried again")
    found = [re.fullmatch(r"\d{4}-\S+ [\d:,]+ (.*)", line) for line in out.getvalue().splitlines()]
    assert [match and match.group(1) for match in found] == [
        "INFO small: pretrain: 2 workers started at step 0 of 20",
        "INFO small: pretrain: checkpoint 5 complete in 0.25 s",
        "WARNING small: pretrain: worker 1 lost: its node is gone",
        "INFO small: pretrain: 1 worker started at step 5 of 20",
        "INFO small: pretrain: ndcg@10 0.1235 at step 5",
        "WARNING p5dist: 503, tried again",
    ]


def test_elsewhere_progress_is_a_line_every_thirty_seconds(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, now = io.StringIO(), [100.0]
    monkeypatch.setattr(console, "console", Console(file=out))
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    console.show_log()
    with console.progress("files") as bar:
        bar.get_time = lambda: now[0]
        task = bar.add_task("read", total=1000, note="")
        for done in range(1, 101):  # a file a second
            now[0] += 1
            bar.update(task, completed=done, note="loss 1.5" if done > 80 else "")
    lines = [line.partition("p5dist: ")[2] for line in out.getvalue().splitlines()]
    assert lines == [
        "read: 31/1,000 files, 1.0/s, 0:16:09 left",
        "read: 61/1,000 files, 1.0/s, 0:15:39 left",
        "read: 91/1,000 files, 1.0/s, 0:15:09 left, loss 1.5",
    ]


def test_colours_are_off_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
    monkeypatch.setattr(console, "console", coloured)
    coloured.print("[red]text[/red]")
    assert "\x1b[31m" in coloured.file.getvalue()
    console.no_colours()
    coloured.print("[red]text[/red]")
    assert coloured.file.getvalue().endswith("text\n")
    monkeypatch.delenv("NO_COLOR")
