"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import typer.main

from docs.site.text import code, plain, table
from p5dist.cli.main import app

PAGE = "reference/command-line.md"


def page() -> str:
    """The page with every command, argument and option."""
    text = "# Command line\n\nEvery command with its arguments and options; `--help` of a command "
    text += "prints the same.\n"
    for words, command in sorted(commands()):
        text += f"\n## {words}\n\n{plain(command.help)}\n\n    {usage(words, command)}\n\n"
        rows = [_row(p) for p in command.params if p.name != "help"]
        if rows:
            text += table(("argument", "default", "meaning"), rows)
    return text


def commands() -> Iterator[tuple[str, Any]]:
    """The words and the object of every command, without groups that only have subcommands."""
    found: Any = typer.main.get_command(app)
    for name, command in found.commands.items():
        inner = getattr(command, "commands", {})
        if not inner or command.invoke_without_command:
            yield f"p5dist {name}", command
        for part, below in inner.items():
            yield f"p5dist {name} {part}", below


def usage(words: str, command: Any) -> str:
    """The first line of the help."""
    parts = [words]
    if any(_is_option(p) and p.name != "help" for p in command.params):
        parts.append("[OPTIONS]")
    for parameter in command.params:
        if not _is_option(parameter):
            name = parameter.metavar or (parameter.name or "").upper()
            parts.append(name if parameter.required or name.startswith("[") else f"[{name}]")
    return " ".join(parts)


def _is_option(parameter: Any) -> bool:
    return any(word.startswith("-") for word in parameter.opts)


def _row(parameter: Any) -> tuple[str, str, str]:
    if _is_option(parameter):
        name = ", ".join(map(code, parameter.opts)) + _value(parameter)
    else:
        name = code(parameter.metavar or (parameter.name or "").upper())
    default = parameter.default
    if parameter.required:
        shown = "*must be given*"
    elif default is None or default is False or callable(default):
        shown = ""
    else:
        shown = code(str(getattr(default, "value", default)))
    meaning = plain(parameter.help)
    if getattr(parameter, "envvar", None):
        meaning += f" Or the environment variable `{parameter.envvar}`."
    return name, shown, meaning


def _value(parameter: Any) -> str:
    """What follows an option: nothing, one of several words, or a value."""
    if parameter.is_flag:
        return ""
    if parameter.metavar:
        return f" {code(parameter.metavar)}"
    annotation = parameter.type_descriptor.annotation
    if get_origin(annotation) is Literal:
        return " " + ", ".join(map(code, get_args(annotation)))
    words = {int: "a whole number", float: "a number"}
    return f" {words.get(annotation, 'text')}"
