"""Kinds that a job file chooses by name: tasks, encoders, attribute kinds, source formats.

A kind is one class that holds everything about the kind. Kinds of p5dist are known by import path,
so that only the kinds that a job file names are imported. Kinds of other packages are named in the
job file as ``package.module:Class``, or registered as entry points by an installed package.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from p5dist.errors import ConfigError


@dataclass(frozen=True)
class Registry:
    """A registry of kinds, for example of encoders.

    Args:
        noun: noun for a kind in messages, such as ``encoder``.
        group: group of the entry points of other packages.
        base: import path ``module:Class`` of the base class of all kinds.
        ours: kinds of p5dist, name → import path.
    """

    noun: str
    group: str
    base: str
    ours: Mapping[str, str]

    def __hash__(self) -> int:
        return hash(self.group)

    @property
    def _one(self) -> str:
        return _with_article(self.noun)

    def names(self) -> list[str]:
        """All names that a job file may use: of p5dist, then of installed packages."""
        return [*self.ours, *sorted(self._others.keys() - self.ours.keys())]

    def ours_with(self, fact: str, conjunction: str) -> str:
        """Names of the kinds of p5dist whose class attribute ``fact`` is true: ``a, b or c``."""
        return in_words([n for n in self.ours if getattr(self.find(n), fact)], conjunction)

    def without(self, *names: str) -> Registry:
        """The same registry without some kinds of p5dist."""
        ours = {name: path for name, path in self.ours.items() if name not in names}
        return Registry(self.noun, self.group, self.base, ours)

    def find(self, kind: str) -> type[Any]:
        """The class of a kind.

        Args:
            kind: a name, or ``package.module:Class``.

        Raises:
            ConfigError: no such name; a class that cannot be imported, is no subclass of the base
                or lacks methods; two packages that register the same name.
        """
        if ":" in kind:
            return self._check(kind, load(kind, self.noun))
        paths = [self.ours[kind]] if kind in self.ours else []
        paths += [path for path in self._others.get(kind, []) if path not in paths]
        if not paths:
            raise ConfigError(
                f"unknown {self.noun}", value=kind, rule=f"one of: {', '.join(self.names())}",
                fix=f"install the package that adds '{kind}' on every machine of the run, name "
                f"another, or give package.module:Class of {self._one} of your own",
            )  # fmt: skip
        if len(paths) > 1:
            raise ConfigError(
                f"two {self.noun}s have the same name", where=f"entry points {self.group}",
                value=f"{kind}: {' and '.join(paths)}", rule="a name stands for one class",
                fix="give package.module:Class instead, rename one of them, or uninstall the "
                "package that registers it",
            )  # fmt: skip
        point = None if kind in self.ours else f"entry point {self.group}: {kind}"
        return self._check(kind, load(paths[0], self.noun, point))

    def _check(self, kind: str, found: Any) -> type[Any]:
        base = load(self.base, self.noun)
        if not (isinstance(found, type) and issubclass(found, base)):
            module, _, name = self.base.partition(":")
            raise ConfigError(
                f"not {self._one}", value=kind,
                rule=f"{self._one} is a subclass of {module}.{name}",
                fix="correct the name, or derive the class",
            )  # fmt: skip
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            raise ConfigError(
                f"{self._one} that is not complete", value=kind,
                rule=f"the class defines {', '.join(missing)}",
                fix=f"define these methods as {self.base.partition(':')[2]} documents them",
            )  # fmt: skip
        return found

    @cached_property
    def _others(self) -> dict[str, list[str]]:
        """Import paths by name, of installed packages; a name with several cannot be used."""
        found: dict[str, list[str]] = {}
        for point in entry_points(group=self.group):
            paths = found.setdefault(point.name, [])
            if point.value not in paths:
                paths.append(point.value)
        return found


def in_words(names: list[str], conjunction: str) -> str:
    """``a, b and c``."""
    *others, last = names
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def load(path: str, noun: str, where: str | None = None) -> Any:
    """The object at ``package.module:Class``.

    Raises:
        ConfigError: the object cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as e:  # a module of another package may raise anything at import
        raise ConfigError(
            f"{_with_article(noun)} cannot be imported", where=where,
            value=f"{path}: {type(e).__name__}: {e}",
            rule="package.module:Class, importable on every machine of the run",
            fix="install the package with this module, or correct the name",
        ) from e  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """Marks a field that holds a section of a registered kind: ``Annotated[Base, Chosen(…)]``.

    The value is a mapping whose key ``kind`` chooses the class that reads the other keys.

    Args:
        registry: the registry of the kinds.
        default: kind of a mapping without the key ``kind``.
    """

    registry: Registry
    default: str | None = None

    def section(self, value: Any) -> type[BaseModel]:
        """The class that reads ``value``.

        Raises:
            ConfigError: see :meth:`Registry.find`.
        """
        kind = value.get("kind", self.default) if isinstance(value, dict) else self.default
        if not isinstance(kind, str):
            raise ConfigError(
                "missing kind" if kind is None else "unknown kind",
                value=kind, rule=f"one of: {', '.join(self.registry.names())}",
            )  # fmt: skip
        return self.registry.find(kind)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                _dump, info_arg=True, when_used="always"
            ),
        )

    def _validate(self, value: Any) -> Any:
        if isinstance(value, load(self.registry.base, self.registry.noun)):
            return value
        if isinstance(value, BaseModel):  # a default, which has only a kind
            value = value.model_dump(exclude_unset=True)
        if not isinstance(value, dict):
            raise PydanticCustomError(
                "section", "a section is a mapping of settings, not {given}", {"given": repr(value)}
            )
        try:
            section = self.section(value)
        except ConfigError as e:
            raise _kind_error(e) from e
        if "kind" not in value:
            value = {"kind": self.default, **value}
        return section.model_validate(value)


@dataclass(frozen=True)
class Named:
    """Marks a field that holds the name of a registered kind: ``Annotated[str, Named(…)]``."""

    registry: Registry

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._validate, handler(source))

    def _validate(self, value: str) -> str:
        try:
            self.registry.find(value)
        except ConfigError as e:
            raise _kind_error(e) from e
        return value


def _kind_error(error: ConfigError) -> PydanticCustomError:
    """The error that :mod:`p5dist.config.load` shows at the key ``kind``."""
    context = {"what": error.what, "rule": error.rule, "fix": error.fix, "value": error.value}
    return PydanticCustomError("kind", "{what}: {rule}", context)


def _dump(value: BaseModel, info: core_schema.SerializationInfo) -> Any:
    mode = "json" if info.mode == "json" else "python"
    return value.model_dump(mode=mode, exclude_unset=info.exclude_unset)


ENCODERS = Registry(
    "encoder",
    "p5dist.encoders",
    "p5dist.models.encoders.encoder:Encoder",
    {
        "transformer": "p5dist.models.encoders.transformer:Transformer",
        "hstu": "p5dist.models.encoders.hstu:Hstu",
        "mean": "p5dist.models.encoders.mean:Mean",
    },
)
OBJECTIVES = Registry(
    "objective",
    "p5dist.objectives",
    "p5dist.tasks.task:Task",
    {
        "causal": "p5dist.tasks.causal:Causal",
        "masked": "p5dist.tasks.masked:Masked",
        "skip_gram": "p5dist.tasks.skip_gram:SkipGram",
        "attributes": "p5dist.tasks.attributes:Attributes",
        "contrastive": "p5dist.tasks.contrastive:Contrastive",
        "multi": "p5dist.tasks.multi:MultiObjective",
    },
)
TASKS = Registry(
    "task",
    "p5dist.tasks",
    "p5dist.tasks.task:Task",
    {
        "next_item": "p5dist.tasks.next_item:NextItem",
        "rating": "p5dist.tasks.rating:Rating",
        "click": "p5dist.tasks.click:Click",
        "multi": "p5dist.tasks.multi:MultiTask",
    },
)
ATTRIBUTES = Registry(
    "attribute kind",
    "p5dist.attributes",
    "p5dist.prepare.attribute_kinds.kind:AttributeKind",
    {
        name: f"p5dist.prepare.attribute_kinds.{name}:{name.capitalize()}"
        for name in ("category", "multi", "words", "numeric", "vector", "text")
    },
)
FORMATS = Registry(
    "source format",
    "p5dist.formats",
    "p5dist.prepare.formats.format:SourceFormat",
    {
        "csv": "p5dist.prepare.formats.delimited:Csv",
        "tsv": "p5dist.prepare.formats.delimited:Tsv",
        "jsonl": "p5dist.prepare.formats.json_lines:JsonLines",
        "parquet": "p5dist.prepare.formats.parquet:Parquet",
        "sequences": "p5dist.prepare.formats.sequences:Sequences",
        "sql": "p5dist.prepare.formats.sql:Sql",
        "kafka": "p5dist.prepare.formats.kafka:Kafka",
    },
)
