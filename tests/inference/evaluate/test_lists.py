"""Metrics of lists, segments and the long tail of the evaluate stage, against loops over the
shards: with several targets a user, repeats, cold items, with and without sessions."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from p5dist.config import RunConfig, parse_job
from p5dist.data import columns as c
from p5dist.inference.evaluate import stage
from p5dist.prepare import stage as prepare
from p5dist.storage import RunFolder
from tests.fake_scorer import item_matrix, load_fake
from tests.prepare.runs import processes

KS = (1, 3, 10, 40)  # 40: longer than the catalogue
NAMES = [f"i{n}" for n in range(24)]
GENRES = {name: [["red", "blue", "odd"][n % 3], "odd"][: 1 + n % 2] for n, name in enumerate(NAMES)}
GENRES["i5"] = []
DAY = 86_400
JOB = """
name: run
storage: {folder}
seed: 5
prepare:
  source: {{files: {folder}/log.csv, columns: {{timestamp: time}}}}
  items:
    files: {folder}/items.csv
    id: item_id
    attributes: {{genre: {{kind: multi, separator: "|"}}, brand: {{kind: category}}}}
  split: {{kind: ratio, validation: 0.2, test: 0.3}}
  vocabulary: {{of: all}}
  shards: 3
feed: {{lanes: 2, unit_rows: 8}}
model: {{dim: 8}}
pretrain: {{steps: 1, batch_size: 8}}
ranking: {{item_to_item: 0, returns: false}}
evaluate: {{k: [40, 1, 10, 3], bootstrap: 50, batch_size: 5}}
scale: {{actors: 1}}
"""


@dataclass
class Made:
    """An evaluated run."""

    job: RunConfig
    folder: RunFolder
    result: dict[str, Any]


@dataclass
class Target:
    """One held-out interaction."""

    user: int
    item: int
    time: int
    history: list[int]
    seen: set[int]
    list_: tuple[int, int]
    """Targets with the same one share a list."""


def make(folder: Path, *overrides: str) -> tuple[RunConfig, RunFolder]:
    """Prepare a log of 30 users who come back to items, and often end with i20…i23; u99 has had
    the whole catalogue, i20…i23 after the training interactions."""
    draw = random.Random(3)
    rows = []
    for user in range(30):
        time, length = draw.randrange(40 * DAY), draw.randrange(1, 24)
        for number in range(length):
            time += draw.choice([600, 600, 600, 2 * DAY])
            item = min(int(draw.expovariate(0.2)), 19)
            if number > 0.8 * length and draw.random() < 0.3:
                item = draw.randrange(20, 24)
            rows.append((f"u{user}", NAMES[item], time))
    everything = [*NAMES[:20], *["i1"] * 5, *NAMES[20:], *["i1"] * 21]  # 50
    rows += [("u99", name, 70 * DAY + 60 * n) for n, name in enumerate(everything)]
    log = "".join(f"{u},{i},{t}\n" for u, i, t in rows)
    (folder / "log.csv").write_text("user_id,item_id,time\n" + log)
    about = "".join(f"{n},{'|'.join(GENRES[n])},brand {n}\n" for n in NAMES)
    (folder / "items.csv").write_text("item_id,genre,brand\n" + about)
    job = parse_job(JOB.format(folder=folder), list(overrides))
    run = RunFolder.of(job.storage, job.name)
    prepare.run(job, run, processes())
    return job, run


@pytest.fixture(scope="module", params=["users", "sessions", "unmasked"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    overrides = {
        "users": [],
        "sessions": [f"prepare.session_gap={DAY}"],
        "unmasked": ["evaluate.mask_seen=false", "evaluate.diversity_by=genre"],
    }[request.param]
    job, folder = make(tmp_path_factory.mktemp(request.param), *overrides)
    return Made(job, folder, stage.run(job, folder, load=load_fake))


def rows_of(folder: RunFolder) -> dict[int, list[tuple[int, int, int, int]]]:
    """By user (item, time, split, session), in the order of time."""
    found: dict[int, list[tuple[int, int, int, int]]] = defaultdict(list)
    session = 0
    for shard in sorted(Path(folder.prepare.path, "shards").glob("*.parquet")):
        for row in pq.read_table(shard).to_pylist():
            session += not row[c.CONTINUES]
            for of in zip(row[c.ITEM], row[c.TIMESTAMP], row[c.SPLIT], strict=True):
                found[row[c.USER]].append((*of, session))
    return found


def targets_of(made: Made) -> list[Target]:
    sessions = made.job.prepare.session_gap is not None
    found = []
    for user, rows in rows_of(made.folder).items():
        known = [item for item, _, split, _ in rows if split < c.TEST]
        for at, (item, time, split, session) in enumerate(rows):
            if split != c.TEST:
                continue
            history, seen = known, set(known)
            if sessions:
                history = [i for i, _, _, s in rows[:at] if s == session]
                seen = set(history)
                seen |= {i for i, _, p, s in rows if s < session and p < c.TEST}
            if history:
                place = (user, at if sessions else 0)
                found.append(Target(user, item, time, history, seen, place))
    return found


def counts_of(made: Made) -> tuple[Counter[int], Counter[int], int]:
    """Training interactions and users by item, and the number of users who train."""
    count, users, everybody = Counter[int](), Counter[int](), 0
    for rows in rows_of(made.folder).values():
        trained = [item for item, _, split, _ in rows if split == c.TRAIN]
        count.update(trained)
        users.update(set(trained))
        everybody += bool(trained)
    return count, users, everybody


def lists_of(made: Made, ranker: str) -> dict[tuple[int, int], list[int]]:
    """The whole order of the catalogue for every list."""
    items, count = len(NAMES), counts_of(made)[0]
    matrix, masked = item_matrix(items), made.job.evaluate.mask_seen
    found = {}
    for target in targets_of(made):
        scores = {i: float(count[i]) for i in range(1, items + 1)}
        if ranker == "model":
            own = matrix @ matrix[np.array(target.history) - 1].sum(0)
            scores = dict(enumerate(own.tolist(), 1))
        hidden = target.seen if masked else set()
        ids = [i for i in scores if i not in hidden]
        found[target.list_] = sorted(ids, key=lambda i: (-scores[i], i))
    return found


def of_lists(made: Made, ranker: str, k: int) -> dict[str, float]:
    """The expected metrics of lists at k."""
    orders = lists_of(made, ranker)
    wanted = defaultdict(set)
    for target in targets_of(made):
        wanted[target.list_].add(target.item)
    count, users, everybody = counts_of(made)
    n, distinct = len(NAMES), sorted({count[i] for i in count}, reverse=True)
    names = external_ids(made)
    matrix = item_matrix(n).astype(np.float64)

    def apart(a: int, b: int) -> float:
        if made.job.evaluate.diversity_by == "genre":
            x, y = set(GENRES[names[a - 1]]), set(GENRES[names[b - 1]])
            return 1 - len(x & y) / len(x | y) if x | y else 0.0
        x, y = matrix[a - 1], matrix[b - 1]
        return float(1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    found = defaultdict(list)
    times = Counter(dict.fromkeys(range(1, n + 1), 0))
    for key, order in orders.items():
        shown, own = order[:k], wanted[key]
        ranks = sorted(shown.index(i) + 1 for i in own if i in shown)
        found["precision"].append(len(ranks) / k)
        found["recall"].append(len(ranks) / len(own))
        found["map"].append(sum((j + 1) / r for j, r in enumerate(ranks)) / len(own))
        ideal = sum(1 / math.log2(j + 2) for j in range(min(k, len(own))))
        found["list_ndcg"].append(sum(1 / math.log2(r + 1) for r in ranks) / ideal)
        surprise = 0.0
        for rank, item in enumerate(shown, 1):
            q = (n + 1 - (distinct.index(count[item]) + 1)) / n if count[item] else 0.0
            surprise += (item in own) * max((n + 1 - rank) / n - q, 0)
        found["serendipity"].append(surprise / max(len(shown), 1))
        pairs = [apart(a, b) for a, b in itertools.combinations(shown, 2)]
        found["diversity"].append(fmean(pairs) if pairs else 0.0)
        times.update(shown)
        if shown:
            found["popularity"].append(fmean(count[i] for i in shown))
            found["novelty"].append(fmean(-math.log2(max(users[i], 1) / everybody) for i in shown))
    rising = sorted(times.values())
    gini = sum((2 * j - n - 1) * x for j, x in enumerate(rising, 1)) / ((n - 1) * sum(rising))
    means = {name: fmean(values) for name, values in found.items()}
    return {**means, "gini": gini, "coverage": sum(x > 0 for x in rising) / n}


def external_ids(made: Made) -> list[str]:
    table = pq.read_table(Path(made.folder.prepare.path, "vocabulary/item.parquet"))
    return table[c.EXTERNAL_ID].to_pylist()


def test_the_case_has_what_makes_lists_differ(made: Made) -> None:
    targets, count = targets_of(made), counts_of(made)[0]
    assert len(targets) == made.result["protocol"]["targets"] > 60
    assert made.result["protocol"]["lists"] == len({t.list_ for t in targets})
    assert any(t.item in t.seen for t in targets), "a repeat"
    assert any(count[t.item] == 0 for t in targets), "a cold item"
    wanted = Counter((t.list_, t.item) for t in targets)
    if made.job.prepare.session_gap is None:
        assert max(wanted.values()) > 1, "a target twice"
        assert any(len(set(t.seen)) == len(NAMES) for t in targets), "an empty list"


@pytest.mark.parametrize("ranker", ["model", "popularity"])
def test_metrics_of_lists(made: Made, ranker: str) -> None:
    metrics = made.result["metrics"]
    found = {name: m["value"] for name, m in metrics.items()}
    if ranker != "model":
        found = made.result["baselines"][ranker]
        assert set(found) == set(metrics)
    for k in KS:
        for name, expected in of_lists(made, ranker, k).items():
            assert found[f"{name}@{k}"] == pytest.approx(expected, abs=1e-6), f"{name}@{k}"
    without = {"coverage", "gini", "popularity", "novelty", "diversity"}
    for name, m in metrics.items():
        if name.split("@")[0] in without:
            assert m["low"] is m["high"] is None
        else:
            assert m["low"] <= m["value"] <= m["high"]
        assert made.result["metric_info"][name]["title"] in ("Ranking", "Lists")


def segments_of(made: Made, target: Target) -> dict[str, set[str]]:
    """By family the segments that a target is in."""
    count = counts_of(made)[0]
    order = sorted(range(1, len(NAMES) + 1), key=lambda i: (-count[i], i))
    before = sum(count[i] for i in order[: order.index(target.item)]) / sum(count.values())
    part = "tail" if before >= 0.8 or not count[target.item] else "middle"
    length = len(target.history)
    lengths = {"1–4": 1, "5–9": 5, "10–19": 10, "20–49": 20, "50+": 50}
    genres = GENRES[external_ids(made)[target.item - 1]]
    day = datetime.fromtimestamp(target.time / 1e6, timezone.utc)
    repeated = {"item": {"had before" if target.item in target.seen else "new to the user"}}
    return repeated | {
        "history length": {[label for label, least in lengths.items() if length >= least][-1]},
        "item popularity": {"head" if before < 0.2 else part},
        "item in training": {"warm" if count[target.item] else "cold"},
        "time": {f"{day:%Y-%m}"},
        "genre": set(genres) or {"no value"},
        "brand": {f"brand {external_ids(made)[target.item - 1]}"},
    }


def test_segments(made: Made) -> None:
    targets = targets_of(made)
    families = {entry["family"]: entry["segments"] for entry in made.result["segments"]}
    places = [segments_of(made, target) for target in targets]
    assert list(families) == list(places[0])
    orders = {name: lists_of(made, name) for name in ("model", "popularity")}
    for family, segments in families.items():
        labels = {label for place in places for label in place[family]}
        shown = {segment["label"] for segment in segments}
        if len(labels) > 20:  # 20 of the brands, and the others together
            assert len(shown) == 21 and shown - labels == {"other values"}
        else:
            assert shown == labels
        for segment in segments:
            if segment["label"] == "other values":
                continue
            own = [t for t, p in zip(targets, places, strict=True) if segment["label"] in p[family]]
            assert segment["targets"] == len(own)
            assert segment["users"] == len({t.user for t in own})
            for name, order in orders.items():
                found = segment["baselines"].get(name)
                if name == "model":
                    found = {key: m["value"] for key, m in segment["metrics"].items()}
                ranks = [
                    order[t.list_].index(t.item) + 1 if t.item in order[t.list_] else 10**9
                    for t in own
                ]
                assert found["hr@10"] == pytest.approx(fmean(r <= 10 for r in ranks))
                gains = [1 / math.log2(r + 1) if r <= 10 else 0.0 for r in ranks]
                assert found["ndcg@10"] == pytest.approx(fmean(gains))
            for measured in segment["metrics"].values():
                if segment["users"] > 1:
                    assert 0 <= measured["low"] <= measured["value"] <= measured["high"] <= 1


def test_long_tail(made: Made) -> None:
    tail = made.result["long_tail"]
    assert tail["k"] == 10
    count = counts_of(made)[0]
    part_of = {}
    for item in range(1, len(NAMES) + 1):
        target = Target(1, item, 0, [1], set(), (1, 1))
        (part_of[item],) = segments_of(made, target)["item popularity"]
    listed = Counter[str]()
    for order in lists_of(made, "model").values():
        listed.update(part_of[i] for i in order[:10])
    for part in tail["parts"]:
        label = part["label"]
        items = [i for i in part_of if part_of[i] == label]
        assert part["items"] == pytest.approx(len(items) / len(NAMES))
        trained = sum(count[i] for i in items) / sum(count.values())
        assert part["training"] == pytest.approx(trained)
        own = fmean(part_of[t.item] == label for t in targets_of(made))
        assert part["targets"] == pytest.approx(own)
        assert part["listed"]["model"] == pytest.approx(listed[label] / sum(listed.values()))
        assert set(part["listed"]) == {"model", *made.result["baselines"]}


@pytest.mark.usefixtures("ray_session")
def test_several_actors_find_the_same(made: Made) -> None:
    job = made.job.model_copy(update={"scale": made.job.scale.model_copy(update={"actors": 3})})
    file = Path(made.folder.evaluate.path, "targets.parquet")
    before = pq.read_table(file)
    result = stage.run(job, made.folder, load=load_fake)
    for key in ("metrics", "baselines", "segments", "long_tail", "protocol", "metric_info"):
        assert result[key] == made.result[key]
    assert pq.read_table(file) == before


def test_chosen_attributes(tmp_path: Path) -> None:
    job, folder = make(tmp_path, "evaluate.segments_by=[brand]", "evaluate.diversity_by=null")
    result = stage.run(job, folder, load=load_fake)
    assert [entry["family"] for entry in result["segments"]][-2:] == ["time", "brand"]
    assert not any(name.startswith("diversity") for name in result["metrics"])
    assert result["protocol"]["diversity_by"] is None
