"""An attribute kind: the domain of an address."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from p5dist.prepare.attribute_kinds.kind import AttributeKind

_ADDRESS = r"^(?:[a-z][a-z0-9+.-]*://)?(?:[^/@]*@)?(?:www\.)?(?P<domain>[^/:?#]+)"


class Domain(AttributeKind):
    """``https://www.shop.example/hats?page=2`` is shop.example."""

    for_context = True

    def label(self, values: pa.Array) -> pa.StringArray:
        address = pc.utf8_lower(super().label(values))
        return pc.struct_field(pc.extract_regex(address, _ADDRESS), "domain")
