"""The reference of the settings, from the models of the job file and of the registered kinds."""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from docs.site.text import code, plain, source, table
from p5dist.config import RunConfig
from p5dist.config.registry import (
    ATTRIBUTES,
    ENCODERS,
    FORMATS,
    OBJECTIVES,
    TASKS,
    Chosen,
    Named,
    Registry,
)

FOLDER = "reference/settings"
KINDS = {
    "encoders": (ENCODERS, "model.encoder"),
    "objectives": (OBJECTIVES, "pretrain.objective"),
    "tasks": (TASKS, "finetune.<name>.task"),
    "attributes": (ATTRIBUTES, "prepare.items.attributes.<name>"),
    "formats": (FORMATS, "prepare.source"),
}
"""Page of the kinds of a registry, and the key of the job file that chooses one."""
_WORDS = {
    "str": "text", "int": "whole number", "float": "number", "bool": "true or false",
    "NoneType": "null", "datetime": "time",
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One setting of a section.

    Args:
        name: the last part of its key.
        value: the values that it takes, in words.
        default: as the job file would have it; None: must be given.
        meaning: from the docstring of the field.
        file: where the field is defined.
    """

    name: str
    value: str
    default: str | None
    meaning: str
    file: Path
    line: int


def pages() -> dict[str, str]:
    """All pages by their place on the site."""
    first = [name for name, field in RunConfig.model_fields.items() if not _sections(field)]
    index = f"{FOLDER}/README.md"
    text = (
        "# All settings\n\nEvery setting of the job file, from the classes that read it; the name "
    )
    text += "of a setting leads to its source.\n\n"
    text += _table(RunConfig, index, first)
    text += "\n## Sections\n\n"
    made = {}
    for name, field in RunConfig.model_fields.items():
        if not _sections(field):
            continue
        key = f"{name}.<name>" if get_origin(field.annotation) is dict else name
        about = plain(_sections(field)[0].__doc__)
        text += f"- [{name}]({name}.md): {about}\n"
        made[f"{FOLDER}/{name}.md"] = _page(name, key, field)
    text += "\n## Kinds\n\n"
    for name, (registry, key) in KINDS.items():
        text += f"- [{name}]({name}.md): `{key}`\n"
        made[f"{FOLDER}/{name}.md"] = _kinds(name, registry, key)
    return {index: text, **made}


def files() -> set[Path]:
    """The files that the pages link to."""
    return {setting.file for model in models() for setting in settings(model)}


def models() -> list[type[BaseModel]]:
    """Every section of the job file and of the kinds of p5dist."""
    found: dict[type[BaseModel], None] = {RunConfig: None}
    left: list[type[BaseModel]] = [RunConfig]
    left += [r.find(n) for r, _ in KINDS.values() for n in r.ours if r is not FORMATS]
    while left:
        model = left.pop()
        found[model] = None
        for field in model.model_fields.values():
            left += [one for one in _sections(field) if one not in found]
    return list(found)


def settings(model: type[BaseModel]) -> list[Setting]:
    """The settings of a section, in the order of the class."""
    found = []
    for name, field in model.model_fields.items():
        file, line = _place(model, name)
        meaning = plain(field.description)
        if not meaning and (inner := _sections(field)):
            meaning = plain(inner[0].__doc__)
        if name in ("kind", "format") and not meaning:
            meaning = "Chooses this section."
        found.append(Setting(name, _value(field), _default(field), meaning, file, line))
    return found


def _page(name: str, key: str, field: FieldInfo) -> str:
    at = f"{FOLDER}/{name}.md"
    text = f"# {name}\n\n"
    for number, (path, model) in enumerate(_below(key, field)):
        if number:
            text += f"\n## `{path}` {{ #{_anchor(path)} }}\n\n"
        text += plain(model.__doc__) + "\n\n" + _table(model, at)
    return text


def _below(key: str, field: FieldInfo) -> Iterator[tuple[str, type[BaseModel]]]:
    """Key and class of a section and of all sections in it, each class once a page."""
    left, seen = [(key, model) for model in _sections(field)], set()
    while left:
        path, model = left.pop(0)
        if (path, model) in seen:
            continue
        seen.add((path, model))
        yield path, model
        inner = []
        for name, part in model.model_fields.items():
            if _registry(part) is not None:
                continue
            more = f"{name}.<name>" if get_origin(part.annotation) is dict else name
            inner += [(f"{path}.{more}", one) for one in _sections(part)]
        left = inner + left


def _kinds(name: str, registry: Registry, key: str) -> str:
    at = f"{FOLDER}/{name}.md"
    chooses = "format" if registry is FORMATS else "kind"
    text = f"# {name.capitalize()}\n\n`{key}.{chooses}` chooses one of these, or a class of "
    text += "your own as `package.module:Class`.\n"
    for kind in registry.ours:
        model = registry.find(kind)
        text += f"\n## {kind}\n\n{plain(model.__doc__)}\n\n"
        if registry is FORMATS:
            continue
        shown = [n for n in model.model_fields if n != "kind"]
        text += _table(model, at, shown) if shown else "It has no settings.\n"
        for part in shown:
            for inner in _sections(model.model_fields[part]):
                if _registry(model.model_fields[part]) is None and inner.__module__ != "builtins":
                    text += f"\n### `{kind}`: `{part}`, {inner.__name__}\n\n"
                    text += plain(inner.__doc__) + "\n\n" + _table(inner, at)
    return text


def _table(model: type[BaseModel], at: str, names: list[str] | None = None) -> str:
    rows = []
    for setting in settings(model):
        if names is not None and setting.name not in names:
            continue
        default = "*must be given*" if setting.default is None else code(setting.default)
        name = source(setting.file, setting.line, at, f"<code>{setting.name}</code>")
        meaning = setting.meaning
        page = _registry(model.model_fields[setting.name])
        if page is not None:
            meaning += f" See [{page}]({page}.md)."
        rows.append((name, setting.value, default, meaning))
    return table(("setting", "value", "default", "meaning"), rows)


def _value(field: FieldInfo) -> str:
    """The values of a field in words, with its bounds."""
    words = _words(field.annotation)
    bounds = []
    for fact in _facts(field):
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if (limit := getattr(fact, name, None)) is not None and limit != 2**63:
                bounds.append(f"{sign} {limit:g}")
    limits = " and ".join(dict.fromkeys(bounds))
    return re.sub(r"((?:whole )?number)", rf"\1 {limits}", words, count=1) if limits else words


def _facts(field: FieldInfo) -> list[Any]:
    found, left = list(field.metadata), [field.annotation]
    while left:
        one = left.pop()
        if get_origin(one) is Annotated:
            found += [f for a in get_args(one)[1:] for f in getattr(a, "metadata", None) or [a]]
            left.append(get_args(one)[0])
        elif get_origin(one) in (Union, types.UnionType):
            left += get_args(one)
    return found


def _words(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(args[0])
    if origin is Literal:
        return ", ".join(code(_yaml(arg)) for arg in args)
    if origin in (Union, types.UnionType):
        parts = list(dict.fromkeys(_words(arg) for arg in args))
        return " or ".join(parts)
    if origin in (tuple, list):
        inner = [arg for arg in args if arg is not ...]
        length = f" ({len(inner)})" if len(inner) > 1 else ""
        return f"list of {_words(inner[0])}{length}"
    if origin is dict:
        return f"mapping of {_words(args[1])} by name"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "section"
    return _WORDS.get(getattr(annotation, "__name__", ""), str(annotation))


def _default(field: FieldInfo) -> str | None:
    if field.default_factory is not None:
        return "{}"
    if field.default is PydanticUndefined:
        return None
    return _yaml(field.default)


def _yaml(value: Any) -> str:
    if isinstance(value, BaseModel):
        given = value.model_dump(mode="json", exclude_unset=True)
        return "{" + ", ".join(f"{k}: {_yaml(v)}" for k, v in given.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_yaml(v)}" for k, v in value.items()) + "}"
    return str(value)


def _sections(field: FieldInfo) -> list[type[BaseModel]]:
    """The classes of sections that a field takes."""
    found: list[type[BaseModel]] = []
    left = [field.annotation]
    while left:
        one = left.pop(0)
        if inspect.isclass(one) and issubclass(one, BaseModel):
            found.append(one)
        else:
            left += [arg for arg in get_args(one) if get_origin(one) is not Literal]
    return found


def _registry(field: FieldInfo) -> str | None:
    """The page of the kinds that a field chooses from."""
    left: list[Any] = [*field.metadata, field.annotation]
    while left:
        one = left.pop()
        if isinstance(one, Chosen | Named):
            return next(n for n, (r, _) in KINDS.items() if r.group == one.registry.group)
        if get_origin(one) is not Literal:
            left += get_args(one)
    return None


def _anchor(path: str) -> str:
    return path.replace(".", "-").replace("<", "").replace(">", "")


def _place(model: type[BaseModel], name: str) -> tuple[Path, int]:
    """File and line of the class that defines a field."""
    for base in model.__mro__:
        if name in inspect.get_annotations(base):
            file = Path(inspect.getsourcefile(base) or "")
            return file, _lines(file)[base.__name__, name]
    raise LookupError(f"{model.__name__}.{name}")


@cache
def _lines(file: Path) -> dict[tuple[str, str], int]:
    """Lines of the annotated names of all classes of a file."""
    return {
        (node.name, part.target.id): part.lineno
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }
