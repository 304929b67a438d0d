"""The words of a text."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from p5dist.prepare.attribute_kinds.kind import AttributeKind
from p5dist.prepare.values import as_text

_BETWEEN_WORDS = r"[^\p{L}\p{M}\p{N}]+"


class Words(AttributeKind):
    """Runs of letters and digits, in lower case."""

    kind: str = "words"

    def split(self, column: pa.Array) -> pa.Array:
        return pc.split_pattern_regex(pc.utf8_lower(as_text(column)), _BETWEEN_WORDS)
