"""The site: built strictly, complete, and without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.site import commands, errors, settings
from tests.docs.blocks import ROOT

pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_needs_no_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']?([^\"' >]+)", text
        )
        assert [url for url in loaded if "//" in url] == [], page


def test_generated_pages_and_links_to_lines_are_there(site: Path) -> None:
    page = site / "reference/settings/pretrain.html"
    text = page.read_text()
    assert "batch_size" in text and "Histories per step" in text
    links = re.findall(r'href="([^"#]+)#(__codelineno[^"]+)"', text)
    assert links
    for target, anchor in links:
        assert f'id="{anchor}"' in (page.parent / target).read_text(), (target, anchor)
    for name in ("command-line", "errors", "api"):
        assert (site / f"reference/{name}.html").exists()


def test_every_setting_has_a_meaning() -> None:
    missing = [
        f"{model.__name__}.{setting.name}"
        for model in settings.models()
        for setting in settings.settings(model)
        if not setting.meaning
    ]
    assert missing == []


def test_every_command_and_option_is_explained() -> None:
    for words, command in commands.commands():
        assert command.help, words
        for parameter in command.params:
            assert parameter.name == "help" or parameter.help, f"{words} {parameter.name}"


def test_the_index_of_errors_has_every_class_and_says_what_to_do() -> None:
    found = errors.raised()
    assert {one.kind for one in found} >= set(errors.CLASSES) - {"P5Error"}
    assert len(found) > 250
    for one in found:
        assert one.parts["what"], one
