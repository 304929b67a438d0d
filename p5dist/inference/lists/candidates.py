"""The items that may be listed: lists of ids, rules about attributes; and what every item's
popularity costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.events import nearest
from p5dist.data.jagged import Bools, Ints
from p5dist.errors import DataError
from p5dist.inference.items import ItemIds
from p5dist.inference.lists.id_files import read_ids
from p5dist.prepare.arrays import one_array
from p5dist.storage import Folder

if TYPE_CHECKING:
    from p5dist.ranking.topk import Lists

Rules = Mapping[str, str | Sequence[str]]
_SHOWN = 5


@dataclass(frozen=True)
class Candidates:
    """The items that may be listed."""

    may: Bools
    """[largest id] whether the id is a candidate."""
    of: int
    """Ids that an item has."""
    unknown: dict[str, int]
    """By list of ids, the number of ids that no item has."""
    rules: tuple[str, ...]
    """What leaves items out, in words."""

    @property
    def number(self) -> int:
        """Items that may be listed."""
        return int(self.may.sum())

    def offset(self, count: Ints, penalty: float) -> npt.NDArray[np.float32] | None:
        """[largest id] what is added to the score of each item: -penalty · ln(1 + training
        interactions), or -inf if the item may not be listed. None: nothing is added.

        Args:
            count: [largest id] training interactions.
        """
        if not penalty and not self.rules:
            return None
        cost = penalty * np.log1p(np.asarray(count, dtype=np.float64))
        found: npt.NDArray[np.float32] = np.where(self.may, -cost, -np.inf).astype(np.float32)
        return found

    def popular(self, count: Ints, k: int) -> Ints:
        """[k or fewer] the candidates with the most training interactions; of equal ones, the lower
        id comes first."""
        ids = np.flatnonzero(self.may) + 1
        found: Ints = ids[np.argsort(-np.asarray(count)[ids - 1], kind="stable")[:k]]
        return found

    def in_words(self) -> str:
        """``1,200 of 1,682 items (stock: 3 unknown; where genre)``"""
        why = [
            name + (f": {self.unknown[name]:,} unknown" if self.unknown.get(name) else "")
            for name in self.rules
        ]
        return f"{self.number:,} of {self.of:,} items" + (f" ({'; '.join(why)})" if why else "")


def choose(
    items: ItemIds,
    prepare: Folder,
    *,
    allow: Mapping[str, pa.StringArray] | None = None,
    deny: Mapping[str, pa.StringArray] | None = None,
    where: Rules | None = None,
    not_where: Rules | None = None,
    section: str = "",
) -> Candidates:
    """The items that every list of ``allow`` has, that no list of ``deny`` has, that have a value
    of every attribute in ``where`` and none of ``not_where``.

    Args:
        items: of the run.
        prepare: the prepared data of the run.
        allow, deny: external ids by name of the list.
        section: before the names, in messages: ``recommend.`` in a job file.

    Raises:
        DataError: an attribute has no such value; no item is left.
    """
    may = np.ones(items.catalogue.largest, dtype=bool)
    may[items.catalogue.absent - 1] = False
    unknown, rules = {}, []
    for lists, kept in ((allow or {}, True), (deny or {}, False)):
        for name, external in lists.items():
            ids = items.of_text(external)
            unknown[name] = int((ids == 0).sum())
            named = np.zeros(len(may) + 1, dtype=bool)
            named[ids] = True
            may &= named[1:] if kept else ~named[1:]
            rules.append(name)
    for rule, wanted, kept in (("where", where, True), ("not_where", not_where, False)):
        for attribute, values in (wanted or {}).items():
            has = _having(prepare, attribute, values, f"{section}{rule}.{attribute}")
            may &= has if kept else ~has
            rules.append(f"{rule} {attribute}")
    found = Candidates(may, len(items.catalogue), unknown, tuple(rules))
    if not found.number:
        raise DataError(
            "no item is left to list", where=section.removesuffix(".") or "recommend()",
            value=found.in_words(), rule="at least one item must pass every list and rule",
            fix="correct the lists of items, or remove a rule",
        )  # fmt: skip
    return found


def choose_by_job(job: RunConfig, items: ItemIds, prepare: Folder) -> Candidates:
    """:func:`choose` by the section ``recommend`` of a job; reads its files.

    Raises:
        DataError: as :func:`choose`; a file that cannot be read, or has no ids.
    """
    section = job.recommend
    assert section is not None
    names = [job.prepare.source.columns.item, c.ITEM_ID]
    if job.prepare.items is not None:
        names.insert(1, job.prepare.items.id)
    read = {
        name: read_ids(files, f"recommend.{name}", names)
        for name in ("allow", "stock", "deny")
        if (files := getattr(section, name)) is not None
    }
    return choose(
        items, prepare,
        allow={name: ids for name, ids in read.items() if name != "deny"},
        deny={name: ids for name, ids in read.items() if name == "deny"},
        where=section.where, not_where=section.not_where, section="recommend.",
    )  # fmt: skip


def fill_with_popular(lists: Lists, lengths: Ints, popular: Ints) -> None:
    """Replace the lists of empty histories by the most popular items, with scores NaN.

    Args:
        lengths: [B] interactions of each history.
        popular: ids, no more than a list is long.
    """
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        lists.ids[empty] = 0
        lists.ids[empty, : len(popular)] = popular
        lists.scores[empty] = np.nan


def check_values(job: RunConfig, prepare: Folder) -> None:
    """Raise DataError if a rule about attributes names a value that no item has."""
    section = job.recommend
    for rule in ("where", "not_where"):
        for attribute, values in getattr(section, rule, {}).items():
            _codes(prepare, attribute, values, f"recommend.{rule}.{attribute}")


def _codes(prepare: Folder, attribute: str, values: str | Sequence[str], where: str) -> Ints:
    """[n] ids of attribute values."""
    wanted = [values] if isinstance(values, str) else list(values)
    file = prepare / f"vocabulary/item.{attribute}.parquet"
    if not file.exists():
        raise DataError(
            "the items have no such attribute", where=where, value=attribute,
            rule="an attribute of prepare.items.attributes with values that models can read",
            fix=f"correct {where}",
        )  # fmt: skip
    table = file.read_table([c.ID, c.EXTERNAL_ID])
    known = one_array(table[c.EXTERNAL_ID])
    place = np.asarray(pc.fill_null(pc.index_in(pa.array(wanted, pa.string()), known), -1))
    if (place < 0).any():
        missing = wanted[int(np.flatnonzero(place < 0)[0])]
        near = nearest(missing, known.to_pylist())
        shown = ", ".join(known.slice(0, _SHOWN).to_pylist())
        raise DataError(
            "no item has this attribute value", where=where, value=missing,
            rule=f"the {len(known):,} values of '{attribute}': {shown}"
            + (" …" if len(known) > _SHOWN else ""),
            fix=f"did you mean '{near}'?" if near else f"correct {where}",
        )  # fmt: skip
    ids: Ints = table[c.ID].to_numpy()[place]
    return ids


def _having(prepare: Folder, attribute: str, values: str | Sequence[str], where: str) -> Bools:
    """[largest id] whether an item has one of the values of an attribute."""
    wanted = _codes(prepare, attribute, values, where)
    lists = one_array((prepare / "attributes/item.parquet").read_table([attribute])[attribute])
    flat = np.isin(np.asarray(lists.flatten()), wanted)
    owner = np.asarray(pc.list_parent_indices(lists))
    found = np.zeros(len(lists), dtype=bool)
    found[owner[flat]] = True
    return found
