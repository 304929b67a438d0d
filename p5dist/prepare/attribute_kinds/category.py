"""A category."""

from __future__ import annotations

from typing import ClassVar

from p5dist.prepare.attribute_kinds.kind import AttributeKind
from p5dist.prepare.column_types import Role


class Category(AttributeKind):
    """One value, as it is written; several where the column holds lists."""

    kind: str = "category"

    role: ClassVar[Role] = "labels"
    for_context: ClassVar[bool] = True
