"""What goes back to a caller: a status and JSON, also for everything that may be wrong."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import ValidationError

from p5dist.errors import P5Error
from p5dist.serving.schema import Problem


class Reply(NamedTuple):
    """An answer on its way."""

    status: int
    body: bytes
    """JSON."""


def problem(status: int, message: str, **more: str | None) -> Reply:
    """A reply that says what is wrong; ``more``: fields of :class:`.schema.Problem`."""
    return Reply(status, Problem(message=message, **more).model_dump_json().encode())


def not_answered(error: P5Error) -> Reply:
    """The request does not fit the run."""
    return problem(
        400, error.what, where=error.where, value=error.value, rule=error.rule, fix=error.fix
    )


def not_valid(error: ValidationError) -> Reply:
    """The request breaks a rule of the API."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "body"
    return problem(
        422, "the request breaks a rule", where=where, value=repr(first.get("input"))[:200],
        rule=first["msg"].removeprefix("Value error, "),
        fix=f"correct {where}; /docs describes the requests",
    )  # fmt: skip
