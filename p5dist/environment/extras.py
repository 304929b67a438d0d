"""Packages that only some commands need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from p5dist.errors import ConfigError


def need(module: str, extra: str, where: str) -> Any:
    """The module.

    Args:
        extra: of p5dist, which installs it.
        where: the command or option that needs it.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as e:
        raise ConfigError(
            f"the package {module} is not installed", where=where, value=str(e),
            rule=f"{where} needs the extra {extra}", fix=f"pip install 'p5dist[{extra}]'",
        ) from e  # fmt: skip
