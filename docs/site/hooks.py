"""What ``mkdocs build`` adds to the pages of docs/: pages made from the code, and pages of files of
the repository that pages link to."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.site import commands, errors, settings
from docs.site.repository import AS_IT_IS, DOCS, closure, linked, page_of, place, rewritten

API = """# Python API

`import p5dist` has these names; they load PyTorch and Ray when they are used.

::: p5dist.pipeline.run_job
    options: {heading: "p5dist.run", toc_label: "p5dist.run"}

::: p5dist.inference.loading.load
    options: {heading: "p5dist.load", toc_label: "p5dist.load"}

::: p5dist.config.job.Job
    options: {heading: "p5dist.Job", toc_label: "p5dist.Job"}

::: p5dist.inference.run.Run
    options: {heading: "p5dist.Run", toc_label: "p5dist.Run"}

::: p5dist.inference.run.Vectors
    options: {heading: "p5dist.Vectors", toc_label: "p5dist.Vectors"}

::: p5dist.errors.P5Error
    options: {heading: "p5dist.P5Error", toc_label: "p5dist.P5Error"}

## For kinds of your own

[Kinds of your own](../extending/README.md) says which of these a kind derives from.

::: p5dist.tasks.task.Task

::: p5dist.tasks.module.TaskModule

::: p5dist.tasks.evaluation.Evaluation

::: p5dist.models.encoders.encoder.Encoder

::: p5dist.prepare.attribute_kinds.kind.AttributeKind

::: p5dist.prepare.formats.format.SourceFormat

::: p5dist.prepare.formats.lines.LineFormat
"""
_ROLE = re.compile(r":(?:\w+:)?(?:func|class|meth|mod|attr|data):(?=<)")


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    made = {"reference/api.md": API, commands.PAGE: commands.page(), errors.PAGE: errors.page()}
    made |= settings.pages()
    first = {file for page in DOCS.rglob("*.md") for _, file in linked(page.read_text(), page)}
    for file in settings.files() | errors.files():
        made[place(file, made=False)] = page_of(file)
    for file in sorted(closure(first)):
        if file.suffix in AS_IT_IS:
            files.append(File.generated(config, place(file), abs_src_path=str(file)))
        else:
            made[place(file)] = page_of(file)
    worker = DOCS / "site/iframe-worker.js"
    files.append(File.generated(config, f"assets/{worker.name}", abs_src_path=str(worker)))
    for at, text in made.items():
        files.append(File.generated(config, at, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Turn links that leave docs/ into links to pages of the site."""
    at = page.file.src_uri
    if page.file.generated_by:
        return markdown
    return rewritten(markdown, DOCS / at, at)


def on_page_content(html: str, page: Page, config: Any, files: Files) -> str:
    """Leave out the roles of docstrings, which only Sphinx reads."""
    return _ROLE.sub("", html)
