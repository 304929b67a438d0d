"""What objectives and tasks want in a batch beside histories and candidates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from p5dist.config.heads import (
    AttributesObjective,
    ClickTask,
    Head,
    MaskedObjective,
    NextItemTask,
    SkipGramObjective,
)
from p5dist.data import columns as c
from p5dist.data.attributes import Attributes
from p5dist.data.labels import AttributeLabels
from p5dist.data.manifest import Manifest
from p5dist.feed.cloze import Cloze
from p5dist.feed.pairs import SkipGrams
from p5dist.feed.unclicked import Unclicked
from p5dist.storage import Folder


@dataclass(frozen=True)
class Extras:
    """Makers of the optional fields of a batch."""

    cloze: Cloze | None = None
    pairs: SkipGrams | None = None
    unclicked: Unclicked | None = None
    labels: AttributeLabels | None = None
    """Attribute values that are predicted."""

    @classmethod
    def of(cls, heads: Iterable[Head], manifest: Manifest, prepare: Folder, seed: int) -> Extras:
        """What ``heads`` want for training."""
        extras = cls()
        for head in heads:
            if isinstance(head, MaskedObjective):
                cloze = Cloze(head.probability, head.last_share, manifest.items, seed)
                extras = replace(extras, cloze=cloze)
            elif isinstance(head, NextItemTask) and head.by == "masked":
                extras = replace(extras, cloze=Cloze(0.0, 1.0, manifest.items, seed))
            elif isinstance(head, SkipGramObjective):
                counts = (prepare / "vocabulary/item.parquet").read_table([c.COUNT])
                pairs = SkipGrams.of(head.window, head.subsample, counts[c.COUNT].to_numpy(), seed)
                extras = replace(extras, pairs=pairs)
            elif isinstance(head, AttributesObjective):
                attributes = Attributes.load(prepare, "item", head.attributes)
                assert attributes is not None
                sizes = tuple(manifest.item_attributes[name] for name in head.attributes)
                extras = replace(extras, labels=AttributeLabels(attributes, sizes))
            elif isinstance(head, ClickTask) and head.negatives:
                unclicked = Unclicked(head.negatives, manifest.items, seed)
                extras = replace(extras, unclicked=unclicked)
        return extras
