"""Random small runs from the log to the lists, and what must hold of each, computed from the log.

::

    python -m tests.end_to_end.random_runs --minutes 60 --first 1
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import torch.distributed as dist

import p5dist
from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest
from p5dist.inference import recommend
from p5dist.inference.evaluate import stage as evaluate
from p5dist.observe.audit import audit
from p5dist.storage import RunFolder
from tests.distributed.stages import run_session
from tests.prepare.reference import exact
from tests.prepare.runs import prepared
from tests.seeds import try_seeds

START = 1_700_000_000
GAP = 50  # seconds between two interactions of a session, at most


@dataclass(frozen=True)
class Event:
    """An interaction of the log."""

    time: int
    item: str
    rating: float
    event: str
    session: int
    split: str = "train"


def random_job(draw: Random, folder: Path) -> RunConfig:
    """A job of random windows, sessions, split, vocabulary, objective, task, masks."""
    sessions = draw.random() < 0.4
    split: dict[str, Any] = draw.choice(
        [
            {"kind": "leave_one_out"},
            {"kind": "leave_one_out", "events": ["buy"]},
            {"kind": "ratio", "test": draw.choice([0.2, 0.29]), "validation": 0.1},
            {"kind": "time", "test": draw.choice([0.2, 0.35]), "validation": 0.1},
        ]
    )
    vocabulary: dict[str, Any] = draw.choice([{"of": "train"}, {"of": "all"}, {"hashed": 40}])
    objective, encoder = draw.choice(
        [
            ({"kind": "causal"}, {"kind": "transformer"}),
            ({"kind": "causal", "loss": {"kind": "sampled_softmax", "negatives": 8}},
             {"kind": "transformer", "time_intervals": True, "positions": "none"}),
            ({"kind": "causal", "loss": {"kind": "gbce", "negatives": 8}}, {"kind": "hstu"}),
            ({"kind": "causal", "loss": {"kind": "sampled_softmax", "negatives": 8,
                                         "distribution": "in_batch"}}, {"kind": "hstu"}),
            ({"kind": "masked"}, {"kind": "transformer"}),
            ({"kind": "skip_gram", "subsample": 0}, {"kind": "mean", "last": 3}),
        ]
    )  # fmt: skip
    tasks: dict[str, Any] = draw.choice(
        [
            {},
            {"next": {"kind": "next_item"}},
            {"stars": {"kind": "rating"}},
            {"buy": {"kind": "click", "positive": ["buy"]}},
            {"like": {"kind": "click", "threshold": 3, "negatives": 2}},
        ]
    )
    training = {
        "batch_size": 16, "epochs": 1, "ledger": True, "checkpoint": {"every": 1000},
        "validation": {"patience": None},
    }  # fmt: skip
    job = {
        "name": "run",
        "storage": str(folder),
        "seed": draw.randrange(1000),
        "prepare": {
            "source": {
                "files": str(folder / "log.csv"),
                "columns": {"user": "u", "item": "i", "timestamp": "t", "rating": "r",
                            "event": "e"},
            },
            "session_gap": GAP if sessions else None,
            "max_length": draw.choice([None, None, 4]),
            "split": split,
            "vocabulary": vocabulary,
            "shards": draw.choice([1, 3]),
            "group_rows": draw.choice([None, 3]),
        },
        "feed": {"lanes": 4, "max_length": draw.choice([5, 12])},
        "model": {
            "dim": 8,
            "encoder": {"dropout": 0.1, **encoder} if encoder["kind"] != "mean" else encoder,
            "inputs": {"rating": draw.random() < 0.3, "user_id": draw.random() < 0.3},
        },
        "pretrain": {**training, "objective": objective},
        "finetune": {
            name: {**training, "task": task, "init_from": "pretrain"}
            for name, task in tasks.items()
        },
        "ranking": {"item_to_item": draw.choice([0.0, 0.0, 0.4])},
        "evaluate": {
            "k": [1, 3, 10], "bootstrap": 0, "mask_seen": draw.random() < 0.7,
            "events": draw.choice([None, None, ["view"]]),
            "targets": draw.choice(["all", "new"]), "split": draw.choice(["test", "validation"]),
            "batch_size": draw.choice([3, 1024]),
        },
        "recommend": {"k": 7, "mask_seen": draw.random() < 0.8},
        "report": None,
        "scale": {"workers": 1},
    }  # fmt: skip
    return RunConfig.model_validate(job)


def write_log(draw: Random, path: Path) -> dict[str, list[Event]]:
    """A log whose rows are all valid and in the order of time; by user, its interactions."""
    items = [f"i{n}" for n in range(draw.randrange(6, 25))]
    users: dict[str, list[Event]] = {}
    for user in range(draw.randrange(12, 30)):
        at, session, events = START + draw.randrange(4000), 0, []
        for _ in range(draw.choice([1, 2, 3, 5, 9, 20])):
            if draw.random() < 0.25:
                at, session = at + GAP + 1 + draw.randrange(1000), session + 1
            at += draw.randrange(1, GAP)
            item = items[min(int(draw.expovariate(0.2)), len(items) - 1)]
            rating = draw.choice([1.0, 2.5, 4.0, 5.0])
            events.append(Event(at, item, rating, draw.choice(["view", "buy"]), session))
        users[f"u{user}"] = events
    rows = sorted((e.time, u, e.item, e.rating, e.event) for u, es in users.items() for e in es)
    lines = [f"{u},{i},{t},{r},{e}\n" for t, u, i, r, e in rows]
    path.write_text("u,i,t,r,e\n" + "".join(lines))
    return users


def split_log(job: RunConfig, users: dict[str, list[Event]]) -> dict[str, list[Event]]:
    """The interactions with their split, without the items that the vocabulary lacks."""
    rule: Any = job.prepare.split
    times = sorted(e.time for events in users.values() for e in events)

    def cut(share: Any) -> int:
        return max(t for t in times if sum(x >= t for x in times) >= share * len(times))

    def codes(history: list[Event]) -> list[str]:
        n = len(history)
        if rule.kind == "time":
            test = cut(exact(rule.test))
            first = cut(exact(rule.test) + exact(rule.validation))
            return ["test" if e.time >= test else "validation" if e.time >= first else "train"
                    for e in history]  # fmt: skip
        if rule.kind == "ratio":
            test, held = (math.floor(n * exact(s)) for s in (rule.test, rule.validation))
        elif rule.events:
            last = [at for at, e in enumerate(history) if e.event in rule.events][-2:]
            if len(last) < 2 or last[0] == 0:
                return ["train"] * n
            return (["train"] * last[0] + ["validation"] * (last[1] - last[0]) + ["test"]
                    + ["after"] * (n - last[1] - 1))  # fmt: skip
        else:
            test = held = int(n >= 3)
        return ["train"] * (n - test - held) + ["validation"] * held + ["test"] * test

    found: dict[str, list[Event]] = {}
    for user, events in users.items():
        by_session = job.prepare.session_gap is not None
        sessions = sorted({e.session for e in events}) if by_session else [None]
        parts = [[e for e in events if s is None or e.session == s] for s in sessions]
        found[user] = [
            Event(e.time, e.item, e.rating, e.event, e.session, code)
            for part in parts
            for e, code in zip(part, codes(part), strict=True)
            if code != "after"
        ]
    trained = {e.item for events in found.values() for e in events if e.split == "train"}
    of_all = job.prepare.vocabulary.of == "all" or job.prepare.vocabulary.hashed is not None
    kept = {u: [e for e in events if of_all or e.item in trained] for u, events in found.items()}
    return {user: events for user, events in kept.items() if events}


@dataclass(frozen=True)
class Target:
    """A held-out interaction with its history."""

    user: str
    event: Event
    history: list[Event]
    seen: set[str]


def targets_of(job: RunConfig, users: dict[str, list[Event]]) -> tuple[list[Target], Counter[str]]:
    """All targets, and the interactions of the split that are none, by reason."""
    assert job.evaluate is not None
    splits = ["train", "validation", "test"]
    evaluated = splits.index(job.evaluate.split)
    held: Any = job.prepare.split
    wanted = job.evaluate.events or getattr(held, "events", None) or ["view", "buy"]
    found, left_out = [], Counter[str]()
    for user, events in users.items():
        for i, event in enumerate(events):
            if event.split != job.evaluate.split:
                continue
            if event.event not in wanted:
                left_out["other_event"] += 1
                continue
            known = [e for e in events if splits.index(e.split) < evaluated]
            history = known
            if job.prepare.session_gap is not None:
                history = [e for e in events[:i] if e.session == event.session]
                history = [e for e in history if splits.index(e.split) <= evaluated]
                known = [e for e in known if e.session < event.session] + history
            if not history:
                left_out["no_history"] += 1
                continue
            seen = {e.item for e in known}
            if event.item in seen and job.evaluate.targets == "new":
                left_out["repeated"] += 1
                continue
            found.append(Target(user, event, history, seen))
    return found, left_out


def check_run(seed: int, folder: Path) -> None:
    """One random run, and all that must hold of it."""
    draw = Random(seed)
    job = random_job(draw, folder)
    users = split_log(job, write_log(draw, folder / "log.csv"))
    manifest, _ = prepared(job)
    check_prepared(manifest, users)
    run = RunFolder.of(job.storage, job.name)
    run.job.write_text(p5dist.config.dump_job(job))
    for stage in job.trainings():
        _, lines = run_session(job, stage)
        assert all(math.isfinite(line["loss"]) for line in lines)
        result = audit(job, stage)
        assert result.exact and result.epochs == 1 and result.trained == manifest.histories
    table = pq.read_table(Path(run.prepare.path) / "vocabulary/item.parquet").to_pylist()
    check_lists(job, run, users)
    check_evaluation(job, run, users, {v["external_id"]: v["id"] for v in table})


def check_prepared(manifest: Manifest, users: dict[str, list[Event]]) -> None:
    splits = Counter(e.split for events in users.values() for e in events)
    assert manifest.rows_by_split == {s: splits[s] for s in ("train", "validation", "test")}
    assert manifest.users == len(users)
    assert manifest.rows_in == manifest.rows_kept + sum(manifest.rows_rejected.values())


def check_lists(job: RunConfig, run: RunFolder, users: dict[str, list[Event]]) -> None:
    """Every user has a list of items of the log, none had before, the best first."""
    assert job.recommend is not None
    recommend.run(job, run)
    lists: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(Path(run.recommend.path).glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            lists.setdefault(row["user_id"], []).append(row)
    known = {e.item for events in users.values() for e in events}
    hashed = job.prepare.vocabulary.hashed is not None
    for user, events in users.items():
        mine, had = lists.get(user, []), {e.item for e in events}
        assert [row["rank"] for row in mine] == list(range(1, len(mine) + 1))
        items = [row["item_id"] for row in mine]
        assert set(items) <= known and len(set(items)) == len(items)
        scores = [row["score"] for row in mine]
        assert scores == sorted(scores, reverse=True)
        if job.recommend.mask_seen:
            assert not had & set(items)
        if not hashed:  # ids of hashed vocabularies stand for several items
            left = len(known) - (len(had) if job.recommend.mask_seen else 0)
            assert len(mine) == min(job.recommend.k, left)
    assert set(lists) <= set(users)


def check_evaluation(
    job: RunConfig, run: RunFolder, users: dict[str, list[Event]], ids: dict[str, int]
) -> None:
    """Counts of targets, the popularity baseline, metrics from ranks, ranks from the Python API."""
    assert job.evaluate is not None
    targets, left_out = targets_of(job, users)
    if not targets:
        return
    result = evaluate.run(job, run)
    protocol, ks = result["protocol"], job.evaluate.k
    hashed = job.prepare.vocabulary.hashed is not None
    if not hashed:
        assert protocol["left_out"] == dict(left_out)
        assert protocol["targets"] == len(targets)
        ranks = [rank_by_popularity(job, target, ids) for target in targets]
        assert_metrics(result["baselines"]["popularity"], ranks, ks)
    assert protocol["targets"] + sum(protocol["left_out"].values()) == protocol["interactions"]
    found = pq.read_table(Path(run.evaluate.path) / "targets.parquet").to_pylist()
    assert_metrics(
        {name: value["value"] for name, value in result["metrics"].items()},
        [row["rank"] for row in found],
        ks,
    )
    assert all(0 <= result["metrics"][f"coverage@{k}"]["value"] <= 1 for k in ks)
    if not hashed:
        check_ranks(job, run, targets, ids, found)


def rank_by_popularity(job: RunConfig, target: Target, ids: dict[str, int]) -> int | None:
    """Ids fall by count, so the id is the rank among all items."""
    assert job.evaluate is not None
    if not job.evaluate.mask_seen:
        return ids[target.event.item]
    if target.event.item in target.seen:
        return None
    before = sum(ids[item] < ids[target.event.item] for item in target.seen)
    return ids[target.event.item] - before


def assert_metrics(metrics: Any, ranks: list[int | None], ks: tuple[int, ...]) -> None:
    for k in ks:
        hits = [rank for rank in ranks if rank is not None and rank <= k]
        for name, gains in {
            "hr": [1.0 for _ in hits],
            "ndcg": [1 / math.log2(rank + 1) for rank in hits],
            "mrr": [1 / rank for rank in hits],
        }.items():
            assert math.isclose(metrics[f"{name}@{k}"], sum(gains) / len(ranks), abs_tol=1e-9)


def check_ranks(
    job: RunConfig,
    run: RunFolder,
    targets: list[Target],
    ids: dict[str, int],
    found: list[dict[str, Any]],
) -> None:
    """The Python API lists all items for the history of a target: the rank is that of the stage,
    up to equal scores."""
    assert job.evaluate is not None
    api = p5dist.load(str(run.root))
    table = api.recommend(
        [[e.item for e in target.history] for target in targets],
        k=len(ids),
        times=[[e.time for e in target.history] for target in targets],
        ratings=[[e.rating for e in target.history] for target in targets],
        events=[[e.event for e in target.history] for target in targets],
        users=[target.user for target in targets],
        mask_seen=False,
    )
    users = pq.read_table(Path(run.prepare.path) / "vocabulary/user.parquet").to_pylist()
    user_ids = {row["external_id"]: row["id"] for row in users}
    ranks = Counter((row["user"], row["item"], row["rank"]) for row in found)
    lists: dict[int, list[tuple[str, float]]] = {}
    for row in table.to_pylist():
        lists.setdefault(row["history"], []).append((row["item_id"], row["score"]))
    possible: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for number, target in enumerate(targets):
        scores = dict(lists[number])
        mine = scores[target.event.item]
        key = (user_ids[target.user], ids[target.event.item])
        if job.evaluate.mask_seen and target.event.item in target.seen:
            assert ranks[(*key, None)], "a repeat cannot be ranked"
            ranks[(*key, None)] -= 1
            continue
        masked = target.seen if job.evaluate.mask_seen else set()
        others = [s for item, s in scores.items() if item not in masked | {target.event.item}]
        close = 1e-4 * (1 + abs(mine))
        low = 1 + sum(s > mine + close for s in others)
        high = 1 + sum(s > mine - close for s in others)
        possible.setdefault(key, []).append((high, low))
    for key, ends in possible.items():
        # Of targets of one user and item, the one with the fewest ranks to choose from is first.
        for high, low in sorted(ends):
            rank = next((r for r in range(low, high + 1) if ranks[(*key, r)]), None)
            assert rank is not None, (key, low, high)
            ranks[(*key, rank)] -= 1


def start_group() -> None:
    """The process group of one process that training needs."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())


if __name__ == "__main__":
    start_group()
    try_seeds(check_run)
