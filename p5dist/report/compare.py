"""``p5dist compare``: evaluated runs on the same targets. How it is shown: compare_show.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from p5dist.data import columns as c
from p5dist.data.jagged import Ints
from p5dist.errors import ConfigError
from p5dist.ranking.families import families
from p5dist.ranking.paired import Examples, compare, ranked_examples, rated_examples
from p5dist.ranking.results import RANKING
from p5dist.ranking.segments import Segments
from p5dist.report.evaluated import MODEL, Evaluated, Pairs, Side, pair, read_sides

RESAMPLES, SEED = 1000, 1
_RATED = (c.RATING, "predicted")
_LENGTH, _REPEATED = "history_length", "repeated"
_SAME = ("mask_seen", "targets_wanted", "catalogue", "ranked_ids", "max_length", "histories",
         "share_of_users")  # fmt: skip
"""Keys of the protocol that compared runs should agree in."""


def segments_of(run: Evaluated) -> list[Segments]:
    """The families of segments of the targets [M] of a run; none for a run that was evaluated by a
    version of p5dist whose evaluate/targets.parquet lacks the columns."""
    table = run.targets
    if not {_LENGTH, _REPEATED, c.TIMESTAMP} <= set(table.column_names):
        return []
    vocabulary = (run.folder.prepare / "vocabulary/item.parquet").read_table([c.COUNT])
    item, length, time = (np.asarray(table[name]) for name in (c.ITEM, _LENGTH, c.TIMESTAMP))
    return families(
        run.job, run.folder.prepare, run.manifest, vocabulary[c.COUNT].to_numpy(), item, length,
        time, np.asarray(table[_REPEATED]),
    )  # fmt: skip


def compare_runs(
    words: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Any]:
    """Compare runs on the targets that all of them have.

    Args:
        words: the sides, see :func:`.evaluated.read_sides`; the first is the reference.
        resamples: 0 gives no intervals.

    Returns:
        The content of ``p5dist compare --json``: ``sides``, ``targets``, ``users``, ``warnings``,
        ``metrics``, ``segments``, ``method``.

    Raises:
        RunFolderError, ConfigError: as :func:`.evaluated.read_sides` and :func:`.evaluated.pair`;
            runs of different splits; nothing that all runs are measured by.
    """
    if len(words) < 2:
        raise ConfigError(
            "one run cannot be compared", where="p5dist compare", value=" ".join(words),
            rule="two or more runs, or a run and one of its baselines",
            fix="for example p5dist compare runs/a runs/b, or runs/a runs/a:popularity",
        )  # fmt: skip
    return compare_sides(read_sides(words), resamples=resamples, seed=seed)


def compare_sides(
    sides: list[Side],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    segments: bool = True,
) -> dict[str, Any]:
    """As :func:`compare_runs`, of sides that were read; a single side is measured, but compared
    with nothing."""
    runs = [run for side in sides for run in side.runs]
    _check_splits(runs)
    pairs = pair(runs)
    _check_enough(runs, pairs)
    measured = _Measured(sides, runs, pairs, resamples, seed)
    metrics = measured.ranking() + measured.ratings()
    if not metrics:
        raise ConfigError(
            "the runs have no metric in common", where="p5dist compare",
            value=" ".join(side.label for side in sides),
            rule="all runs rank, or all runs predict ratings; a baseline only ranks",
            fix="name runs with the same kind of stage",
        )  # fmt: skip
    return {
        "sides": [
            {"label": side.label, "runs": [_about(run) for run in side.runs]} for side in sides
        ],
        "targets": len(pairs),
        "users": len(np.unique(measured.user)),
        "paired_by": pairs.by,
        "warnings": _warnings(runs, pairs) + measured.warnings,
        "metrics": metrics,
        "segments": measured.segments() if segments else [],
        "method": {
            "interval": "95 % percentile interval of paired resamples of users"
            + (" and runs" if len(runs) > len(sides) else ""),
            "resamples": resamples,
            "seed": seed,
            "same_seeds": measured.matched,
        },
    }


class _Measured:
    """The comparison of all metrics of paired targets."""

    def __init__(
        self, sides: list[Side], runs: list[Evaluated], pairs: Pairs, resamples: int, seed: int
    ) -> None:
        self.runs, self.pairs, self.resamples, self.seed = runs, pairs, resamples, seed
        ends = np.cumsum([len(side.runs) for side in sides]).tolist()
        self.sides = [list(range(a, b)) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        seeds = [side.seeds for side in sides]
        self.matched = all(len(own) > 1 and own == seeds[0] for own in seeds)
        self.user: Ints = np.asarray(runs[0].targets[c.USER])[pairs.rows[0]]
        self.ks = tuple(sorted(set.intersection(*(run.ks for run in runs))))
        self.ranked = all(run.has_ranks for run in runs)
        self.warnings: list[str] = []

    def ranking(self) -> list[dict[str, Any]]:
        return self._listed(self._ranked(), RANKING) if self.ranked else []

    def ratings(self) -> list[dict[str, Any]]:
        """rmse and mae of every task with predicted ratings that all runs have."""
        if any(run.ranker != MODEL for run in self.runs):
            return []
        columns = set.intersection(*(set(run.targets.column_names) for run in self.runs))
        tasks = sorted(n.rpartition(":")[0] for n in columns if n.endswith(f":{_RATED[1]}"))
        prefixes = [f"{task}:" for task in tasks] or [""]
        found = []
        for prefix in prefixes:
            rating, predicted = (f"{prefix}{name}" for name in _RATED)
            if {rating, predicted} <= columns:
                title = f"Rating: {prefix[:-1]}" if prefix else "Rating"
                found += self._listed(self._rated(rating, predicted), title, prefix[:-1])
        return found

    def segments(self) -> list[dict[str, Any]]:
        """The main metric within every segment."""
        if not self.ranked:
            return []
        main = "ndcg@10" if 10 in self.ks else f"ndcg@{self.ks[-1]}" if self.ks else "accuracy"
        examples, found = self._ranked(), []
        rows = self.pairs.rows[0]
        for family in segments_of(self.runs[0]):
            groups = []
            for number, label in enumerate(family.labels):
                chosen = np.zeros(len(self.runs[0].targets), dtype=bool)
                chosen[family.target[family.code == number]] = True
                inside = np.flatnonzero(chosen[rows])
                measures = {main: _inside(examples.measures[main], inside)}
                some = replace(
                    examples, user=examples.user[inside], measures=measures,
                    results=[values[inside] for values in examples.results],
                )  # fmt: skip
                groups += [{"label": label} | one for one in self._listed(some, RANKING)]
            found.append({"name": family.family, "metric": main, "groups": groups})
        return found

    def _ranked(self) -> Examples:
        ranks = [run.ranks[rows] for run, rows in zip(self.runs, self.pairs.rows, strict=True)]
        return ranked_examples(self.user, ranks, self.ks)

    def _rated(self, rating: str, predicted: str) -> Examples:
        taken = list(zip(self.runs, self.pairs.rows, strict=True))
        ratings = np.stack([run.floats(rating)[rows] for run, rows in taken])
        predictions = [run.floats(predicted)[rows] for run, rows in taken]
        there = ~np.isnan(ratings).any(0) & ~np.isnan(np.stack(predictions)).any(0)
        other = there & (ratings != ratings[0]).any(0)
        if other.any():
            self.warnings.append(
                f"{other.sum():,} targets have another rating in another run, and are left out of "
                "rmse and mae"
            )
        keep = np.flatnonzero(there & ~other)
        return rated_examples(self.user[keep], [p[keep] for p in predictions], ratings[0][keep])

    def _listed(self, examples: Examples, title: str, task: str = "") -> list[dict[str, Any]]:
        found = compare(
            examples, self.sides, resamples=self.resamples, seed=self.seed, matched=self.matched
        )
        return [{"title": title, "task": task} | asdict(one) for one in found]


def _inside(measure: Callable[[int], Any], rows: Ints) -> Callable[[int], Any]:
    return lambda run: measure(run)[rows]


def _about(run: Evaluated) -> dict[str, Any]:
    return {
        "name": run.job.name,
        "folder": str(run.folder.root),
        "ranker": run.ranker,
        "train_seed": run.job.training_seed,
        "targets": len(run.targets),
    }


def _check_splits(runs: list[Evaluated]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for key, one, other in (
            ("evaluate.split", first.protocol["split"], run.protocol["split"]),
            ("prepare.split.kind", first.job.prepare.split.kind, run.job.prepare.split.kind),
        ):
            if one != other:
                raise ConfigError(
                    f"{first.name} and {run.name} were evaluated on different splits", where=key,
                    value=f"{one} and {other}", rule="runs are compared on the same held-out data",
                    fix=f"evaluate both with the same {key}",
                )  # fmt: skip


def _check_enough(runs: list[Evaluated], pairs: Pairs) -> None:
    fewest = min(len(run.targets) for run in runs)
    if len(pairs) and 2 * len(pairs) >= fewest:
        return
    counts = ", ".join(f"{run.name} {len(run.targets):,}" for run in runs)
    reasons = _differences(runs)
    raise ConfigError(
        "the runs have too few targets in common", where="evaluate/targets.parquet",
        value=f"{len(pairs):,} in all runs, by {pairs.by}; targets: {counts}; "
        + ("; ".join(reasons) if reasons else "the protocols agree, so the logs differ"),
        rule="at least half of the targets of the run with the fewest are in all runs",
        fix="evaluate the runs with the same prepare.split, evaluate.targets and evaluate.users, "
        "on the same log",
    )  # fmt: skip


def _differences(runs: list[Evaluated]) -> list[str]:
    """What the protocols differ in, in words."""
    first, found = runs[0], []
    for key in _SAME:
        values = [run.protocol.get(key) for run in runs]
        known = [value for value in values if value is not None]
        if any(value != known[0] for value in known[1:]):
            found.append(f"{key}: " + ", ".join(_shown(value) for value in values))
    shares = [run.protocol.get("share_of_users", 1.0) for run in runs]
    seeds = [run.protocol.get("seed") for run in runs]
    if min(shares) < 1 and len(set(seeds)) > 1:
        found.append(f"seed that chooses the users: {', '.join(map(str, seeds))}")
    rules = [run.manifest.split for run in runs]
    found += [
        f"prepare.split: {first.name} {rules[0]}; {run.name} {rule}"
        for run, rule in zip(runs, rules, strict=True)
        if rule != rules[0]
    ]
    return found


def _warnings(runs: list[Evaluated], pairs: Pairs) -> list[str]:
    found = [f"the protocols differ in {text}" for text in _differences(runs)]
    left = [(run.name, len(run.targets) - len(pairs)) for run in runs]
    if any(n for _, n in left):
        counts = ", ".join(f"{n:,} of {name}" for name, n in left)
        found.append(f"targets that not all runs have are left out: {counts}")
    unnamed = [(run.name, n) for run in runs if (n := run.manifest.unnamed_items)]
    if unnamed and pairs.by == "external ids":
        counts = ", ".join(f"{n:,} of {name}" for name, n in unnamed)
        found.append(
            f"hashed ids name the most frequent item of an id: {counts} items have no name of "
            "their own, and their targets may be paired with targets of other items"
        )
    return found


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
