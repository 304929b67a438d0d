"""A run that answers many requests at once, and that another run can take the place of."""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from p5dist.data import columns as c
from p5dist.environment.heap import FreeMemory
from p5dist.errors import P5Error
from p5dist.inference.loading import load
from p5dist.inference.run import Run
from p5dist.serving.schema import (
    Health,
    History,
    Item,
    Reason,
    RecommendAnswer,
    RecommendRequest,
    ScoreAnswer,
    ScoreRequest,
)


class Model:
    """Answers with the run that was loaded last. Methods may be called from several threads; one
    computes at a time.

    Args:
        run: folder or URL.
        stage: as of :func:`.loading.load`.

    Raises:
        P5Error: see :func:`.loading.load`.
    """

    def __init__(self, run: str, stage: str | None = None) -> None:
        self._place, self._run = run, load(run, stage=stage)
        self._lock, self._memory = threading.Lock(), FreeMemory()

    def swap(self, run: str, stage: str | None = None) -> None:
        """Load another run beside this one, then answer with it; requests that are being answered
        keep the run they began with. If it cannot be loaded, nothing changes."""
        found = load(run, stage=stage)
        with self._lock:
            self._place, self._run = run, found

    def health(self) -> Health:
        """What is served."""
        run = self._run
        return Health(run=self._place, stage=run.stage, items=run.number_of_items)

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[RecommendAnswer | P5Error]:
        """An answer for each request; those with equal rules are ranked together. A request that
        breaks a rule gets the error, and the others their answers."""
        with self._lock:
            self._memory.look()
            answers: list[RecommendAnswer | P5Error | None] = [None] * len(requests)
            alike: dict[str, list[int]] = defaultdict(list)
            for number, request in enumerate(requests):
                alike[request.rules()].append(number)
            for numbers in alike.values():
                found = self._together([requests[n] for n in numbers])
                for number, answer in zip(numbers, found, strict=True):
                    answers[number] = answer
            return [answer for answer in answers if answer is not None]

    def _together(self, requests: list[RecommendRequest]) -> list[RecommendAnswer | P5Error]:
        histories = [history for request in requests for history in request.histories]
        try:
            table = _recommended(self._run, histories, requests[0])
        except P5Error as e:
            if len(requests) == 1:
                return [e]
            return [self._together([request])[0] for request in requests]
        lists = _lists(table, len(histories))
        answers: list[RecommendAnswer | P5Error] = []
        for request in requests:
            number = len(request.histories)
            answers.append(RecommendAnswer(run=self._place, lists=lists[:number]))
            lists = lists[number:]
        return answers

    def score(self, request: ScoreRequest) -> ScoreAnswer:
        """See :meth:`.run.Run.score`.

        Raises:
            P5Error: as there.
        """
        with self._lock:
            given = _given(request.histories)
            table = self._run.score(
                given.pop("histories"), request.items, task=request.task, at=request.at,
                unknown=request.unknown, **given,
            )  # fmt: skip
            found: list[list[float]] = [[] for _ in request.histories]
            for owner, score in zip(
                table["history"].to_pylist(), table[c.SCORE].to_pylist(), strict=True
            ):
                found[owner].append(score)
            return ScoreAnswer(run=self._place, scores=found)


def _recommended(run: Run, histories: list[History], rules: RecommendRequest) -> pa.Table:
    given = _given(histories)
    return run.recommend(
        given.pop("histories"), rules.k, mask_seen=rules.mask_seen, unknown=rules.unknown,
        allow=rules.allow, deny=rules.deny, where=_rules(rules.where),
        not_where=_rules(rules.not_where), popularity_penalty=rules.popularity_penalty,
        diversity=rules.diversity, explain=rules.explain, **given,
    )  # fmt: skip


def _rules(given: dict[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    return {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}


def _given(histories: list[History]) -> dict[str, Any]:
    """The arguments of the Python API; a column is given if any history has it."""
    found: dict[str, Any] = {"histories": [history.items for history in histories]}
    for name in ("times", "events", "ratings"):
        if any(getattr(history, name) is not None for history in histories):
            found[name] = [getattr(history, name) or [] for history in histories]
    if any(history.user is not None for history in histories):
        found["users"] = [history.user for history in histories]
    return found


def _lists(table: pa.Table, number: int) -> list[list[Item]]:
    found: list[list[Item]] = [[] for _ in range(number)]
    explained = c.REASONS in table.column_names
    for row in table.to_pylist():
        score = row[c.SCORE]
        reasons = [Reason(**reason) for reason in row[c.REASONS]] if explained else None
        found[row["history"]].append(
            Item(
                item_id=row[c.ITEM_ID], title=row[c.TITLE],
                score=None if score is None or math.isnan(score) else score, reasons=reasons,
            )
        )  # fmt: skip
    return found
