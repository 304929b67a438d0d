"""Lists in Python: for histories, and by rules, that a caller gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import ValidationError

from p5dist.config.recommend import Recommend
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints, Jagged
from p5dist.errors import ConfigError, DataError
from p5dist.inference.explain import Explainer, reason_columns
from p5dist.inference.items import Id, Items, id_text
from p5dist.inference.lists.candidates import Candidates, Rules, choose, fill_with_popular
from p5dist.inference.rankers import MODEL, ListRules, Rankers, Request
from p5dist.ranking.topk import Lists
from p5dist.storage import Folder

AT_ONCE = 1024
"""Histories that are encoded at once."""


@dataclass(frozen=True)
class GivenRules:
    """How lists are made, see the section ``recommend`` of the job file."""

    section: Recommend
    ranking: ListRules
    popular: Ints
    """[k or fewer] ids for histories without an item."""
    metadata: dict[bytes, str]
    """Of the table, if items are filtered."""

    @classmethod
    def of(
        cls,
        items: Items,
        prepare: Folder,
        k: int,
        *,
        allow: Sequence[Id] | None,
        deny: Sequence[Id] | None,
        where: Rules | None,
        not_where: Rules | None,
        **settings: Any,
    ) -> GivenRules:
        """
        Args:
            settings: others of the section.

        Raises:
            ConfigError: a setting breaks a rule.
            DataError: see :func:`.candidates.choose`.
        """
        section = _section(k=k, where=where or {}, not_where=not_where or {}, **settings)
        found = choose(
            items, prepare, allow=_texts("allow", allow), deny=_texts("deny", deny),
            where=section.where, not_where=section.not_where,
        )  # fmt: skip
        offset = found.offset(items.count, section.popularity_penalty)
        return cls(
            section,
            ListRules(
                None if offset is None else torch.from_numpy(offset),
                section.diversity, section.depth,
            ),
            found.popular(items.count, k),
            _metadata(found) if found.rules else {},
        )  # fmt: skip


def _section(**settings: Any) -> Recommend:
    settings = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in settings.items()
    }
    try:
        return Recommend.model_validate(settings)
    except ValidationError as e:
        first = e.errors()[0]
        name = ".".join(map(str, first["loc"])) or "candidates"
        raise ConfigError(
            "a setting of recommend() breaks a rule", where=name, value=repr(first["input"]),
            rule=first["msg"].removeprefix("Value error, "), fix=f"correct {name}",
        ) from None  # fmt: skip


def _texts(name: str, ids: Sequence[Id] | None) -> dict[str, pa.StringArray]:
    if ids is None:
        return {}
    if isinstance(ids, str | bytes):
        raise DataError(
            f"{name} must be a list of item ids", where=name, value=repr(ids),
            rule="a list of external ids", fix=f"{name}=[{ids!r}]",
        )  # fmt: skip
    return {name: pa.array(list(dict.fromkeys(map(id_text, ids))), pa.string())}


def _metadata(found: Candidates) -> dict[bytes, str]:
    return {
        b"p5dist.candidate_items": str(found.number),
        b"p5dist.unknown_filter_ids": str(sum(found.unknown.values())),
    }


def given_lists(
    items: Items,
    rankers: Rankers,
    histories: Histories,
    rules: GivenRules,
    explainer: Explainer | None,
) -> pa.Table:
    """Columns ``history`` (from 0), rank, item id, title, score, and with an explainer reasons; see
    :meth:`.run.Run.recommend`."""
    columns = [*(c.RECOMMENDATION if explainer is None else c.EXPLAINED)][1:]
    tables = [pa.schema([("history", pa.int64()), *columns]).empty_table()]
    k = rules.section.k
    for begin in range(0, len(histories), AT_ONCE):
        part = histories.between(begin, min(begin + AT_ONCE, len(histories)))
        seen = Jagged(part.offsets, part.item) if rules.section.mask_seen else None
        (ranked,) = rankers([Request(part, seen)], k, rules.ranking)
        lists = ranked[MODEL][1]
        fill_with_popular(lists, part.lengths, rules.popular)
        table = _table(items, lists, begin)
        if explainer is not None:
            assert rules.section.explain is not None
            names, reasons = items.external, explainer(part, lists.ids)
            made = reason_columns(reasons, part, lists.ids > 0, names, rules.section.explain)
            for name, column in zip((c.REASONS, c.COUNTED, c.ATTRIBUTES), made, strict=True):
                table = table.append_column(name, column)
        tables.append(table)
    return pa.concat_tables(tables)


def _table(items: Items, lists: Lists, first: int) -> pa.Table:
    listed = lists.ids > 0
    row, column = np.nonzero(listed)
    index = pa.array(lists.ids[listed] - 1)
    return pa.table(
        {
            "history": first + row,
            c.RANK: (column + 1).astype(np.int32),
            c.ITEM_ID: items.external.take(index),
            c.TITLE: items.titles_at(index),
            c.SCORE: lists.scores[listed],
        }
    )
