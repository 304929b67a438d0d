"""The pages agree with the program: links, commands, jobs and examples of README and docs/.

:mod:`tests.docs` runs their code blocks and builds the site.
"""

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
from tests.docs.blocks import ROOT, Block, blocks
from tests.docs.pages import DOCS, MANUAL, PAGES, README, anchors, name_of

COLUMNS = "{user: u, item: i, timestamp: t, event: type, rating: stars}"
COMPLETE = f"""
name: complete
prepare:
  source: {{files: log.csv, columns: {COLUMNS}}}
pretrain: {{epochs: 1, batch_size: 256}}
"""
"""What the sections of a page are added to, so that each can be checked alone."""


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


def test_all_pages_are_in_the_index_and_in_the_navigation() -> None:
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"README.md"}
    linked = set(re.findall(r"\]\(([\w/-]+\.md)\)", (DOCS / "README.md").read_text()))
    assert linked == pages
    site = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    assert pages <= set(re.findall(r"[\w/-]+\.md", site))


def test_messages_and_comments_name_pages_that_exist() -> None:
    files = [f for d in ("p5dist", "jobs", "cluster", "benchmarks") for f in (ROOT / d).rglob("*")]
    files += [ROOT / name for name in ("Makefile", "install.py", "pyproject.toml", "mkdocs.yml")]
    for file in files:
        if file.suffix in (".py", ".yaml", ".yml", ".toml", ".j2", ".md", ".txt", ""):
            if not file.is_file():
                continue
            for name in re.findall(r"\bdocs/[\w/.-]*\w\.md", file.read_text()):
                assert (ROOT / name).exists(), f"{file.relative_to(ROOT)} names {name}"


def test_readme_is_short_and_names_every_folder() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    assert max(len(line) for line in lines if line[:1] not in "|<" and "<img" not in line) <= 115
    code = (DOCS / "extending/code.md").read_text()
    folders = [f.parent.name for f in (ROOT / "p5dist").glob("*/__init__.py")]
    assert [f for f in folders if not re.search(rf"(?m)^ *{f}/", code)] == []


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
        if words[0].startswith("--"):
            assert words[0] in {o for p in known.params for o in p.opts}, words[0]
            continue
        command = known.commands.get(words[0])
        assert command is not None or words[0] == "COMMAND", f"p5dist {words[0]}"
        if command is None:
            continue
        options = {"--help"} | {o for parameter in command.params for o in parameter.opts}
        if hasattr(command, "commands") and len(words) > 1 and re.match(r"[a-z][a-z-]*$", words[1]):
            assert words[1] in command.commands, f"p5dist {words[0]} {words[1]}"
            options |= {o for p in command.commands[words[1]].params for o in p.opts}
        for word in words[1:]:
            option = re.match(r"\(?\[?(--[a-z-]+)", word)
            assert option is None or option[1] in options, f"p5dist {' '.join(words)}"


@pytest.mark.parametrize("page", MANUAL, ids=name_of)
def test_jobs_are_valid(page: Path) -> None:
    for block in blocks(page):
        if block.language == "yaml" and block.marker in ("", "file"):
            check_job(block)


def check_job(block: Block) -> None:
    values = yaml.safe_load(block.text)
    unknown = values.keys() - RunConfig.model_fields.keys()
    assert not unknown or unknown == {"source"}, f"{block}: no sections of a job: {unknown}"
    if "source" in values:  # several ways to write prepare.source, one after the other
        for text in re.split(r"(?m)^(?=source:)", block.text)[1:]:
            values = {"prepare": yaml.safe_load(text)}
            parse_job(yaml.safe_dump(merged(yaml.safe_load(COMPLETE), values)))
    elif "name" in values and "prepare" in values:
        parse_job(block.text)
    else:
        job = yaml.safe_load(COMPLETE)
        if "pretrain" in values:  # which has either steps or epochs
            job["pretrain"] = {}
        parse_job(yaml.safe_dump(merged(job, values)))


@pytest.mark.parametrize("page", MANUAL, ids=name_of)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        if block.language in ("python", "sh", "toml"):
            assert block.marker, f"{block} has no marker, see tests/docs/blocks.py"
        else:
            assert block.language in ("yaml", "text", "console", "json"), block


def without_layout(code: str) -> str:
    """Lines without indentation, and without empty lines."""
    return "\n".join(line.strip() for line in code.splitlines() if line.strip())


def test_kinds_of_the_page_on_extending_work() -> None:
    import torch

    found: dict[str, Any] = {}
    for block in blocks(DOCS / "extending/README.md"):
        if block.marker == "kinds" and block.language == "python":
            exec(textwrap.dedent(block.text), found)
    prefix = found["Prefix"](kind="own", length=2)
    assert prefix.parse(pa.chunked_array([["abc", None, "x"]])).value.to_pylist() == ["ab", "x"]
    encoder = found["Pointwise"](kind="own").build(dim=4, max_length=3, causal=True)
    assert encoder(torch.ones(5, 4), None).shape == (5, 4)


@pytest.mark.parametrize("page", MANUAL, ids=name_of)
def test_lines_of_the_example_package_are_in_its_files(page: Path) -> None:
    for block in blocks(page):
        if block.marker == "example":
            text = (ROOT / "tests/example_package" / block.value).read_text()
            assert without_layout(block.text) in without_layout(text), block


@pytest.mark.parametrize("page", MANUAL, ids=name_of)
def test_python_names_are_those_of_the_api(page: Path) -> None:
    for block in blocks(page):
        if block.language != "python" or block.marker == "example":
            continue
        for name in re.findall(r"\bp5dist\.(?!yaml)(\w+)\(", block.text):
            assert hasattr(p5dist, name), name
        for name in re.findall(r"\brun\.(\w+)", block.text):
            assert hasattr(p5dist.Run, name), name
        ast.parse(block.text)
    for name in re.findall(r"`run\.(\w+)", page.read_text()):
        assert hasattr(p5dist.Run, name), name
