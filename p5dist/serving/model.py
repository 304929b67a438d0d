"""A run that answers many requests at once, and that another run can take the place of."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pydantic import ValidationError
from pydantic_core import to_json

from p5dist.data import columns as c
from p5dist.environment.heap import FreeMemory
from p5dist.errors import P5Error
from p5dist.inference.loading import load
from p5dist.inference.run import Run
from p5dist.serving.replies import Reply, not_answered, not_valid
from p5dist.serving.schema import Health, History, RecommendRequest, ScoreRequest


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
        self._place, self._run = run, _ready(run, stage)
        self._lock, self._memory = threading.Lock(), FreeMemory()

    def swap(self, run: str, stage: str | None = None) -> None:
        """Load another run beside this one, then answer with it; requests that are being answered
        keep the run they began with. If it cannot be loaded, nothing changes."""
        found = _ready(run, stage)
        with self._lock:
            self._place, self._run = run, found

    def health(self) -> Health:
        """What is served."""
        run = self._run
        return Health(run=self._place, stage=run.stage, items=run.number_of_items)

    def recommend(self, bodies: Sequence[bytes]) -> list[Reply]:
        """A reply to each :class:`.schema.RecommendRequest`; those with equal rules are ranked
        together. A request that breaks a rule is told so, and the others get their lists."""
        replies: dict[int, Reply] = {}
        alike: dict[str, list[tuple[int, RecommendRequest]]] = defaultdict(list)
        for number, body in enumerate(bodies):
            try:
                request = RecommendRequest.model_validate_json(body)
                alike[request.rules()].append((number, request))
            except ValidationError as e:
                replies[number] = not_valid(e)
        with self._lock:
            self._memory.look()
            for asked in alike.values():
                found = self._together([request for _, request in asked])
                replies |= zip([number for number, _ in asked], found, strict=True)
        return [replies[number] for number in range(len(bodies))]

    def _together(self, requests: list[RecommendRequest]) -> list[Reply]:
        histories = [history for request in requests for history in request.histories]
        try:
            table = _recommended(self._run, histories, requests[0])
        except P5Error as e:
            if len(requests) == 1:
                return [not_answered(e)]
            return [self._together([request])[0] for request in requests]
        lists = _lists(table, len(histories))
        replies = []
        for request in requests:
            number = len(request.histories)
            replies.append(self._reply("lists", lists[:number]))
            lists = lists[number:]
        return replies

    def score(self, body: bytes) -> Reply:
        """A reply to a :class:`.schema.ScoreRequest`, see :meth:`.run.Run.score`."""
        try:
            request = ScoreRequest.model_validate_json(body)
        except ValidationError as e:
            return not_valid(e)
        given = _given(request.histories)
        with self._lock:
            self._memory.look()
            try:
                table = self._run.score(
                    given.pop("histories"), request.items, task=request.task, at=request.at,
                    unknown=request.unknown, **given,
                )  # fmt: skip
            except P5Error as e:
                return not_answered(e)
            found: list[list[float]] = [[] for _ in request.histories]
            for owner, score in zip(
                table["history"].to_pylist(), table[c.SCORE].to_pylist(), strict=True
            ):
                found[owner].append(score)
            return self._reply("scores", found)

    def _reply(self, name: str, found: Any) -> Reply:
        """See :class:`.schema.RecommendAnswer` and :class:`.schema.ScoreAnswer`."""
        return Reply(200, to_json({"run": self._place, name: found}, inf_nan_mode="null"))


def _ready(place: str, stage: str | None) -> Run:
    """A run that has read all that an answer needs."""
    run = load(place, stage=stage)
    if run.stage is not None:
        run.recommend([[]], 1, times=[[]], events=[[]], ratings=[[]])
    return run


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


def _lists(table: pa.Table, number: int) -> list[list[dict[str, Any]]]:
    """Each a :class:`.schema.Item`; a score that is not a number becomes null."""
    found: list[list[dict[str, Any]]] = [[] for _ in range(number)]
    names = [c.ITEM_ID, c.TITLE, c.SCORE]
    if c.REASONS in table.column_names:
        names += [c.REASONS, c.ATTRIBUTES]
    columns = [table[name].to_pylist() for name in names]
    for owner, *values in zip(table["history"].to_pylist(), *columns, strict=True):
        found[owner].append(dict(zip(names, values, strict=True)))
    return found
