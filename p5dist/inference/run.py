"""A finished run in Python: recommend, score, similar items, vectors, metrics."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints, Jagged
from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError, DataError, RunFolderError
from p5dist.inference.attributed import AttributeVectors
from p5dist.inference.explain import Explainer
from p5dist.inference.fitting import mixes, mixture_of, read_fitted
from p5dist.inference.given import (
    Lists,
    check_k,
    check_lists,
    given_histories,
    given_times,
)
from p5dist.inference.items import Id, Items, id_text, known_items
from p5dist.inference.lists.candidates import Rules
from p5dist.inference.lists.given import AT_ONCE, GivenRules, given_lists
from p5dist.inference.lookup import Lookup
from p5dist.inference.mixing import decided_here
from p5dist.inference.rankers import Rankers
from p5dist.inference.scorer import Scorer, load_scorer
from p5dist.inference.vectors import Trained
from p5dist.prepare.arrays import one_array
from p5dist.ranking.mixture import Mixture
from p5dist.ranking.products import HeldItems, rank_products
from p5dist.ranking.tiles import Query
from p5dist.storage import RunFolder

_NONE = np.zeros(0, dtype=np.int64)
_RULES = 8
"""Rules that are kept for further calls."""
SKIPPED, EMPTY = b"p5dist.interactions_skipped", b"p5dist.histories_without_items"
"""Metadata keys of the table that :meth:`Run.recommend` returns."""


@dataclass(frozen=True)
class Vectors:
    """Vectors by external id."""

    ids: list[str]
    """[n]"""
    values: npt.NDArray[np.float32]
    """[n, dim]"""


class Run:
    """A run whose training is complete; made by :func:`.loading.load`. Needs no Ray.

    Attributes:
        job: the job of the run.
        stage: the training stage whose model ranks; None if no stage ranks.
    """

    def __init__(self, job: RunConfig, folder: RunFolder, stage: str | None) -> None:
        self.job, self.stage = job, stage
        self._folder = folder
        self._manifest = Manifest.load(folder.prepare)
        self._scorers: dict[str, Scorer] = {}
        self._repeated: dict[str, GivenRules] = {}
        for name in [stage] if stage else [s for s, _ in job.predicting_tasks().values()][:1]:
            self._scorer(name)  # raises at once if there is no checkpoint

    def __repr__(self) -> str:
        return f"<p5dist run {self.job.name}: {len(self._items):,} items, ranks by {self.stage}>"

    @property
    def number_of_items(self) -> int:
        """Items of the catalogue."""
        return len(self._items)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the evaluation by name, such as ``ndcg@10``; an unknown name is a
        ConfigError.

        Raises:
            RunFolderError: the run was not evaluated.
        """
        found = self.evaluation["metrics"]
        return _Metrics({name: metric["value"] for name, metric in found.items()})

    @property
    def evaluation(self) -> dict[str, Any]:
        """The content of evaluate/result.json: metrics with intervals, baselines, protocol.

        Raises:
            RunFolderError: the run was not evaluated.
        """
        file = self._folder.evaluate / "result.json"
        if not file.exists():
            raise RunFolderError(
                "the run was not evaluated", where=str(file),
                fix=f"p5dist run {self._folder.job} evaluate",
            )  # fmt: skip
        found: dict[str, Any] = file.read_json()
        return found

    def recommend(
        self,
        histories: Sequence[Sequence[Id]],
        k: int = 10,
        *,
        times: Lists | None = None,
        events: Lists | None = None,
        ratings: Lists | None = None,
        users: Sequence[Id | None] | None = None,
        mask_seen: bool = True,
        unknown: Literal["error", "skip"] = "error",
        allow: Sequence[Id] | None = None,
        deny: Sequence[Id] | None = None,
        where: Rules | None = None,
        not_where: Rules | None = None,
        popularity_penalty: float = 0.0,
        diversity: float = 0.0,
        candidates: int | None = None,
        explain: int | None = None,
    ) -> pa.Table:
        """The best ``k`` items for each of B histories, exactly over the whole catalogue.

        Args:
            histories: external item ids, the oldest interaction first. An empty history gets the
                most popular items, with the score NaN.
            k: items of a list; fewer if fewer may be listed.
            times: time of every interaction: seconds since 1970, datetime or ISO 8601. Needed if
                the model reads times.
            events: event name of every interaction. Needed if the model reads events.
            ratings: rating of every interaction. Needed if the model reads ratings.
            users: external user ids, used if the model reads user ids or attributes; an unknown id
                or None is a user about whom nothing is known.
            mask_seen: do not list items of the history.
            unknown: whether items that the run does not know are an error, or left out with a
                warning.
            allow, deny, where, not_where, popularity_penalty, diversity, candidates, explain: as in
                the section ``recommend`` of the job file, with ids instead of files.

        Returns:
            Columns ``history`` (int64, from 0), ``rank`` (from 1), ``item_id``, ``title`` (null
            without a title) and ``score``; rows by history, then rank. With ``explain`` also
            ``reasons``, for each item the interactions without which it would be less likely, as
            ``item_id`` and ``share``; ``counted``, the share of counts in the probability of the
            item; and ``attributes``, as ``attribute`` and ``share``, those that add to its score.
            The metadata counts
            ``p5dist.interactions_skipped`` and ``p5dist.histories_without_items``, and, if items
            are filtered, ``p5dist.candidate_items`` and ``p5dist.unknown_filter_ids``.

        Raises:
            ConfigError: no stage of the run ranks items; a setting breaks a rule.
            DataError: an unknown item or event, times that decrease, a column that the model reads
                and that is not given; an attribute has no such value; no item is left to list.
        """
        check_k(k)
        rules = self._rules(
            k=k, mask_seen=mask_seen, allow=allow, deny=deny, where=where, not_where=not_where,
            popularity_penalty=popularity_penalty, diversity=diversity, candidates=candidates,
            explain=explain,
        )  # fmt: skip
        given, skipped = self._given(
            histories, times=times, events=events, ratings=ratings, users=users, unknown=unknown
        )
        table = given_lists(
            self._items, self._rankers, given, rules, self._explainer if explain else None
        )
        empty = int((given.lengths == 0).sum())
        counts = {SKIPPED: str(skipped), EMPTY: str(empty), **rules.metadata}
        return table.replace_schema_metadata(counts)

    def score(
        self,
        histories: Sequence[Sequence[Id]],
        items: Sequence[Sequence[Id]],
        *,
        task: str | None = None,
        at: Sequence[Any] | None = None,
        times: Lists | None = None,
        events: Lists | None = None,
        ratings: Lists | None = None,
        users: Sequence[Id | None] | None = None,
        unknown: Literal["error", "skip"] = "error",
    ) -> pa.Table:
        """Predictions of a task (ratings, probabilities) for given items.

        Args:
            histories, times, events, ratings, users, unknown: as in :meth:`recommend`.
            items: external ids of the items to predict for, one list per history.
            task: path of the task, such as ``finetune/rating``; left out: the last predicting task.
            at: [B] time of the prediction; left out: the time of the last interaction.

        Returns:
            Columns ``history`` (from 0), ``item_id`` and ``score``, in the order of ``items``.

        Raises:
            ConfigError: no such task.
            DataError: as :meth:`recommend`; an unknown item.
        """
        paths = self.job.predicting_tasks()
        path = task or next(reversed(paths), None)
        if path not in paths:
            raise ConfigError(
                "no such task" if task else "no task of this run predicts", where="task",
                value=task, rule=f"the tasks of this run: {', '.join(paths) or 'none'}",
                fix="name one of them" if paths else "recommend() ranks items",
            )  # fmt: skip
        given, _ = self._given(
            histories, times=times, events=events, ratings=ratings, users=users, unknown=unknown
        )
        check_lists(items, "items")
        if len(items) != len(given):
            raise DataError(
                "items and histories have different lengths", where="items", value=len(items),
                rule=f"one list for each of {len(given)} histories", fix="correct items",
            )  # fmt: skip
        owner = np.repeat(np.arange(len(items)), [len(own) for own in items]).astype(np.int64)
        flat = [item for own in items for item in own]
        ids = known_items(self._items, flat, "items")
        last = np.zeros(len(given), dtype=np.int64)
        filled = given.lengths > 0
        last[filled] = given.timestamp[given.offsets[1:][filled] - 1]
        if at is not None:
            last = given_times(at, len(given))
        stage, name = paths[path]
        predicted = self._scorer(stage).predict(name, given, owner, ids, last[owner])
        names = pa.array(map(id_text, flat), pa.string())
        return pa.table({"history": owner, c.ITEM_ID: names, c.SCORE: predicted})

    def similar_items(self, items: Sequence[Id], k: int = 10) -> pa.Table:
        """The items whose vectors have the largest cosine with the vector of each given item.

        Returns:
            Columns ``item_id``, ``rank`` (from 1), ``similar_id``, ``title`` and ``score`` (the
            cosine).

        Raises:
            DataError: an item that the run does not know, or that has no vector.
        """
        check_k(k)
        ids = self._with_vectors(items, "items")
        normed = torch.nn.functional.normalize(self._item_vectors, dim=1, eps=1e-12)
        without = np.flatnonzero(~self._items.has_vector) + 1
        candidates = HeldItems(normed, Catalogue(len(normed), without))
        itself = Jagged(np.arange(len(ids) + 1), ids)
        query = Query(normed[torch.from_numpy(ids - 1)], _NONE, _NONE, itself)
        ((_, found),) = rank_products([query], candidates, k, targets=False)[0]
        row, column = np.nonzero(found.ids > 0)
        listed = pa.array(found.ids[row, column] - 1)
        asked = pa.array(map(id_text, items), pa.string())
        return pa.table(
            {
                c.ITEM_ID: asked.take(pa.array(row)),
                c.RANK: (column + 1).astype(np.int32),
                "similar_id": self._items.external.take(listed),
                c.TITLE: self._items.titles_at(listed),
                c.SCORE: found.scores[row, column],
            }
        )

    def item_vectors(self, items: Sequence[Id] | None = None) -> Vectors:
        """Vectors of items; the model's score of an item for a user is the inner product of item
        and user vector.

        Args:
            items: external ids; left out: all items that have a vector.

        Raises:
            DataError: an item that the run does not know, or that has no vector: training has
                never seen the item and it has no attributes.
        """
        if items is None:
            ids = np.flatnonzero(self._items.has_vector) + 1
        else:
            ids = self._with_vectors(items, "items")
        names = self._items.external.take(pa.array(ids - 1)).to_pylist()
        if items is not None:
            names = [id_text(item) for item in items]
        return Vectors(names, self._item_vectors[torch.from_numpy(ids - 1)].numpy())

    def user_vectors(
        self,
        histories: Sequence[Sequence[Id]],
        *,
        times: Lists | None = None,
        events: Lists | None = None,
        ratings: Lists | None = None,
        users: Sequence[Id | None] | None = None,
        unknown: Literal["error", "skip"] = "error",
    ) -> npt.NDArray[np.float32]:
        """[B, dim] vectors of histories, whose inner products with item vectors are the model's
        scores; for an empty history zero (a masked model: the vector of a history without
        interactions). Arguments and errors as in :meth:`recommend`."""
        given, _ = self._given(
            histories, times=times, events=events, ratings=ratings, users=users, unknown=unknown
        )
        scorer = self._scorer(self.ranking_stage)
        parts = [
            scorer.user_vectors(given.between(begin, min(begin + AT_ONCE, len(given))))
            for begin in range(0, max(len(given), 1), AT_ONCE)
        ]
        vectors: npt.NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        return vectors

    def _given(
        self,
        histories: Sequence[Sequence[Id]],
        *,
        times: Lists | None,
        events: Lists | None,
        ratings: Lists | None,
        users: Sequence[Id | None] | None,
        unknown: Literal["error", "skip"],
    ) -> tuple[Histories, int]:
        check_lists(histories, "histories")
        numbers = self._user_ids(users, len(histories))
        given, skipped = given_histories(
            self.job, self._manifest, self._items, histories, times=times, events=events,
            ratings=ratings, users=numbers, unknown=unknown,
        )  # fmt: skip
        if skipped:
            warnings.warn(
                f"{skipped:,} interactions with items that the run does not know are left out",
                stacklevel=3,
            )
        return given, skipped

    def _user_ids(self, users: Sequence[Id | None] | None, number: int) -> Ints:
        if users is None:
            return np.zeros(number, dtype=np.int64)
        if len(users) != number:
            raise DataError(
                "users and histories have different lengths", where="users", value=len(users),
                rule=f"one user for each of {number} histories", fix="correct users",
            )  # fmt: skip
        text = pa.array([None if user is None else id_text(user) for user in users], pa.string())
        return self._users(text) + 1

    def _with_vectors(self, items: Sequence[Id], where: str) -> Ints:
        if isinstance(items, str | bytes):
            raise DataError(
                f"{where} must be a list of item ids", where=where, value=repr(items),
                rule="a list of external ids", fix=f"{where}=[{items!r}]",
            )  # fmt: skip
        ids = known_items(self._items, items, where)
        without = np.flatnonzero(~self._items.has_vector[ids - 1])
        if len(without):
            raise DataError(
                "the run has no vector of an item", where=where,
                value=", ".join(repr(items[i]) for i in without[:5]),
                rule="a vector needs training interactions, or attributes that the model reads",
                fix="leave the item out, or add item attributes: model.item_attributes",
            )  # fmt: skip
        return ids

    def _rules(self, **given: Any) -> GivenRules:
        """Made once for rules that calls repeat: whole columns of the catalogue are read for
        them."""
        try:
            name = json.dumps(given)
        except (TypeError, ValueError):  # an array, or a wrong value
            return GivenRules.of(self._items, self._folder.prepare, **given)
        if name not in self._repeated:
            while len(self._repeated) >= _RULES:
                del self._repeated[next(iter(self._repeated))]
            self._repeated[name] = GivenRules.of(self._items, self._folder.prepare, **given)
        return self._repeated[name]

    @cached_property
    def _items(self) -> Items:
        return Items.read(self.job, self._folder.prepare, self._manifest)

    @cached_property
    def _users(self) -> Lookup:
        file = self._folder.prepare / "vocabulary/user.parquet"
        return Lookup(one_array(file.read_table([c.EXTERNAL_ID])[c.EXTERNAL_ID]))

    @cached_property
    def _item_vectors(self) -> torch.Tensor:
        return self._scorer(self.ranking_stage).item_vectors().cpu()

    @cached_property
    def _mixture(self) -> Mixture | None:
        stage = self.ranking_stage
        job = decided_here(self.job, self._folder, self._manifest, stage, self._scorer(stage))
        if not mixes(job):
            return None
        return mixture_of(job, read_fitted(job, self._folder, self._manifest))

    @cached_property
    def _rankers(self) -> Rankers:
        return Rankers(self.job.ranking, self._scorer(self.ranking_stage), self._mixture)

    @cached_property
    def _explainer(self) -> Explainer:
        stage = self.ranking_stage
        attributes = AttributeVectors.of(Trained(self.job, self._folder, stage))
        return Explainer.of(self.job.ranking, self._scorer(stage), self._mixture, attributes)

    @property
    def ranking_stage(self) -> str:
        """The training stage whose model ranks.

        Raises:
            ConfigError: no stage of the run ranks items.
        """
        if self.stage is None:
            raise ConfigError(
                "no stage of this run ranks items", where=str(self._folder.root),
                rule=f"its stages: {', '.join(self.job.trainings())}",
                fix="score() predicts for given items",
            )  # fmt: skip
        return self.stage

    def _scorer(self, stage: str) -> Scorer:
        if stage not in self._scorers:
            self._scorers[stage] = load_scorer(self.job, self._folder, stage)
        return self._scorers[stage]


class _Metrics(dict[str, float]):
    """Metrics by name."""

    def __missing__(self, name: object) -> float:
        raise ConfigError(
            "the evaluation has no such metric", where="metrics", value=name,
            rule=f"it has: {', '.join(self)}", fix="name one of them; evaluate.k adds lengths",
        )  # fmt: skip
