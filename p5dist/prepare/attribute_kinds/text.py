"""Text for people."""

from __future__ import annotations

from typing import ClassVar

from p5dist.prepare.attribute_kinds.kind import AttributeKind


class Text(AttributeKind):
    """For people to read, not for models: it is kept as it is."""

    kind: str = "text"

    for_models: ClassVar[bool] = False
