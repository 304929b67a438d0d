"""Job files: YAML plus dotted overrides → RunConfig, with errors that name key, value, rule and
fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from p5dist.config import own_jobs
from p5dist.config.registry import Chosen
from p5dist.config.run import RunConfig
from p5dist.config.yaml_text import Lines, read_yaml, write_yaml
from p5dist.errors import ConfigError


def load_job(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a job file and apply overrides such as ``pretrain.steps=100``.

    Args:
        path: a YAML file, or the name of a job that comes with p5dist, such as ``ml-100k``.
        overrides: ``a.b=value`` pairs; the value is read as YAML.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, a value that breaks a rule.
    """
    file = own_jobs.find(path)
    try:
        text = file.read_bytes()
    except OSError as e:
        raise ConfigError(
            "the job file cannot be read", where=str(file), value=e.strerror,
            fix="give the path of a YAML job file, or the name of a job of p5dist: "
            f"{', '.join(own_jobs.names())}",
        ) from e  # fmt: skip
    return parse_job(text, overrides, where=str(file))


def parse_job(
    text: str | bytes, overrides: list[str] | None = None, *, where: str = "job"
) -> RunConfig:
    """:func:`load_job` for the text of a job file."""
    values, lines = read_yaml(text, where)
    if not isinstance(values, dict):
        raise ConfigError(
            "the job file must be a mapping", where=where, value=values,
            fix="start from a file under jobs/",
        )  # fmt: skip
    apply_overrides(values, overrides or [])
    for override in overrides or []:
        key = tuple(override.partition("=")[0].split("."))
        lines = {path: line for path, line in lines.items() if path[: len(key)] != key}
        lines[key] = 0
    try:
        return RunConfig.model_validate(values)
    except ValidationError as e:
        raise explain(e, values, where, lines) from None


def dump_job(job: RunConfig, *, defaults: bool = True) -> str:
    """The job as YAML; :func:`parse_job` gives the same object back.

    Args:
        defaults: include defaults; False: only the settings of file and overrides.
    """
    values = job.model_dump(mode="json", exclude_unset=not defaults)
    return write_yaml(values)


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> None:
    """Put settings such as ``pretrain.steps=100`` into ``values``.

    Raises:
        ConfigError: not an override, or an override below a plain value.
    """
    for override in overrides:
        _apply(values, override)


def _apply(values: dict[str, Any], override: str) -> None:
    key, sep, text = override.partition("=")
    parts = key.split(".")
    if not sep or not all(parts):
        raise ConfigError(
            "not an override", value=override, rule="section.key=value",
            fix="for example pretrain.steps=100",
        )  # fmt: skip
    node = values
    for part in parts[:-1]:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(
                "an override goes below a value that has no keys",
                where=key, value=child, fix=f"set {part} as a whole",
            )  # fmt: skip
        node = child
    try:
        node[parts[-1]] = read_yaml(text, key)[0]
    except ConfigError as e:
        raise ConfigError(
            f"the value of an override: {e.what}", where=key, value=text, rule=e.rule,
            fix="for example model.dim=64 or evaluate.k=[1,10]",
        ) from None  # fmt: skip


def explain(
    error: ValidationError, values: dict[str, Any], where: str, lines: Lines | None = None
) -> ConfigError:
    """A ConfigError with the first problem in full, and one line for each other problem.

    Args:
        values: the validated values.
        where: file or object that the values come from, for the message.
        lines: of the file, for the message; 0 for a key that is not from the file.
    """
    first, *others = error.errors()
    parts = _path(first, values)
    path = ".".join(parts)
    rule = first["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
    value: Any = first.get("input")
    fix = _change(parts, values) if path else "change either setting"
    what = f"{path or 'the job'}: {rule}"
    if first["type"] == "extra_forbidden":
        known = list(_section_at(parts[:-1], values).model_fields)
        near = difflib.get_close_matches(parts[-1], known, n=1)
        what = f"{path}: unknown key"
        rule = f"known here: {', '.join(known)}"
        fix = f"did you mean '{near[0]}'?" if near else "remove it, or use a known key"
    elif first["type"] == "missing":
        what, fix, value = f"{path}: missing", f"add {path} to the job file", None
    elif first["type"] == "kind":
        context = first["ctx"]
        key = f"{path}.kind" if isinstance(value, dict) else path  # a section, or a name
        what, rule, value = f"{key}: {context['what']}", context["rule"], context["value"]
        fix = context["fix"] or f"set {key}"
    elif first["type"].startswith("union_tag"):
        kinds = [
            get_args(s.model_fields["kind"].annotation)[0] for s in _sections_at(parts, values)
        ]
        value = value.get("kind") if isinstance(value, dict) else value
        what = f"{path}.kind: {'missing' if value is None else 'unknown kind'}"
        rule, fix = f"one of: {', '.join(kinds)}", f"set {path}.kind"
    elif first["type"] == "string_type" and isinstance(value, (int, float)):
        rule, fix = "text is expected", f"write it in quotes, as it is in the data: '{value}'"
    elif isinstance(value, (dict, BaseModel)):
        what, value = f"{path or 'the job'}: settings that do not fit each other", None
    for other in others[:5]:
        said = other["msg"]
        if other["type"] == "kind":
            said = f"{other['ctx']['what']} '{other['ctx']['value']}'"
        fix += f"\n  also:  {'.'.join(_path(other, values))}: {said}"
    begins = [tuple(parts[:n]) for n in range(len(parts), 0, -1)]
    line = next((lines[begin] for begin in begins if begin in lines), None) if lines else None
    return ConfigError(
        what, where=f"{where}, line {line}" if line else where, value=value, rule=rule, fix=fix
    )  # fmt: skip


def _change(parts: list[str], values: Any) -> str:
    """What to do about a wrong value: an override replaces a list as a whole."""
    path, node, whole = ".".join(parts), values, parts
    for i, part in enumerate(parts):
        if isinstance(node, (list, tuple)):
            whole = parts[:i]
            break
        node = node.get(part) if isinstance(node, dict) else None
    new = "…" if whole == parts else "[…]"
    return f"change {path} in the job file, or pass {'.'.join(whole)}={new}"


def _path(error: ErrorDetails, values: Any) -> list[str]:
    """The key path of an error in the job file, without the tags that pydantic adds for unions."""
    parts: list[str] = []
    node = values
    loc = error["loc"]
    for i, part in enumerate(loc):
        if isinstance(node, dict):
            if part not in node and not (error["type"] == "missing" and i == len(loc) - 1):
                continue
            node = node.get(part)
        elif isinstance(node, (list, tuple)) and isinstance(part, int):
            node = node[part] if part < len(node) else None
        else:
            continue
        parts.append(str(part))
    return parts


def _section_at(parts: list[str], values: Any) -> type[BaseModel]:
    """The section class of the key path ``parts`` in the user's values."""
    return _section(*_declared(parts, values))


def _sections_at(parts: list[str], values: Any) -> list[type[BaseModel]]:
    """The section classes that can read the key path ``parts``: several for a union."""
    return _sections(*_declared(parts, values))


def _declared(parts: list[str], value: Any) -> tuple[Any, Any]:
    """The declared type of the key path ``parts``, in the sections that the user's values choose,
    and the user's value of this key."""
    annotation: Any = RunConfig
    for part in parts:
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        else:
            field = _section(annotation, value).model_fields[part]
            annotation = field.annotation
            for mark in field.metadata:
                if isinstance(mark, Chosen):
                    annotation = Annotated[annotation, mark]
        value = value.get(part) if isinstance(value, dict) else None
    return annotation, value


def _section(annotation: Any, value: Any) -> type[BaseModel]:
    kinds = _sections(annotation, value)
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind is None or len(kinds) == 1:
        return kinds[0]
    return next(s for s in kinds if kind in get_args(s.model_fields["kind"].annotation))


def _sections(annotation: Any, value: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    for argument in getattr(annotation, "__metadata__", ()):
        if isinstance(argument, Chosen):
            return [argument.section(value)]
    return [s for a in get_args(annotation) for s in _sections(a, value)]
