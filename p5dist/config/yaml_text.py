"""YAML as job files use it: the core schema of YAML 1.2, keys as they are written, every key once.

Only ``true`` and ``false`` are booleans: ``yes``, ``no`` and ``on`` are text, as are dates and
``12:30``. A key is always text, so that an event or a stage may be called ``1``; a key that other
programs read as true, false or null must be in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from p5dist.errors import ConfigError

Lines = dict[tuple[str, ...], int]
"""Key path → line of the file."""

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_PLAIN = {
    "null": (re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    "int": (_INT, list("-+0123456789")),
    "float": (_FLOAT, list("-+.0123456789")),
    "merge": (re.compile(r"<<"), ["<"]),
}
_AMBIGUOUS = re.compile(r"yes|no|on|off|true|false|null|~", re.IGNORECASE)
_FIX = (
    "correct this line or the line before it; text with ': ' or ' #' in it, or with a sign at its "
    "beginning, goes in quotes"
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}  # not those of YAML 1.1


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would take for something else."""


for _name, (_pattern, _first) in _PLAIN.items():
    whole = re.compile(rf"(?:{_pattern.pattern})\Z")
    _Loader.add_implicit_resolver(_TAG + _name, whole, _first)
    _Dumper.add_implicit_resolver(_TAG + _name, whole, _first)


def _int(loader: _Loader, node: ScalarNode) -> int:
    text = node.value.replace("_", "")
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


_Loader.add_constructor(_TAG + "int", _int)


def read_yaml(text: str | bytes, where: str) -> tuple[Any, Lines]:
    """The value of a YAML text, and the line of every key.

    Args:
        where: file or key that the text comes from, for messages.

    Raises:
        ConfigError: not UTF-8, not YAML, a key that occurs twice or is not text; with the line.
    """
    if isinstance(text, bytes):
        text = _decode(text, where)
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines = dict(_lines(node, (), where))
        return loader.construct_document(node), lines
    except yaml.YAMLError as e:
        raise _not_yaml(e, text, where) from None
    except (ValueError, KeyError, RecursionError) as e:  # of a value with a tag; nested too deep
        raise ConfigError(
            "not YAML", where=where, value=f"{type(e).__name__}: {e}",
            fix="remove tags such as !!int, and aliases to what is around them",
        ) from None  # fmt: skip
    finally:
        if loader is not None:
            loader.dispose()


def write_yaml(values: Any) -> str:
    """The YAML text of plain values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data[data.rfind(b"\n", 0, e.start) + 1 :].partition(b"\n")[0]
        raise ConfigError(
            "the text is not UTF-8", where=f"{where}, line {data.count(10, 0, e.start) + 1}",
            value=line.decode("utf-8", "backslashreplace").strip(),
            rule=f"byte {data[e.start]:#04x} is not UTF-8 here",
            fix="save the file as UTF-8, or convert it: iconv -f latin1 -t utf-8 FILE > NEW",
        ) from None  # fmt: skip


def _lines(node: Node, path: tuple[str, ...], where: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Key path and line of everything below ``node``; turns keys into text.

    Raises:
        ConfigError: a key that occurs twice or is not text.
    """
    if isinstance(node, SequenceNode):
        for i, below in enumerate(node.value):
            yield (*path, str(i)), below.start_mark.line + 1
            yield from _lines(below, (*path, str(i)), where)
    if not isinstance(node, MappingNode):
        return
    first: dict[str, int] = {}
    for key, below in node.value:
        line = key.start_mark.line + 1
        if key.tag == _TAG + "merge":
            continue
        if not isinstance(key, ScalarNode):
            raise ConfigError(
                "a key is not text", where=f"{where}, line {line}",
                value=key.start_mark.get_snippet(indent=0).partition("\n")[0].strip(),
                rule="a key is one word, or text in quotes",
                fix="put text that begins with a bracket or brace in quotes",
            )  # fmt: skip
        name = key.value
        if key.style is None and _AMBIGUOUS.fullmatch(name):
            raise ConfigError(
                f"{'.'.join((*path, name))}: this key must be in quotes",
                where=f"{where}, line {line}", value=name,
                rule=f"without quotes, programs read {name} as true, false or "
                "null instead of as text",
                fix=f"write '{name}' with its quotes",
            )  # fmt: skip
        if name in first:
            raise ConfigError(
                f"{'.'.join((*path, name))}: this key occurs twice",
                where=f"{where}, line {line}", value=name,
                rule=f"the first is in line {first[name]}; the second would replace it",
                fix="put all settings under one of them",
            )  # fmt: skip
        first[name] = line
        key.tag = _TAG + "str"
        yield (*path, name), line
        yield from _lines(below, (*path, name), where)


def _not_yaml(error: yaml.YAMLError, text: str, where: str) -> ConfigError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    position = getattr(error, "position", None)  # of a character that YAML does not allow
    line, snippet = None, None
    if mark is not None:
        line, snippet = mark.line + 1, (text.splitlines()[mark.line : mark.line + 1] or [""])[0]
    elif isinstance(position, int):
        line, snippet = text.count("\n", 0, position) + 1, repr(text[position])
    said = [getattr(error, name, None) for name in ("context", "problem", "reason")]
    problem = ", ".join(str(text) for text in said if text) or str(error)
    return ConfigError(
        "not YAML", where=where if line is None else f"{where}, line {line}",
        value=snippet.strip() if snippet else None, rule=" ".join(str(problem).split()),
        fix=_FIX,
    )  # fmt: skip
