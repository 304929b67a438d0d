"""The pages agree with the program: links, commands, jobs and examples of README and docs/."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer.main
import yaml

import p5dist
from p5dist.cli.main import app
from p5dist.config import RunConfig, parse_job

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
HIDDEN_OR_MADE = ("runs", "build", "dist", "node_modules")
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(
        part.startswith(".") or part in HIDDEN_OR_MADE for part in page.relative_to(ROOT).parts
    )
)
MANUAL = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "cluster/README.md"]
COLUMNS = "{user: u, item: i, timestamp: t, event: type, rating: stars}"
COMPLETE = f"""
name: complete
prepare:
  source: {{files: log.csv, columns: {COLUMNS}}}
pretrain: {{epochs: 1, batch_size: 256}}
"""
"""What the sections of a page are added to, so that each can be checked alone."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fences(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def merged(one: Any, other: Any) -> Any:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return other
    return one | {key: merged(one.get(key), value) for key, value in other.items()}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_of_the_project(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        place = (page.parent / path).resolve() if path else page
        assert place.is_relative_to(ROOT) and place.exists(), target
        assert not anchor or anchor in anchors(place), target


def test_all_pages_are_in_the_index() -> None:
    docs = ROOT / "docs"
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (docs / "README.md").read_text()))
    assert linked == {page.name for page in docs.glob("*.md")} - {"README.md"}


def test_readme_is_short_and_names_every_folder() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 110
    tree = README.read_text().partition("## The tree")[2].partition("\n## ")[0]
    folders = [f.parent.name for f in (ROOT / "p5dist").glob("*/__init__.py")]
    assert [f for f in folders if not re.search(rf"(?m)(^ *|  ){f}/ ", tree)] == []


def commands(page: Path) -> Iterator[list[str]]:
    """The words after ``p5dist`` of the commands in code blocks and code spans."""
    text = page.read_text()
    lines = re.findall(r"^ +(?:\.venv/bin/)?p5dist +(.*)$", text, re.MULTILINE)
    spans = re.findall(r"`p5dist ([^`]*)`", text.replace("\n", " "))
    for words in [*lines, *spans]:
        yield words.split()


@pytest.mark.parametrize("page", MANUAL, ids=name_of)
def test_commands_exist(page: Path) -> None:
    known: Any = typer.main.get_command(app)
    for words in commands(page):
        command = known.commands.get(words[0])
        assert command is not None, f"p5dist {words[0]}"
        options = {o for parameter in command.params for o in parameter.opts}
        if hasattr(command, "commands") and len(words) > 1 and re.match(r"[a-z][a-z-]*$", words[1]):
            assert words[1] in command.commands, f"p5dist {words[0]} {words[1]}"
            options |= {o for p in command.commands[words[1]].params for o in p.opts}
        for word in words[1:]:
            option = re.match(r"\(?\[?(--[a-z-]+)", word)
            assert option is None or option[1] in options, f"p5dist {' '.join(words)}"


@pytest.mark.parametrize("page", MANUAL, ids=name_of)
def test_jobs_are_valid(page: Path) -> None:
    for text in fences(page, "yaml"):
        values = yaml.safe_load(text)
        if not values.keys() <= RunConfig.model_fields.keys():
            continue  # a file of another program
        if "name" in values and "prepare" in values:
            parse_job(text)
        else:
            job = yaml.safe_load(COMPLETE)
            if "pretrain" in values:  # which has either steps or epochs
                job["pretrain"] = {}
            parse_job(yaml.safe_dump(merged(job, values)))


def test_kinds_of_the_page_on_extending_work() -> None:
    import torch

    found: dict[str, Any] = {}
    for text in fences(ROOT / "docs/extending.md", "python"):
        exec(textwrap.dedent(text), found)
    prefix = found["Prefix"](kind="own", length=2)
    assert prefix.parse(pa.chunked_array([["abc", None, "x"]])).value.to_pylist() == ["ab", "x"]
    encoder = found["Pointwise"](kind="own").build(dim=4, max_length=3, causal=True)
    assert encoder(torch.ones(5, 4), None).shape == (5, 4)


@pytest.mark.parametrize("page", MANUAL, ids=name_of)
def test_python_names_are_those_of_the_api(page: Path) -> None:
    for code in fences(page, "python"):
        for name in re.findall(r"\bp5dist\.(?!yaml)(\w+)\(", code):
            assert hasattr(p5dist, name), name
        for name in re.findall(r"\brun\.(\w+)", code):
            assert hasattr(p5dist.Run, name), name
        ast.parse(code)
    for name in re.findall(r"`run\.(\w+)", page.read_text()):
        assert hasattr(p5dist.Run, name), name
